"""The keys that the commands of `feedfast vocab` read: text lines, standard input, Parquet columns.

Text needs no package beside the base install; a line is a key, whatever its bytes. Lines end with
`\\n` or `\\r\\n`, and an empty line is the empty key.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

from feedfast.cli.console import Progress

STDIN = "-"
_BLOCK_BYTES = 1 << 22
_LONGEST_LINE_BYTES = 1 << 20
_PARQUET_MAGIC = b"PAR1"
_VOCABULARY_MAGIC = b"FFVOCAB\0"

KeyBatch: TypeAlias = Any
"""A list of bytes, or a pyarrow array of strings or binaries."""


def is_parquet(source: str) -> bool:
    """Whether a source is a folder or a Parquet file; anything else is text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is a vocabulary.
    """
    if source == STDIN:
        return False
    path = Path(source)
    if path.is_dir():
        return True
    if not path.is_file():
        return False  # a pipe, or nothing: opening says so
    with path.open("rb") as file:
        magic = file.read(8)
    if magic == _VOCABULARY_MAGIC:
        raise ValueError(f"{source} is a vocabulary, which does not hold its keys")
    return magic.startswith(_PARQUET_MAGIC) or path.suffix == ".parquet"


def text_lines(source: str) -> Iterator[list[bytes]]:
    """The lines of a text file, or of standard input for "-", as they arrive.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is longer than 1 MiB.
    """
    if source == STDIN:
        yield from _lines(source, sys.stdin.buffer)
        return
    with Path(source).open("rb") as file:
        yield from _lines(source, file)


def _lines(source: str, file: IO[bytes]) -> Iterator[list[bytes]]:
    # Whatever a pipe has, not a whole block: a reader at the other end may wait for the rows.
    read = getattr(file, "read1", file.read)
    rest = b""
    num_lines = 0
    while block := read(_BLOCK_BYTES):
        data = rest + block
        lines = data.split(b"\n")
        rest = lines.pop()
        if len(rest) > _LONGEST_LINE_BYTES:  # not text: do not gather all of it
            raise ValueError(
                f"{source}: line {num_lines + len(lines) + 1} is longer than "
                f"{_LONGEST_LINE_BYTES} bytes"
            )
        num_lines += len(lines)
        if lines:
            yield _without_carriage_returns(lines) if b"\r" in data else lines
    if rest:
        yield _without_carriage_returns([rest])


def _without_carriage_returns(lines: list[bytes]) -> list[bytes]:
    return [line[:-1] if line.endswith(b"\r") else line for line in lines]


def read_batches(
    sources: Sequence[str], columns: Sequence[str], *, drop_missing: bool = False
) -> Iterator[KeyBatch]:
    """The keys of all sources, one after the other.

    Args:
        sources: Text files, "-", Parquet files or folders of them.
        columns: Of the Parquet sources; empty for the only column of strings.
        drop_missing: Leave null keys of Parquet columns out instead of refusing them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A source cannot be read, or a column is given for text.
    """
    for source in sources:
        if is_parquet(source):
            from feedfast.data import read_keys

            for batch in read_keys(source, columns=columns, drop_missing=drop_missing):
                yield batch.keys
        elif columns:
            raise ValueError(f"--column {columns[0]} goes with Parquet; {source} is text")
        else:
            yield from text_lines(source)


def show_rate(batches: Iterable[KeyBatch], progress: Progress) -> Iterator[KeyBatch]:
    """Passes batches on and shows how many keys they had, and keys/s."""
    num_keys = 0
    start = time.monotonic()
    for batch in batches:
        yield batch
        num_keys += len(batch)
        rate = num_keys / max(time.monotonic() - start, 1e-9)
        progress.update(num_keys, None, f"keys, {rate:,.0f} keys/s")
