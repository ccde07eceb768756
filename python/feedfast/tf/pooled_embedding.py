"""Keras layer for embedding tables whose rows are pooled over bags."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from feedfast.tf.pooled_lookup import Pooling, pooled_lookup, row_offsets


@keras.saving.register_keras_serializable(package="feedfast")
class PooledEmbedding(keras.layers.Layer):  # type: ignore[misc]
    """One embedding table; a call turns bags of row ids into one vector per bag.

    Row 0 is the out-of-vocabulary row by convention; a row id outside the table is an error with
    its position. All calls of one layer share its table, whose gradient is sparse: any Keras
    optimizer takes it, those that only touch the rows of the batch are faster.

    The ids of a call are a RaggedTensor of rank 2, a SparseTensor of rank 2, a pair
    `(values [nnz], row_splits [batch + 1])`, or a dense tensor: [batch], one id per bag, or
    [batch, n], n ids per bag.

    Args:
        num_rows: Rows of the table, the OOV row included.
        dim: Columns of the table.
        pooling: "sum", "mean" or "sqrtn"; see `feedfast.pooled_lookup`.
        embeddings_initializer: Keras initializer of the table [num_rows, dim].
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: `num_rows` or `dim` is below 1, or the pooling is unknown.
    """

    def __init__(
        self,
        num_rows: int,
        dim: int,
        *,
        pooling: Pooling = "sum",
        embeddings_initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_rows < 1 or dim < 1:
            raise ValueError(f"num_rows and dim must be at least 1; got {num_rows} and {dim}")
        if pooling not in ("sum", "mean", "sqrtn"):
            raise ValueError(f"pooling must be one of 'sum', 'mean', 'sqrtn'; got {pooling!r}")
        self.num_rows = int(num_rows)
        self.dim = int(dim)
        self.pooling: Pooling = pooling
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.supports_jit = False  # the op has no XLA kernel

    def build(self, ids_shape: Any = None, weights_shape: Any = None) -> None:
        """Creates the table; its shape does not depend on the input's."""
        del ids_shape, weights_shape
        # autocast would hand the op a cast copy of the table instead of the variable.
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_rows, self.dim),
            initializer=self.embeddings_initializer,
            autocast=False,
        )

    def call(self, ids: Any, weights: Any = None) -> tf.Tensor:
        """Pools the rows of `ids`.

        Args:
            ids: See the class.
            weights: None, or one weight per id: of the structure of `ids`, or flat [nnz].

        Returns:
            [batch, dim] in the layer's compute dtype.
        """
        values, offsets = _values_and_offsets(ids)
        if weights is not None:
            weights = _flat(weights)
        pooled = pooled_lookup(
            self.embeddings, values, offsets, weights, pooling=self.pooling, name=self.name
        )
        return tf.cast(pooled, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Everything `from_config` needs."""
        return {
            **super().get_config(),
            "num_rows": self.num_rows,
            "dim": self.dim,
            "pooling": self.pooling,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }


def _values_and_offsets(ids: Any) -> tuple[Any, Any]:
    if isinstance(ids, tf.RaggedTensor):
        return ids.flat_values, ids.row_splits
    if isinstance(ids, tf.SparseTensor):
        return ids.values, row_offsets(ids.indices[:, 0], ids.dense_shape[0])
    if isinstance(ids, tuple | list):
        values, offsets = ids
        return values, offsets
    ids = tf.convert_to_tensor(ids)
    if ids.shape.rank not in (1, 2):
        raise ValueError(f"dense ids must have shape [batch] or [batch, n]; got {ids.shape}")
    batch = tf.shape(ids, tf.int64)[0]
    length = tf.shape(ids, tf.int64)[1] if ids.shape.rank == 2 else 1
    return tf.reshape(ids, [-1]), tf.range(batch + 1) * length


def _flat(weights: Any) -> Any:
    if isinstance(weights, tf.RaggedTensor):
        return weights.flat_values
    if isinstance(weights, tf.SparseTensor):
        return weights.values
    return tf.reshape(weights, [-1])
