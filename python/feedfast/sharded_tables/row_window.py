"""Gradients of rows from several micro-batches or ranks, until they are added up."""

from __future__ import annotations

from feedfast.bags import FloatArray, IntArray
from feedfast.comm.sparse_rows import merge_rows

# Lists that wait at most: what is kept stays near the size of the sums, and what a merge reads and
# writes again is one list in as many.
_MAX_LISTS = 8


class RowWindow:
    """Adds lists of rows up, in the order in which they come, with one float32 rounding each.

    Lists are kept as they are and merged when they are taken, or when there are too many; the bits
    do not depend on when.

    Args:
        dim: Columns of the gradients.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._lists: list[tuple[IntArray, FloatArray]] = []

    def add(self, rows: IntArray, values: FloatArray) -> None:
        """Adds a list.

        Args:
            rows: [n] int64, ascending, each once.
            values: [n, dim] float32. Neither is copied; they stay as they are until the window is
                taken or discarded.
        """
        if len(self._lists) == _MAX_LISTS:
            self._lists = [self.merged()]
        self._lists.append((rows, values))

    def merged(self, scale: float = 1.0) -> tuple[IntArray, FloatArray]:
        """The rows that were added, ascending, and `scale` times their sums: new arrays."""
        return merge_rows(self._lists, self._dim, scale=scale)

    def take(self) -> tuple[IntArray, FloatArray]:
        """The rows, ascending, and their sums, in arrays that were added where there is one list.

        Begins a new window.
        """
        taken = self._lists[0] if len(self._lists) == 1 else self.merged()
        self.discard()
        return taken

    def discard(self) -> None:
        """Begins a new window."""
        self._lists = []
