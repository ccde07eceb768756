"""Sums over what one key saw strictly before each row, in O(n log n)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Timeline:
    """Rows ordered by (key, timestamp, row). Rows of one key with one timestamp are simultaneous:
    none precedes another.

    Attributes:
        order: [n] int64, the row at each sorted place.
        timestamps: [n] int64, timestamp at each sorted place.
        group: [n] int64, sorted place of the first row with the same key and timestamp.
        start: [n] int64, sorted place of the first row with the same key.
    """

    order: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    group: NDArray[np.int64]
    start: NDArray[np.int64]

    @classmethod
    def build(cls, codes: NDArray[np.int64], timestamps: NDArray[np.int64]) -> Timeline:
        """Sorts the rows; `codes` and `timestamps` are [n] and need no order of their own."""
        order = np.lexsort((timestamps, codes)).astype(np.int64, copy=False)
        sorted_codes, sorted_times = codes[order], timestamps[order]
        new_key = np.ones(len(order), dtype=bool)
        new_key[1:] = sorted_codes[1:] != sorted_codes[:-1]
        new_group = new_key.copy()
        new_group[1:] |= sorted_times[1:] != sorted_times[:-1]
        return cls(
            order=order,
            timestamps=sorted_times,
            group=_places_of_last_true(new_group),
            start=_places_of_last_true(new_key),
        )

    def sum_before(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of `values` over rows of the same key with a strictly earlier timestamp.

        Args:
            values: [n] or [n, columns], finite.

        Returns:
            The same shape, float64, in row order. 0 where nothing is earlier.
        """
        running = np.zeros((len(self.order) + 1, *values.shape[1:]), dtype=np.float64)
        np.cumsum(values[self.order], axis=0, dtype=np.float64, out=running[1:])
        return self.to_row_order(running[self.group] - running[self.start])

    def count_before(self) -> NDArray[np.int64]:
        """[n] int64: number of rows of the same key with a strictly earlier timestamp."""
        return self.to_row_order(self.group - self.start)

    def time_since_first(self) -> NDArray[np.float64]:
        """[n] float64: time since the key's first row; NaN where that is not strictly earlier."""
        elapsed = (self.timestamps - self.timestamps[self.start]).astype(np.float64)
        elapsed[self.group == self.start] = np.nan
        return self.to_row_order(elapsed)

    def time_since_last(self) -> NDArray[np.float64]:
        """[n] float64: time since the key's latest strictly earlier row; NaN where there is
        none."""
        earlier = self.group > self.start
        elapsed = np.full(len(self.order), np.nan)
        elapsed[earlier] = self.timestamps[earlier] - self.timestamps[self.group[earlier] - 1]
        return self.to_row_order(elapsed)

    def to_row_order(self, in_sorted_order: NDArray[_T]) -> NDArray[_T]:
        """Moves [n, ...] from sorted places back to the rows they belong to."""
        result = np.empty_like(in_sorted_order)
        result[self.order] = in_sorted_order
        return result


def _places_of_last_true(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[n] int64: the latest place at or before each whose flag is set; flags[0] is set."""
    return np.maximum.accumulate(np.where(flags, np.arange(len(flags), dtype=np.int64), 0))
