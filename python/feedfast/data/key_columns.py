"""Columns of string keys in Parquet files, read in batches that fit memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feedfast.data.keys import to_numpy
from feedfast.data.log import parquet_files
from feedfast.data.schema import is_key, is_key_list
from feedfast.vocab import ArrowArray

_BATCH_ROWS = 65_536


class KeyBatch(NamedTuple):
    """Some keys of a column.

    Attributes:
        keys: [n] Arrow strings or binaries, none null.
        rows: [n] int64, the integers beside them, if asked for.
    """

    keys: pa.Array
    rows: NDArray[np.int64] | None


def read_keys(
    source: str | os.PathLike[str],
    *,
    columns: Sequence[str] = (),
    rows_column: str | None = None,
    drop_missing: bool = False,
) -> Iterator[KeyBatch]:
    """The keys of Parquet columns, file after file, batch after batch, none of them empty.

    Args:
        source: File, or folder that is searched for `*.parquet`.
        columns: String or binary columns, or lists of them, which are flattened. By default the
            only such column of the file.
        rows_column: Integers of the same length; goes with one column that is not a list.
        drop_missing: Leave null keys out instead of refusing them.

    Raises:
        FileNotFoundError: The source does not exist or holds no Parquet file.
        ValueError: A file is no Parquet, a column is absent or of another type, or a value is null.
    """
    for path in parquet_files(source):
        if path.stat().st_size == 0:
            raise ValueError(f"{path}: is empty (0 bytes), not a Parquet file")
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                names = _key_columns(path, file.schema_arrow, columns)
                if rows_column is not None:
                    _check_rows_column(path, file.schema_arrow, names, rows_column)
                yield from _read_file(path, file, names, rows_column, drop_missing)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: cannot be read as Parquet: {error}") from error


def _read_file(
    path: Path,
    file: pq.ParquetFile,
    names: Sequence[str],
    rows_column: str | None,
    drop_missing: bool,
) -> Iterator[KeyBatch]:
    read = [*names, rows_column] if rows_column is not None else list(names)
    first_row = 0
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=read):
        rows = None
        if rows_column is not None:
            numbers = batch.column(rows_column)
            _refuse_null(path, rows_column, numbers, first_row)
            rows = to_numpy(numbers.cast(pa.int64()))
        for name in names:
            keys = _plain(batch.column(name))
            if drop_missing:
                keys = keys.drop_null()
            else:
                _refuse_null(path, name, keys, first_row)
            if len(keys) > 0:
                yield KeyBatch(keys, rows)
        first_row += len(batch)


def _key_columns(path: Path, schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    usable = [f.name for f in schema if is_key(f.type) or is_key_list(f.type)]
    if not columns:
        if len(usable) == 1:
            return usable
        found = f"{len(usable)} columns of strings: {', '.join(usable)}" if usable else "none"
        raise ValueError(f"{path}: name the column of the keys; the file has {found}")
    for name in columns:
        if name not in schema.names:
            raise ValueError(
                f"{path}: has no column {name!r}; there are: {', '.join(schema.names)}"
            )
        if name not in usable:
            raise ValueError(
                f"{path}: column {name!r} has type {schema.field(name).type}; it must be string or "
                "binary, or a list of them"
            )
    return list(columns)


def _check_rows_column(
    path: Path, schema: pa.Schema, names: Sequence[str], rows_column: str
) -> None:
    if rows_column not in schema.names:
        raise ValueError(
            f"{path}: has no column {rows_column!r}; there are: {', '.join(schema.names)}"
        )
    data_type = schema.field(rows_column).type
    if not pa.types.is_integer(data_type):
        raise ValueError(
            f"{path}: column {rows_column!r} has type {data_type}; rows must be integers"
        )
    if len(names) != 1 or is_key_list(schema.field(names[0]).type):
        raise ValueError(
            f"{path}: rows go with one column of keys that is not a list; got {', '.join(names)}"
        )


def _plain(keys: pa.Array) -> pa.Array:
    """Strings or binaries with offsets, without lists and dictionaries around them."""
    if is_key_list(keys.type):
        keys = keys.flatten()
    if pa.types.is_dictionary(keys.type):
        keys = keys.dictionary_decode()
    # Lists that are all empty may have values of type null.
    if pa.types.is_null(keys.type) or pa.types.is_string_view(keys.type):
        return keys.cast(pa.large_string())
    if pa.types.is_fixed_size_binary(keys.type) or pa.types.is_binary_view(keys.type):
        return keys.cast(pa.large_binary())
    return keys


def _refuse_null(path: Path, name: str, values: pa.Array, first_row: int) -> None:
    if values.null_count:
        index = pc.index(values.is_null(), True).as_py()
        raise ValueError(f"{path}: column {name!r} is null at value {first_row + index}")


class DistinctKeys(NamedTuple):
    """The distinct keys of a stream, in order of first occurrence, and how many keys it had."""

    keys: pa.Array
    num_read: int


def distinct_keys(batches: Iterable[ArrowArray]) -> DistinctKeys:
    """Drops repeated keys.

    Holds the distinct keys, and while it merges twice their bytes and a hash table of them; the
    stream itself may be of any length.

    Args:
        batches: Arrow strings or binaries, or what has their interface.
    """
    merged: pa.Array = pa.array([], type=pa.large_binary())
    pending: list[pa.Array] = []
    num_pending = num_read = 0
    for batch in batches:
        keys = pa.array(batch).cast(pa.large_binary())
        num_read += len(keys)
        one = keys.unique()
        pending.append(one)
        num_pending += len(one)
        # A merge costs as much as there is, so it waits until there is as much again.
        if num_pending > max(len(merged), _BATCH_ROWS):
            merged = pa.concat_arrays([merged, *pending]).unique()
            pending, num_pending = [], 0
    return DistinctKeys(pa.concat_arrays([merged, *pending]).unique(), num_read)
