"""The gradients of tables on the wire: as rows in one message, or as whole tables.

A table of V rows whose row has De bytes costs a process, of which each of n touched r rows,

    (n - 1) r (De + 8)       sent, as rows with their numbers (all-gather)
    2 (n - 1) / n V De       sent, as a whole table (all-reduce)

so rows are cheaper exactly where r / V < (2 / n) De / (De + 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from feedfast.comm.sparse_rows import merge_rows, unpack_tables

__all__ = ["RowGradients", "TableChoice", "Wire", "merge_received", "rows_are_cheaper"]

Wire = Literal["exact", "bf16"]
"""How gradients look on the wire; sums are float32 either way."""

RowGradients = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows [n] of a table and their gradients [n, dim]."""

_ROW_NUMBER_BYTES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TableChoice:
    """How the gradient of one table travelled in the last window, and why.

    Attributes:
        name: Of the variable.
        num_rows: Rows of the table, V; None where it may grow, and the choice is then `rows`.
        dim: Elements of a row.
        form: "rows": the touched rows; "table": all of it.
        rows_per_process: Distinct rows that a process touched in the window, mean over processes.
        union_rows: Distinct rows that any process touched.
        threshold: `rows_per_process / num_rows` below which rows are cheaper. The window before
            decides, because all processes know its figures.
    """

    name: str
    num_rows: int | None
    dim: int
    form: Literal["rows", "table"]
    rows_per_process: float
    union_rows: int
    threshold: float


def threshold_share(dim: int, num_processes: int, wire: Wire) -> float:
    """Share of a table's rows per process above which the whole table is cheaper on the wire."""
    row_bytes = dim * (2 if wire == "bf16" else 4)
    return 2.0 / num_processes * row_bytes / (row_bytes + _ROW_NUMBER_BYTES)


def rows_are_cheaper(
    rows_per_process: float, num_rows: int | None, dim: int, num_processes: int, wire: Wire
) -> bool:
    """Whether a table's gradient should travel as rows; see the module's formula."""
    if num_rows is None or num_processes == 1:
        return True
    return rows_per_process < num_rows * threshold_share(dim, num_processes, wire)


def merge_received(
    received: Sequence[NDArray[np.uint8]], dims: Sequence[int], scale: float, *, wire: Wire
) -> list[RowGradients]:
    """Sums the row gradients of all tables over the processes.

    Args:
        received: By rank what `pack_tables` gave: distinct rows of each table, ascending.
        dims: Columns of each table.
        scale: What the sums are multiplied by.
        wire: As the rows were packed; "bf16" rounds every process's gradients once.

    Returns:
        Per table the distinct rows that any process gave, ascending, and their scaled sums, added
        in the order of the processes; the same bits everywhere.
    """
    messages = [unpack_tables(message, dims, wire=wire) for message in received]
    return [
        merge_rows(lists, dim, scale=scale)
        for lists, dim in zip(zip(*messages, strict=True), dims, strict=True)
    ]
