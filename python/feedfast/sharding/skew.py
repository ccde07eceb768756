"""How many different rows a batch reads when the frequencies of the ids fall as a power.

The k-th most frequent of V rows is read with probability p_k = k**-s / sum(j**-s), so L ids hold

    distinct(L) = sum over k of 1 - (1 - p_k)**L

different rows on average. The sum is taken row by row over the first rows and, behind them, over
ranges whose ends grow by 2 %, each with the probability of its middle: tests compare it with
the whole sum.
"""

from __future__ import annotations

import functools
from typing import overload

import numpy as np
from numpy.typing import NDArray

from feedfast.sharding.table_shape import TableShape

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SINGLE_ROWS = 512
_GROWTH = 1.02
_ALMOST_ONE = 1.0 - 1e-12


@functools.lru_cache(maxsize=4096)
def _bins(rows: int, zipf: float) -> tuple[FloatArray, FloatArray]:
    """Ends [bins + 1] of ranges of rows, most frequent first, and the probability of one row."""
    single = np.arange(min(rows, _SINGLE_ROWS) + 1, dtype=np.float64)
    ends = single
    if rows > _SINGLE_ROWS:
        steps = int(np.ceil(np.log(rows / _SINGLE_ROWS) / np.log(_GROWTH)))
        tail = np.unique(np.rint(np.geomspace(_SINGLE_ROWS, rows, steps + 1)))
        ends = np.concatenate([single, tail[1:]])
    middle = 0.5 * (ends[:-1] + ends[1:] + 1.0)
    probability = middle**-zipf
    probability /= np.sum(probability * np.diff(ends))
    return ends, probability


@functools.lru_cache(maxsize=4096)
def _seen_below(rows: int, zipf: float, lookups: float) -> FloatArray:
    """[bins + 1]: of the rows in front of each end, how many `lookups` ids contain."""
    ends, probability = _bins(rows, zipf)
    seen = -np.expm1(lookups * np.log1p(-np.minimum(probability, _ALMOST_ONE)))
    return np.concatenate([[0.0], np.cumsum(np.diff(ends) * seen)])


@functools.lru_cache(maxsize=4096)
def _ids_below(rows: int, zipf: float) -> FloatArray:
    """[bins + 1]: share of the ids that are in front of each end."""
    ends, probability = _bins(rows, zipf)
    return np.concatenate([[0.0], np.cumsum(np.diff(ends) * probability)])


@overload
def distinct_rows(
    table: TableShape, lookups: float, first: int = 0, last: int | None = None
) -> float: ...


@overload
def distinct_rows(
    table: TableShape, lookups: float, first: IntArray, last: IntArray
) -> FloatArray: ...


def distinct_rows(
    table: TableShape, lookups: float, first: int | IntArray = 0, last: int | IntArray | None = None
) -> float | FloatArray:
    """Expected number of different rows among `lookups` ids that lie in rows [first, last).

    In a table ordered by frequency the rows of a range are what they are; in a hashed one a range
    has its share of the rows of every frequency.

    Args:
        table: Rows, exponent and order.
        lookups: Ids drawn, of the whole table; >= 0.
        first, last: The range, or arrays of many; default: all rows.
    """
    last = table.rows if last is None else last
    below = _seen_below(table.rows, table.zipf, lookups)
    if table.order == "hashed":
        return float(below[-1]) * (last - first) / table.rows
    ends, _ = _bins(table.rows, table.zipf)
    return np.interp(last, ends, below) - np.interp(first, ends, below)


@overload
def lookup_share(table: TableShape, first: int, last: int) -> float: ...


@overload
def lookup_share(table: TableShape, first: IntArray, last: IntArray) -> FloatArray: ...


def lookup_share(
    table: TableShape, first: int | IntArray, last: int | IntArray
) -> float | FloatArray:
    """Share of the ids that lie in rows [first, last), counted as often as they occur.

    In a hashed table nobody knows which range has the most frequent row: the share is that of the
    range which does, share + p_1 (1 - share).
    """
    if table.order == "hashed":
        share = (last - first) / table.rows
        return share + float(_bins(table.rows, table.zipf)[1][0]) * (1.0 - share)
    ends, _ = _bins(table.rows, table.zipf)
    below = _ids_below(table.rows, table.zipf)
    return np.interp(last, ends, below) - np.interp(first, ends, below)


def even_boundaries(table: TableShape, lookups: float, parts: int, first: int) -> list[int]:
    """[parts + 1] ends of contiguous ranges of rows [first, table.rows) among which `lookups` ids
    have the same number of different rows each."""
    if table.order == "hashed" or lookups == 0:
        return [int(end) for end in np.rint(np.linspace(first, table.rows, parts + 1))]
    ends, _ = _bins(table.rows, table.zipf)
    below = _seen_below(table.rows, table.zipf, lookups)
    wanted = np.linspace(np.interp(first, ends, below), below[-1], parts + 1)
    boundaries = [int(end) for end in np.rint(np.interp(wanted, below, ends))]
    boundaries[0], boundaries[-1] = first, table.rows
    return boundaries
