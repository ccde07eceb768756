"""Pooled lookups of all features of a batch in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from feedfast import _core
from feedfast.bags import Bags, FloatArray, Pooling, view_table
from feedfast.quantize import QuantizedTable


@dataclass(frozen=True, eq=False, slots=True)
class PooledFeature:
    """One feature of a batch: bags of rows of a table, pooled into some columns of the output.

    Attributes:
        table: [num_rows, dim] float array as `feedfast.pooled_lookup` takes it, or a
            `QuantizedTable`; never copied. Features may share one.
        bags: The feature's ids, one bag per example.
        pooling: "sum", "mean" or "sqrtn".
        column: First of the dim output columns; None: behind the feature before it.
        dtype: "bf16" when a uint16 table holds bfloat16.
    """

    table: npt.NDArray[Any] | QuantizedTable
    bags: Bags
    pooling: Pooling = "sum"
    column: int | None = None
    dtype: Literal["bf16"] | None = None


def pooled_lookup_grouped(
    features: Sequence[PooledFeature], *, out: FloatArray | None = None, threads: int = 1
) -> FloatArray:
    """Pools every feature of a batch into one matrix, bit for bit as one lookup per feature would.

    Rows are fetched ahead across the borders of features, and threads share the work by ids, so
    that many small features cost little more than one large one.

    Args:
        features: Each with the same number of bags; their columns must not overlap.
        out: [num_bags, columns] float32 to write to; columns of no feature keep what they hold.
            None: a new one that ends with the last column of a feature, 0 where there is a gap.
        threads: Threads to use; the bits of the result do not depend on it.

    Returns:
        [num_bags, columns] float32: `out`, or the new matrix; [0, 0] when there are no features.

    Raises:
        IndexError: An id is not a row of its table; the message gives feature, position and value.
        TypeError, ValueError: As `pooled_lookup`; the numbers of bags differ, columns overlap or
            do not fit `out`, or `out` is not a writable C-contiguous float32 matrix. Nothing has
            been written.
    """
    tuples = []
    next_column = columns = 0
    for feature in features:
        table, bags = feature.table, feature.bags
        view = table.view if isinstance(table, QuantizedTable) else view_table(table, feature.dtype)
        column = next_column if feature.column is None else feature.column
        next_column = column + view.dim
        columns = max(columns, next_column)
        tuples.append((view, bags.values, bags.offsets, bags.weights, feature.pooling, column))
    if out is None:
        out = np.zeros((features[0].bags.num_bags if features else 0, columns), np.float32)
    elif out.dtype != np.float32 or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(
            f"out must be a writable C-contiguous float32 array; got {out.dtype} of shape "
            f"{out.shape} with strides {out.strides}"
        )
    _core.pooled_lookup_grouped(tuples, out, threads=threads)
    return out
