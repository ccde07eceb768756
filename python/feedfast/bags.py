"""Bags in CSR form and pooled lookups of embedding rows over them.

A bag is the variable-length list of row ids of one feature in one example; bag `b` holds
`values[offsets[b]:offsets[b + 1]]`. The same convention serves C++, Arrow and RaggedTensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from feedfast import _core

IntArray = npt.NDArray[np.int64]
IndexArray = npt.NDArray[np.int64] | npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
Pooling = Literal["sum", "mean", "sqrtn"]


@dataclass(frozen=True, eq=False, slots=True)
class Bags:
    """Row ids of many bags.

    Attributes:
        values: [nnz] int64 or int32 row ids; other integer types are converted.
        offsets: [num_bags + 1] int64 or int32, ascending from 0 to nnz.
        weights: [nnz] float32 or None, when every weight is 1.
    """

    values: IndexArray
    offsets: IndexArray
    weights: FloatArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", as_index("values", self.values))
        object.__setattr__(self, "offsets", as_index("offsets", self.offsets))
        if self.weights is not None:
            object.__setattr__(self, "weights", as_float32("weights", self.weights))

    @classmethod
    def from_lengths(
        cls, values: npt.ArrayLike, lengths: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> Bags:
        """Bags of `lengths` [num_bags] ids each, one after the other in `values` [nnz]."""
        counts = as_int64("lengths", lengths)
        offsets = np.zeros(counts.size + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        return cls(
            as_index("values", values),
            offsets,
            None if weights is None else as_float32("weights", weights),
        )

    @classmethod
    def from_lists(cls, bags: Sequence[Sequence[int]]) -> Bags:
        """Bags from one sequence of ids per bag."""
        lengths = np.fromiter(map(len, bags), np.int64, count=len(bags))
        values = np.fromiter(
            itertools.chain.from_iterable(bags), np.int64, count=int(lengths.sum())
        )
        return cls.from_lengths(values, lengths)

    @property
    def num_bags(self) -> int:
        """How many bags there are, empty ones included."""
        return self.offsets.size - 1

    @property
    def lengths(self) -> IndexArray:
        """[num_bags], ids per bag, of the type of the offsets."""
        return np.diff(self.offsets)

    def validate(self, num_rows: int) -> None:
        """Raises what a lookup in a table with `num_rows` rows would raise for these bags.

        Raises:
            IndexError: An id is not a row of the table; the message gives position and value.
            ValueError: Offsets do not ascend from 0 to nnz, or weights are not nnz finite numbers.
        """
        _core.validate_bags(self.values, self.offsets, self.weights, num_rows=num_rows)


def as_int64(name: str, array: npt.ArrayLike) -> IntArray:
    """`array` as contiguous int64, without a copy if it is that already.

    Raises:
        TypeError: Not an integer array, or unsigned 64-bit. `name` is the argument's name.
    """
    ids = np.asarray(array)
    if ids.dtype != np.int64:
        if ids.size and (ids.dtype.kind not in "iu" or not np.can_cast(ids.dtype, np.int64)):
            raise TypeError(f"{name} must be an integer array that fits int64; got {ids.dtype}")
        ids = ids.astype(np.int64)
    return np.ascontiguousarray(ids)


def as_index(name: str, array: npt.ArrayLike) -> IndexArray:
    """`array` as contiguous int64 or int32, without a copy if it is one of them already.

    Raises:
        TypeError: As `as_int64`.
    """
    ids = np.asarray(array)
    if ids.dtype == np.int32 and ids.flags.c_contiguous:
        return ids
    return as_int64(name, ids)


def as_float32(name: str, array: npt.ArrayLike) -> FloatArray:
    """`array` as contiguous float32, without a copy if it is that already.

    Raises:
        TypeError: Not of floats, integers or booleans: strings, complex numbers and objects such as
            None are never taken for numbers. `name` is the argument's name.
    """
    numbers = np.asarray(array)
    if numbers.dtype != np.float32:
        if numbers.dtype.kind not in "fiub":
            raise TypeError(f"{name} must be a float array; got {numbers.dtype}")
        numbers = numbers.astype(np.float32)
    return np.ascontiguousarray(numbers)


def pooled_lookup(
    table: npt.NDArray[Any],
    values: npt.ArrayLike,
    offsets: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    pooling: Pooling = "sum",
    threads: int = 1,
    *,
    dtype: Literal["bf16"] | None = None,
) -> FloatArray:
    """Pools table rows into one vector per bag.

    With weights w (1 when there are none), bag b becomes `sum w_i row_i` (sum), that divided by
    `sum w_i` (mean) or by `sqrt(sum w_i^2)` (sqrtn). A bag whose divisor is 0, an empty one above
    all, yields zeros: the combiners of `tf.nn.embedding_lookup_sparse`.

    Args:
        table: [num_rows, dim] float32, float16 or bfloat16 (`ml_dtypes.bfloat16`, or uint16 with
            `dtype="bf16"`), C-contiguous; never copied.
        values: [nnz] row ids; int64 and int32 are read as they are, other integers converted.
        offsets: [num_bags + 1], ascending from 0 to nnz; integers as for `values`.
        weights: [nnz] or None.
        pooling: "sum", "mean" or "sqrtn".
        threads: Threads to use; the bits of the result do not depend on it.
        dtype: "bf16" when a uint16 table holds bfloat16.

    Returns:
        [num_bags, dim] float32.

    Raises:
        IndexError: An id is not a row of the table; the message gives position and value.
        TypeError: The table has another dtype, or ids are not integers.
        ValueError: The table is not contiguous or not of rank 2, offsets do not ascend from 0 to
            nnz, weights are not nnz finite numbers, or `pooling` or `threads` is unknown.
    """
    return _core.pooled_lookup(
        view_table(table, dtype),
        as_index("values", values),
        as_index("offsets", offsets),
        None if weights is None else as_float32("weights", weights),
        pooling=pooling,
        threads=threads,
    )


def view_table(table: npt.NDArray[Any], dtype: Literal["bf16"] | None = None) -> _core.Table:
    """A float table as the kernels take it; `table` and `dtype` as in `pooled_lookup`.

    Raises:
        TypeError, ValueError: As `pooled_lookup`.
    """
    _require_contiguous(table)
    if dtype not in (None, "bf16"):
        raise ValueError(f"dtype must be None or 'bf16'; got {dtype!r}")
    if dtype is None and table.dtype == np.float32:
        return _core.Table.float32(table)
    if dtype is None and table.dtype == np.float16:
        return _core.Table.float16(table.view(np.uint16))
    # ml_dtypes is no dependency: its bfloat16 is known by its name.
    if table.dtype.name == "bfloat16" or (dtype == "bf16" and table.dtype == np.uint16):
        return _core.Table.bfloat16(table.view(np.uint16))
    raise TypeError(
        "table must be float32, float16 or bfloat16 (uint16 with dtype='bf16'); got "
        f"{table.dtype} with dtype={dtype!r}"
    )


def _require_contiguous(table: npt.NDArray[Any]) -> None:
    if not isinstance(table, np.ndarray):
        raise TypeError(f"table must be a numpy array; got {type(table).__name__}")
    if not table.flags.c_contiguous:
        raise ValueError(
            f"table must be C-contiguous; got shape {table.shape} with strides {table.strides}. "
            "Copy it once with np.ascontiguousarray(table)"
        )
