"""Keys of a vocabulary from text files, one key per line, without a Python object per key."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import IO

from feedfast import _core

__all__ = ["iter_lines", "read_lines"]


def read_lines(path: str | os.PathLike[str]) -> _core.PackedKeys:
    r"""The lines of a file as keys for `Vocabulary.build`, in the order of the file.

    A line ends with `\n` or `\r\n`, the last one also with the file. These are the keys that Keras'
    StringLookup reads from a vocabulary file, but for empty lines: it refuses them, here they are
    the empty key. Bytes are taken as they are, whatever their encoding.

    Returns:
        [n] keys with the Arrow interface: the bytes of the lines and 8 bytes per key.

    Raises:
        OSError: The file does not exist or cannot be read.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # a pipe too; neither can be mapped
            return _core.split_lines(file.read(), is_last=True)[0]
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return _core.split_lines(text, is_last=True)[0]


def iter_lines(
    source: str | os.PathLike[str] | IO[bytes], *, batch_bytes: int = 64 << 20
) -> Iterator[_core.PackedKeys]:
    """`read_lines` in batches, for files larger than memory and for pipes.

    Args:
        source: A path, or an open binary file such as `sys.stdin.buffer`, of which the lines are
            handed on as they arrive.
        batch_bytes: About the largest size of a batch; one line is never split.

    Yields:
        Batches of at least one key, in the order of the file.

    Raises:
        OSError: As `read_lines`.
        ValueError: `batch_bytes` is below 1.
    """
    if batch_bytes < 1:
        raise ValueError(f"batch_bytes must be at least 1; got {batch_bytes}")
    if not isinstance(source, (str, os.PathLike)):
        yield from _batches(source, batch_bytes)
        return
    with open(source, "rb") as file:
        yield from _batches(file, batch_bytes)


def _batches(file: IO[bytes], batch_bytes: int) -> Iterator[_core.PackedKeys]:
    # read1 takes what a pipe has; read would wait for a whole batch.
    read = getattr(file, "read1", file.read)
    rest = b""
    while True:
        block = read(batch_bytes)
        text = rest + block
        keys, consumed = _core.split_lines(text, is_last=not block)
        rest = text[consumed:]
        if len(keys) > 0:
            yield keys
        if not block:
            return
