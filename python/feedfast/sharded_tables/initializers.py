"""First values of rows, as functions of row and column alone.

No value depends on how a table is divided, so every division starts from the same table.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feedfast.bags import FloatArray
from feedfast.sharded_tables.weight_format import TableDtype, Weights, rounded

_BLOCK_VALUES = 1 << 20
_WORDS_PER_COUNTER = 4


class Initializer(Protocol):
    """What a table starts as."""

    def __call__(self, table: str, row_begin: int, row_end: int, dim: int) -> FloatArray:
        """Rows [row_begin, row_end) of the table of this name: [row_end - row_begin, dim]."""
        ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform in [-limit, limit)."""

    limit: float = 0.05
    seed: int = 0

    def __call__(self, table: str, row_begin: int, row_end: int, dim: int) -> FloatArray:
        """See `Initializer`."""
        words = _random_words(self.seed, table, row_begin, row_end, dim)
        # 24 bits: every value is a float32, and so is 2 u - 1.
        unit = (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23)
        return (unit - np.float32(1)) * np.float32(self.limit)


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal with mean 0 (Box and Muller 1958)."""

    stddev: float = 0.05
    seed: int = 0

    def __call__(self, table: str, row_begin: int, row_end: int, dim: int) -> FloatArray:
        """See `Initializer`."""
        words = _random_words(self.seed, table, row_begin, row_end, dim)
        radius = ((words >> np.uint64(32)) + np.uint64(1)).astype(np.float64) * 2.0**-32
        angle = (words & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2.0 * np.pi * 2.0**-32)
        normal = np.sqrt(-2.0 * np.log(radius)) * np.cos(angle)
        return (self.stddev * normal).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value everywhere."""

    value: float = 0.0

    def __call__(self, table: str, row_begin: int, row_end: int, dim: int) -> FloatArray:
        """See `Initializer`."""
        del table
        return np.full((row_end - row_begin, dim), self.value, np.float32)


def fill(
    out: Weights,
    initializer: Initializer,
    table: str,
    *,
    dtype: TableDtype = "float32",
    dim: int,
    row_begin: int,
    column_begin: int,
) -> None:
    """Sets `out` to the part of a table's first values that starts at this row and column.

    Args:
        out: [rows, columns].
        initializer: Of the table.
        table: Its name.
        dtype: Of the weights, see `weight_format`.
        dim: Columns of the whole table.
        row_begin: First row of the part.
        column_begin: First column of the part.

    Raises:
        ValueError: The initializer returns another shape.
    """
    rows, columns = out.shape
    for begin, end in row_blocks(rows, dim):
        values = initializer(table, row_begin + begin, row_begin + end, dim)
        if np.shape(values) != (end - begin, dim):
            raise ValueError(
                f"table {table!r}: the initializer gave shape {np.shape(values)} for rows "
                f"[{row_begin + begin}, {row_begin + end}); needs {(end - begin, dim)}"
            )
        out[begin:end] = rounded(values[:, column_begin : column_begin + columns], dtype)


def row_blocks(rows: int, dim: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about a million values that cover [0, rows)."""
    step = max(1, _BLOCK_VALUES // dim)
    for begin in range(0, rows, step):
        yield begin, min(begin + step, rows)


def _random_words(
    seed: int, table: str, row_begin: int, row_end: int, dim: int
) -> NDArray[np.uint64]:
    """[row_end - row_begin, dim]: word `row * dim + column` of Philox keyed by seed and name."""
    first, last = row_begin * dim, row_end * dim
    counter = first // _WORDS_PER_COUNTER
    skipped = first - counter * _WORDS_PER_COUNTER
    key = np.array([seed % 2**64, zlib.crc32(table.encode())], np.uint64)
    words = np.random.Philox(counter=counter, key=key).random_raw(last - first + skipped)
    return np.asarray(words, np.uint64)[skipped:].reshape(row_end - row_begin, dim)
