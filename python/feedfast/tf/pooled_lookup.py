"""Pooled lookup in variables and tensors, with sparse gradients, and tf.nn's functions on it."""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

# Every public way to tell tapes and traced functions that a variable was read also reads it; an op
# that takes the handle needs the notice alone.
from tensorflow.python.ops.resource_variable_ops import variable_accessed

from feedfast.tf import _library
from feedfast.tf._handles import handle_of

Pooling = Literal["sum", "mean", "sqrtn"]
_DTYPES = (tf.float32, tf.float16, tf.bfloat16)


def pooled_lookup(
    table: Any,
    values: Any,
    offsets: Any,
    weights: Any = None,
    *,
    pooling: Pooling = "sum",
    name: str | None = None,
) -> tf.Tensor:
    """Pools table rows into one vector per bag; `feedfast.pooled_lookup` has the formulas.

    A variable is read in place through its handle, under its lock. The gradient by the table is an
    `IndexedSlices` of the touched rows, ascending and unique; weights have a gradient too.

    Args:
        table: [num_rows, dim] variable (of TensorFlow or Keras) or tensor; float32, float16 or
            bfloat16.
        values: [nnz] row ids; int64 and int32 are read as they are, smaller integers converted.
        offsets: [num_bags + 1] integers, ascending from 0 to nnz; `row_splits` of a RaggedTensor.
        weights: [nnz] or None.
        pooling: "sum", "mean" or "sqrtn".
        name: Name of the op.

    Returns:
        [num_bags, dim] float32.

    Raises:
        TypeError: The table has another dtype, or ids or offsets are no integers that fit int64.
        tf.errors.InvalidArgumentError: An id is not a row of the table, offsets do not ascend from
            0 to nnz, or weights are not nnz finite numbers; the message gives the position.
    """
    table = as_table(table)
    arguments = {
        "values": as_indexes("values", values),
        "offsets": as_indexes("offsets", offsets),
        "weights": [] if weights is None else [tf.cast(weights, tf.float32)],
        "pooling": pooling,
        "name": name,
    }
    ops = _library.ops()
    if isinstance(table, tf.Variable):
        variable_accessed(table)
        pooled: tf.Tensor = ops.feedfast_pooled_lookup(
            table=handle_of(table), dtype=table.dtype, **arguments
        )
        return pooled
    pooled = ops.feedfast_dense_pooled_lookup(table=table, **arguments)
    return pooled


def as_indexes(name: str, indexes: Any) -> tf.Tensor:
    """Ids or offsets as the ops read them: an int64 or int32 tensor. `name` is the argument's.

    Raises:
        TypeError: They are no integers that fit int64 (an empty list is).
    """
    tensor = tf.convert_to_tensor(indexes)
    if tensor.dtype in (tf.int64, tf.int32):
        return tensor
    is_empty = tensor.shape.num_elements() == 0
    if not is_empty and (not tensor.dtype.is_integer or tensor.dtype == tf.uint64):
        raise TypeError(
            f"{name} must be an integer tensor that fits int64; got {tensor.dtype.name}"
        )
    return tf.cast(tensor, tf.int64)


def as_table(table: Any) -> Any:
    """A tf.Variable or tf.Tensor of a dtype that the ops read."""
    if isinstance(table, keras.Variable):
        table = table.value
    if not isinstance(table, tf.Variable):
        table = tf.convert_to_tensor(table)
    if table.dtype not in _DTYPES:
        allowed = ", ".join(dtype.name for dtype in _DTYPES)
        raise TypeError(f"table must be one of {allowed}; got {table.dtype.name}")
    return table


@tf.RegisterGradient("FeedfastPooledLookup")  # type: ignore[untyped-decorator]
def _pooled_lookup_grad(op: Any, grad: Any) -> list[Any]:
    return _gradients(
        op,
        grad,
        table_shape=tf.raw_ops.VariableShape(input=op.inputs[0], out_type=tf.int64),
        weights_grad=_library.ops().feedfast_pooled_lookup_weights_grad,
    )


tf.no_gradient("FeedfastRowOffsets")


@tf.RegisterGradient("FeedfastDensePooledLookup")  # type: ignore[untyped-decorator]
def _dense_pooled_lookup_grad(op: Any, grad: Any) -> list[Any]:
    return _gradients(
        op,
        grad,
        table_shape=tf.shape(op.inputs[0], out_type=tf.int64),
        weights_grad=_library.ops().feedfast_dense_pooled_lookup_weights_grad,
    )


def _gradients(op: Any, grad: Any, *, table_shape: Any, weights_grad: Any) -> list[Any]:
    table, values, offsets, *weights = op.inputs
    dtype = op.get_attr("dtype")
    pooling = op.get_attr("pooling")
    grad = tf.convert_to_tensor(grad)
    rows, row_grads = _library.ops().feedfast_pooled_lookup_grad(
        grad, values, offsets, weights, pooling=pooling
    )
    by_table = tf.IndexedSlices(tf.cast(row_grads, dtype), rows, dense_shape=table_shape)
    if not weights:
        return [by_table, None, None]
    extra = {"dtype": dtype} if table.dtype == tf.resource else {}
    by_weights = weights_grad(
        table, values, offsets, weights[0], op.outputs[0], grad, pooling=pooling, **extra
    )
    return [by_table, None, None, by_weights]


def embedding_lookup_sparse(
    params: Any,
    sp_ids: Any,
    sp_weights: Any,
    combiner: Pooling | None = None,
    max_norm: float | None = None,
    name: str | None = None,
    allow_fast_lookup: bool = False,
) -> tf.Tensor:
    """`tf.nn.embedding_lookup_sparse` for one table, on feedfast's kernel.

    Differences: `params` is one table (or a list of one) of float32, float16 or bfloat16; an empty
    row gives zeros, also at the end, so that the result always has as many rows as `sp_ids`, and
    weights must be finite. The gradient by the table has unique rows; but a table of rank above 2
    is read as a whole, and its gradient is dense.

    Args:
        params: [p0, p1, ..., pm] variable or tensor.
        sp_ids: [d0, d1] SparseTensor in row-major order, or RaggedTensor of rank 2.
        sp_weights: Of the type and structure of `sp_ids`, or None.
        combiner: "mean" (also for None), "sqrtn" or "sum".
        max_norm: If given, rows with a larger l2-norm are scaled to it before they are combined.
        name: Name of the op.
        allow_fast_lookup: Accepted and without effect; the lookup is always in place.

    Returns:
        [d0, p1, ..., pm] of the dtype of `params`.

    Raises:
        TypeError: `sp_ids` is neither sparse nor ragged, or `sp_weights` is of another type.
        ValueError: The combiner is unknown or there is more than one table.
        tf.errors.InvalidArgumentError: As `pooled_lookup`; and rows that are not in order.
    """
    del allow_fast_lookup
    combiner = _checked_combiner(combiner)
    _check_types(sp_ids, sp_weights)
    if isinstance(sp_ids, tf.RaggedTensor):
        ids, offsets = sp_ids.flat_values, sp_ids.row_splits
        weights = None if sp_weights is None else sp_weights.flat_values
    else:
        ids = sp_ids.values
        offsets = row_offsets(sp_ids.indices, sp_ids.dense_shape[0])
        weights = None if sp_weights is None else sp_weights.values
    return _combine(_single(params), ids, offsets, weights, combiner, max_norm, name)


def safe_embedding_lookup_sparse(
    embedding_weights: Any,
    sparse_ids: Any,
    sparse_weights: Any = None,
    combiner: Pooling | None = "mean",
    default_id: int | None = None,
    max_norm: float | None = None,
    name: str | None = None,
    allow_fast_lookup: bool = False,
) -> tf.Tensor:
    """`tf.nn.safe_embedding_lookup_sparse` for one table, on feedfast's kernel.

    Ids below 0 are dropped and, unless the combiner is "sum", ids whose weight is not positive. A
    row without ids gives the row `default_id` of the table, or zeros.

    Args:
        embedding_weights: [p0, p1, ..., pm] variable or tensor, or a list of one.
        sparse_ids: [d0, ..., dn] SparseTensor in row-major order, or RaggedTensor of rank 2.
        sparse_weights: Of the type and structure of `sparse_ids`, or None.
        combiner: "mean", "sqrtn" or "sum".
        default_id: Row for rows without ids.
        max_norm: As in `embedding_lookup_sparse`.
        name: Name of the op.
        allow_fast_lookup: Accepted and without effect.

    Returns:
        [d0, ..., dn-1, p1, ..., pm] of the dtype of `embedding_weights`.

    Raises:
        TypeError, ValueError, tf.errors.InvalidArgumentError: As `embedding_lookup_sparse`.
    """
    del allow_fast_lookup
    combiner = _checked_combiner(combiner)
    _check_types(sparse_ids, sparse_weights)
    table = _single(embedding_weights)
    leading = None
    if isinstance(sparse_ids, tf.RaggedTensor):
        ids, row_ids = sparse_ids.flat_values, sparse_ids.value_rowids()
        num_rows = sparse_ids.nrows()
        weights = None if sparse_weights is None else sparse_weights.flat_values
    else:
        leading = sparse_ids.dense_shape[:-1]
        num_rows = tf.reduce_prod(leading)
        flat = tf.sparse.reshape(sparse_ids, [num_rows, sparse_ids.dense_shape[-1]])
        ids, row_ids = flat.values, flat.indices[:, 0]
        weights = None if sparse_weights is None else sparse_weights.values

    kept = ids >= 0
    if weights is not None and combiner != "sum":
        kept = tf.logical_and(kept, weights > 0)
    ids, row_ids = tf.boolean_mask(ids, kept), tf.boolean_mask(row_ids, kept)
    if weights is not None:
        weights = tf.boolean_mask(weights, kept)
    offsets = row_offsets(row_ids, num_rows)
    pooled = _combine(table, ids, offsets, weights, combiner, max_norm, name)
    if default_id is not None:
        row = _combine(table, [default_id], [0, 1], None, "sum", max_norm, None)
        is_empty = tf.equal(offsets[1:], offsets[:-1])
        is_empty = tf.reshape(is_empty, [-1] + [1] * (pooled.shape.rank - 1))
        pooled = tf.where(is_empty, row, pooled)
    if leading is None:
        return pooled
    shape = tf.concat([leading, tf.shape(pooled, tf.int64)[1:]], 0)
    result = tf.reshape(pooled, shape)
    result.set_shape(sparse_ids.shape[:-1].concatenate(pooled.shape[1:]))
    return result


def _checked_combiner(combiner: Pooling | None) -> Pooling:
    if combiner is None:
        return "mean"
    if combiner not in ("mean", "sqrtn", "sum"):
        raise ValueError(f"combiner must be one of 'mean', 'sqrtn' or 'sum'; got {combiner!r}")
    return combiner


def _check_types(ids: Any, weights: Any) -> None:
    if not isinstance(ids, tf.SparseTensor | tf.RaggedTensor):
        raise TypeError(f"ids must be a SparseTensor or RaggedTensor; got {type(ids).__name__}")
    if weights is not None and type(weights) is not type(ids):
        raise TypeError(
            f"weights must be None or a {type(ids).__name__} like the ids; got "
            f"{type(weights).__name__}"
        )


def _single(params: Any) -> Any:
    """The one table of `params`."""
    if isinstance(params, list | tuple):
        if len(params) != 1:
            raise ValueError(
                f"params must be one table; got {len(params)}. Use tf.nn for partitioned tables"
            )
        return params[0]
    return params


def row_offsets(rows: Any, num_rows: Any) -> tf.Tensor:
    """Offsets [num_rows + 1] of ids that stand in ascending rows.

    Args:
        rows: [nnz] int64, or the indices [nnz, rank] of a SparseTensor, whose first column counts.
        num_rows: How many rows there are, empty ones included.

    Raises:
        tf.errors.InvalidArgumentError: Rows do not ascend or are not in [0, num_rows).
    """
    offsets: tf.Tensor = _library.ops().feedfast_row_offsets(rows, num_rows)
    return offsets


def _combine(
    params: Any,
    ids: Any,
    offsets: Any,
    weights: Any,
    combiner: Pooling,
    max_norm: float | None,
    name: str | None,
) -> tf.Tensor:
    """Pooled rows [num_bags, p1, ..., pm] in the dtype of the table."""
    table = as_table(params)
    if max_norm is not None:
        ids, positions = tf.unique(ids)
        table = tf.nn.embedding_lookup(table, ids, max_norm=max_norm)
        ids = positions
    row_shape = table.shape[1:]
    if row_shape.rank != 1:
        table = tf.reshape(table, [-1, row_shape.num_elements()])
    pooled = pooled_lookup(table, ids, offsets, weights, pooling=combiner, name=name)
    if row_shape.rank != 1:
        pooled = tf.reshape(pooled, [-1, *row_shape])
    return tf.cast(pooled, table.dtype)
