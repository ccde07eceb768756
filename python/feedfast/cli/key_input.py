"""The keys that `feedfast vocab` reads: text lines, standard input, Parquet columns."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from feedfast.cli.console import Progress
from feedfast.vocab_sources import iter_lines

STDIN = "-"
_PARQUET_MAGIC = b"PAR1"
_VOCABULARY_MAGIC = b"FFVOCAB\0"

KeyBatch: TypeAlias = Any
"""Keys of `feedfast.vocab_sources`, or a pyarrow array of strings or binaries."""


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
            yield from iter_lines(sys.stdin.buffer if source == STDIN else source)


def show_rate(batches: Iterable[KeyBatch], progress: Progress) -> Iterator[KeyBatch]:
    """Passes batches on and shows how many keys they had, and keys/s."""
    num_keys = 0
    start = time.monotonic()
    for batch in batches:
        yield batch
        num_keys += len(batch)
        rate = num_keys / max(time.monotonic() - start, 1e-9)
        progress.update(num_keys, None, f"keys, {rate:,.0f} keys/s")
