"""When the gradients of replicated rows travel as one dense sum, and how."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feedfast.bags import FloatArray, IntArray
from feedfast.comm import Engine
from feedfast.sharded_tables.layout import Piece

RowSums = tuple[IntArray, FloatArray]


class ReplicaExchange:
    """Chooses for every replica between rows that go to all ranks and one all-reduce of all rows.

    With a total of t rows that have gradients, each counted on every rank that has one, a rank
    sends on average 4 (dim + 1) (n - 1) t / n bytes as rows and 4 (dim + 1) 2 (n - 1) V / n in an
    all-reduce of all V; so the sum is dense where t >= 2 V. The numbers are those of the window
    before, which all ranks know; the first window is sparse. So is a single row always: an exchange
    would save less than a row for each rank. All dense replicas share one exchange
    "sharded_replicas" of sum over them of V (dim + 1) floats: the last column counts the ranks that
    have a gradient of the row, since a row without one must not be updated.

    Args:
        replicas: The replicated blocks.
        engine: Of the ranks.
    """

    def __init__(self, replicas: Sequence[Piece], engine: Engine) -> None:
        self._replicas = tuple(replicas)
        self._engine = engine
        self.forget_counts()

    @property
    def is_dense(self) -> tuple[bool, ...]:
        """For each replica; the same on all ranks."""
        return tuple(
            piece.rows > 1 and int(total) >= 2 * piece.rows
            for total, piece in zip(self._totals, self._replicas, strict=True)
        )

    def note_counts(self, counts: IntArray) -> None:
        """Takes the rows with gradients of the window [replicas], summed over the ranks."""
        self._totals = counts

    def forget_counts(self) -> None:
        """Makes the next window sparse, like the first one."""
        self._totals = np.zeros(len(self._replicas), np.int64)

    def reduce(self, own: Sequence[RowSums]) -> dict[Piece, RowSums]:
        """The sums over all ranks of the dense replicas; one exchange, or none if all are sparse.

        Args:
            own: For each replica the rows that have a gradient here, and the gradients.
        """
        dense = [
            (piece, sums)
            for piece, sums, is_dense in zip(self._replicas, own, self.is_dense, strict=True)
            if is_dense
        ]
        if not dense:
            return {}
        sizes = [piece.rows * (piece.columns + 1) for piece, _ in dense]
        arena = np.zeros(sum(sizes), np.float32)
        views = [
            view.reshape(piece.rows, piece.columns + 1)
            for (piece, _), view in zip(dense, np.split(arena, np.cumsum(sizes[:-1])), strict=True)
        ]
        for (_, (rows, values)), view in zip(dense, views, strict=True):
            view[rows, :-1] = values
            view[rows, -1] = 1.0
        self._engine.all_reduce(arena, name="sharded_replicas")
        reduced = {}
        for (piece, _), view in zip(dense, views, strict=True):
            rows = np.flatnonzero(view[:, -1]).astype(np.int64)
            reduced[piece] = (rows, np.ascontiguousarray(view[rows, :-1]))
        return reduced
