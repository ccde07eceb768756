"""Pooled lookups of all features of a batch in one op, with sparse gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# As in pooled_lookup.py.
from tensorflow.python.ops.resource_variable_ops import variable_accessed

from feedfast.tf import _library
from feedfast.tf._handles import handle_of
from feedfast.tf.pooled_lookup import Pooling, as_indexes, as_table


@dataclass(frozen=True, eq=False, slots=True)
class PooledFeature:
    """One feature of a batch: bags of rows of a table, pooled into some columns of the output.

    Attributes:
        table: [num_rows, dim] variable (of TensorFlow or Keras) of float32, float16 or bfloat16
            and of static dim. Features may share one.
        values: [nnz] integer row ids.
        offsets: [num_bags + 1] integers, ascending from 0 to nnz.
        weights: [nnz] or None.
        pooling: "sum", "mean" or "sqrtn".
        column: First of the dim output columns; None: behind the feature before it.
    """

    table: Any
    values: Any
    offsets: Any
    weights: Any = None
    pooling: Pooling = "sum"
    column: int | None = None


def pooled_lookup_grouped(
    features: Sequence[PooledFeature], *, name: str | None = None
) -> tf.Tensor:
    """Pools every feature of a batch into one matrix, bit for bit as one op per feature would.

    The variables are read in place under their locks. The gradient by a table is an
    `IndexedSlices`: of unique rows where one feature reads it, else one part per feature.

    Args:
        features: At least one, each with the same number of bags; columns must not overlap.
        name: Name of the op.

    Returns:
        [num_bags, columns] float32 that ends with the last column of a feature; 0 in gaps.

    Raises:
        TypeError: A table is no variable or of another dtype, or ids are no integers.
        ValueError: There are no features, or a table has no static dim.
        tf.errors.InvalidArgumentError: As `pooled_lookup`, with the feature's index; the numbers
            of bags differ, or columns overlap.
    """
    if not features:
        raise ValueError("features must hold at least one feature; got none")
    tables: list[tf.Variable] = []
    table_of: list[int] = []
    columns: list[int] = []
    next_column = num_columns = 0
    for feature in features:
        table = as_table(feature.table)
        if not isinstance(table, tf.Variable):
            raise TypeError(f"features[{len(columns)}].table must be a variable; got {type(table)}")
        dim = table.shape[-1]
        if table.shape.rank != 2 or dim is None:
            raise ValueError(
                f"features[{len(columns)}].table must have shape [num_rows, dim] with a static dim;"
                f" got {table.shape}"
            )
        known = next((t for t, other in enumerate(tables) if other is table), len(tables))
        if known == len(tables):
            variable_accessed(table)
            tables.append(table)
        table_of.append(known)
        columns.append(next_column if feature.column is None else feature.column)
        next_column = columns[-1] + dim
        num_columns = max(num_columns, next_column)
    pooled: tf.Tensor = _library.ops().feedfast_grouped_lookup(
        tables=[handle_of(table) for table in tables],
        values=[as_indexes("values", feature.values) for feature in features],
        offsets=[as_indexes("offsets", feature.offsets) for feature in features],
        weights=[tf.cast(f.weights, tf.float32) for f in features if f.weights is not None],
        dtypes=[table.dtype for table in tables],
        table_of=table_of,
        weighted=[feature.weights is not None for feature in features],
        poolings=[feature.pooling for feature in features],
        columns=columns,
        num_columns=num_columns,
        name=name,
    )
    return pooled


@tf.RegisterGradient("FeedfastGroupedLookup")  # type: ignore[untyped-decorator]
def _grouped_lookup_grad(op: Any, grad: Any) -> list[Any]:
    ops = _library.ops()
    dtypes = op.get_attr("dtypes")
    table_of = op.get_attr("table_of")
    weighted = op.get_attr("weighted")
    poolings = [pooling.decode() for pooling in op.get_attr("poolings")]
    columns = op.get_attr("columns")
    inputs = list(op.inputs)
    tables, rest = inputs[: len(dtypes)], inputs[len(dtypes) :]
    num_features = len(table_of)
    values, offsets = rest[:num_features], rest[num_features : 2 * num_features]
    weights = iter(rest[2 * num_features :])
    shapes = [tf.raw_ops.VariableShape(input=table, out_type=tf.int64) for table in tables]

    parts: list[list[tuple[Any, Any]]] = [[] for _ in tables]
    by_weights: list[Any] = []
    for f in range(num_features):
        t = table_of[f]
        width = tf.stack([-1, tf.cast(shapes[t][1], tf.int32)])
        by_feature = tf.slice(grad, [0, columns[f]], width)
        own = [next(weights)] if weighted[f] else []
        rows, row_grads = ops.feedfast_pooled_lookup_grad(
            by_feature, values[f], offsets[f], own, pooling=poolings[f]
        )
        parts[t].append((rows, tf.cast(row_grads, dtypes[t])))
        if own:
            by_weights.append(
                ops.feedfast_pooled_lookup_weights_grad(
                    tables[t],
                    values[f],
                    offsets[f],
                    own[0],
                    tf.slice(op.outputs[0], [0, columns[f]], width),
                    by_feature,
                    dtype=dtypes[t],
                    pooling=poolings[f],
                )
            )
    by_tables = [
        tf.IndexedSlices(
            tf.concat([row_grads for _, row_grads in part], 0),
            tf.concat([rows for rows, _ in part], 0),
            dense_shape=shape,
        )
        for part, shape in zip(parts, shapes, strict=True)
    ]
    return [*by_tables, *[None] * (2 * num_features), *by_weights]
