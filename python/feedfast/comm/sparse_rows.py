"""Rows of tables on their way through an engine: sums over a window, owners, one buffer for all.

The gradient of a table that a batch reads here and there is a list of rows and a value for each. A
window adds such lists up (`RowAccumulator`); what it gives is in ascending order, so the rows of an
owner that holds a range of the table lie together (`owner_offsets`). `pack_tables` puts the rows of
several tables into one array of bytes for one exchange, `unpack_tables` takes them out, and
`merge_rows` adds up what several processes sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.comm.engine import Wire, check_float32, check_wire


class RowSums(NamedTuple):
    """The gradient of one table over a window.

    Attributes:
        rows: int64 [n], ascending, each once.
        sums: float32 [n, dim].
        counts: int64 [n]; slices that were added up for each row.
    """

    rows: NDArray[np.int64]
    sums: NDArray[np.float32]
    counts: NDArray[np.int64]


class RowAccumulator:
    """Adds up the row gradients of one table over a window of micro-batches.

    The first slice of a row is stored and later ones are added, in the order in which they come and
    with one float32 rounding each, so the bits do not depend on the machine. Takes the memory of
    the touched rows alone, and keeps it from one window to the next. Safe to use from several
    threads.
    """

    def __init__(self, dim: int) -> None:
        """For a table of `dim` columns; ValueError when there is none."""
        self._native = _core.RowAccumulator(dim)

    @property
    def dim(self) -> int:
        """Columns of the table."""
        return self._native.dim

    @property
    def num_rows(self) -> int:
        """Distinct rows in the window so far."""
        return self._native.num_rows

    @property
    def num_slices(self) -> int:
        """Slices that were added in the window so far."""
        return self._native.num_slices

    def add(self, rows: NDArray[np.integer[Any]], grads: NDArray[Any]) -> None:
        """Adds `grads[i]` to row `rows[i]`, for all i.

        Args:
            rows: [n], integers >= 0 in any order and repeated as they like; int64 is not copied.
            grads: [n, dim], floating; C-contiguous float32 is not copied.

        Raises:
            IndexError: A row is negative; the window is as before.
            ValueError: Other shapes.
        """
        self._native.add(
            np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(grads, np.float32)
        )

    def take(self) -> RowSums:
        """The window's sums; begins a new window."""
        return RowSums(*self._native.take())

    def discard(self) -> None:
        """Begins a new window without a look at this one."""
        self._native.discard()


def merge_rows(
    lists: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]], dim: int, *, scale: float = 1.0
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Adds up lists of rows that are in order already, such as those of several processes.

    Gives the bits of a `RowAccumulator` that is fed list by list, in less time: nothing is hashed
    or sorted.

    Args:
        lists: Rows int64 [n_l], ascending, each once, and their values float32 [n_l, dim].
        dim: Columns of the table.
        scale: What every sum is multiplied by at the end, in float32.

    Returns:
        The rows int64 [n] that any list has, ascending, and their sums float32 [n, dim].

    Raises:
        ValueError: The rows of a list do not ascend, or its shapes do not fit.
    """
    return _core.merge_rows(list(lists), dim, scale)


def owner_offsets(
    rows: NDArray[np.int64], first_rows: NDArray[np.int64] | Sequence[int]
) -> NDArray[np.int64]:
    """Where the rows of each owner lie.

    Args:
        rows: [n], ascending.
        first_rows: [owners + 1], ascending from 0: owner o holds the rows from first_rows[o] up to
            first_rows[o + 1].

    Returns:
        int64 [owners + 1]: owner o holds rows[offsets[o]:offsets[o + 1]].

    Raises:
        IndexError: The last row has no owner.
    """
    if len(rows) and rows[-1] >= first_rows[-1]:
        raise IndexError(f"row {rows[-1]} is not in 0..{first_rows[-1] - 1}")
    return np.searchsorted(rows, first_rows).astype(np.int64)


def pack_tables(
    tables: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]], *, wire: Wire = "exact"
) -> NDArray[np.uint8]:
    """Rows of several tables in one array of bytes.

    Table by table: the number of rows (int64), the rows (int64), their values in the format of the
    wire, and zeros up to a multiple of 8 bytes.

    Args:
        tables: For each table rows int64 [n] and values float32 [n, dim]; `RowSums` without its
            counts.
        wire: "bf16" halves the values' bytes and rounds them.

    Raises:
        ValueError: A table's rows and values do not fit.
        TypeError: Values are not float32.
    """
    item = _item_bytes(wire)
    for index, (rows, values) in enumerate(tables):
        check_float32(values)
        if values.ndim != 2 or rows.shape != values.shape[:1]:
            raise ValueError(f"tables[{index}] has rows {rows.shape} and values {values.shape}")
    sizes = [_table_bytes(len(rows), values.shape[1], item) for rows, values in tables]
    buffer = np.empty(sum(sizes), np.uint8)
    begin = 0
    for (rows, values), size in zip(tables, sizes, strict=True):
        table = buffer[begin : begin + size]
        words = table[: 8 + 8 * len(rows)].view(np.int64)
        words[0] = len(rows)
        words[1:] = rows
        body = table[words.nbytes :]
        used = values.size * item
        body[used:] = 0
        if item == 4:
            body[:used].view(np.float32).reshape(values.shape)[...] = values
        else:
            bits = _core.to_bfloat16(np.ascontiguousarray(values))
            body[:used].view(np.uint16).reshape(values.shape)[...] = bits
        begin += size
    return buffer


def unpack_tables(
    buffer: NDArray[np.uint8], dims: Sequence[int], *, wire: Wire = "exact"
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """What `pack_tables` packed; without copies where the wire is exact.

    Args:
        buffer: [bytes], starting on a multiple of 8 bytes as new arrays do.
        dims: Columns of each table.
        wire: As it was packed.

    Raises:
        ValueError: The buffer does not hold such tables.
    """
    item = _item_bytes(wire)
    tables = []
    begin = 0
    for index, dim in enumerate(dims):
        rest = buffer.nbytes - begin
        count = int(buffer[begin : begin + 8].view(np.int64)[0]) if rest >= 8 else -1
        size = _table_bytes(count, dim, item)
        if count < 0 or size > rest:
            raise ValueError(f"table {index} of {dim} columns does not fit into {rest} bytes")
        table = buffer[begin : begin + size]
        rows = table[8 : 8 + 8 * count].view(np.int64)
        body = table[8 + 8 * count :][: count * dim * item]
        if item == 4:
            values = body.view(np.float32).reshape(count, dim)
        else:
            values = _core.from_bfloat16(body.view(np.uint16)).reshape(count, dim)
        tables.append((rows, values))
        begin += size
    if begin != buffer.nbytes:
        raise ValueError(f"{buffer.nbytes - begin} bytes follow the last table")
    return tables


def _item_bytes(wire: Wire) -> int:
    return 4 if check_wire(wire) == "exact" else 2


def _table_bytes(rows: int, dim: int, item: int) -> int:
    return 8 + 8 * rows + (rows * dim * item + 7) // 8 * 8
