"""Boosted-tree leaves in TensorFlow: the encoder as an op and the table of leaf embeddings."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from feedfast.tf import _library
from feedfast.tf.pooled_lookup import pooled_lookup
from feedfast.trees import LeafEncoder

__all__ = ["LeafEmbedding", "leaf_encode"]

LeafPooling = Literal["sqrtn", "sum", "concat"]


def leaf_encode(x: tf.Tensor, forest: LeafEncoder | tf.Tensor) -> tf.Tensor:
    """Leaf row of every tree for every row of features, as `LeafEncoder.__call__`.

    Inside a tf.function the forest becomes a constant of the graph, so a SavedModel holds it. It
    has no gradient: leaves are piecewise constant.

    Args:
        x: [batch, num_features] float32; NaN is missing.
        forest: The encoder, or its `to_bytes()` as a uint8 vector, which spares eager code that
            calls often the conversion.

    Returns:
        [batch, num_trees] int32, rows of one contiguous leaf table.

    Raises:
        tf.errors.InvalidArgumentError: `x` has not num_features columns.
        tf.errors.DataLossError: `forest` is not the image of an encoder.
    """
    if isinstance(forest, LeafEncoder):
        forest = tf.constant(np.frombuffer(forest.to_bytes(), dtype=np.uint8))
    return _library.ops().feedfast_leaf_encode(x=x, forest=forest)


tf.no_gradient("FeedfastLeafEncode")


@keras.saving.register_keras_serializable(package="feedfast")
class LeafEmbedding(keras.layers.Layer):  # type: ignore[misc]
    """One embedding per leaf of a forest, combined over the trees of an example.

    There is one row per leaf and no OOV row; a leaf row outside the table is an error with its
    position. The gradient by the table is sparse.

    Args:
        num_leaves: Rows of the table: `LeafEncoder.num_leaves`.
        dim: Columns of the table.
        num_trees: Leaves per example: `LeafEncoder.num_trees`.
        pooling: "sum" adds the rows, "sqrtn" divides the sum by sqrt(num_trees), "concat" puts
            them side by side in the order of the trees.
        embeddings_initializer: Keras initializer of the table [num_leaves, dim].
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: A count is below 1, there are fewer leaves than trees, or the pooling is
            unknown.
    """

    def __init__(
        self,
        num_leaves: int,
        dim: int,
        num_trees: int,
        *,
        pooling: LeafPooling = "sqrtn",
        embeddings_initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dim < 1 or num_trees < 1:
            raise ValueError(f"dim and num_trees must be at least 1; got {dim} and {num_trees}")
        if num_leaves < num_trees:
            raise ValueError(f"{num_trees} trees have at least as many leaves; got {num_leaves}")
        if pooling not in ("sqrtn", "sum", "concat"):
            raise ValueError(f"pooling must be one of 'sqrtn', 'sum', 'concat'; got {pooling!r}")
        self.num_leaves = int(num_leaves)
        self.dim = int(dim)
        self.num_trees = int(num_trees)
        self.pooling: LeafPooling = pooling
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.supports_jit = False  # the op has no XLA kernel

    def build(self, leaves_shape: Any) -> None:
        """Creates the table; `leaves_shape` is [batch, num_trees]."""
        if len(leaves_shape) != 2 or leaves_shape[1] not in (None, self.num_trees):
            raise ValueError(
                f"leaves must have shape [batch, {self.num_trees}]; got {tuple(leaves_shape)}"
            )
        # autocast would hand the op a cast copy of the table instead of the variable.
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_leaves, self.dim),
            initializer=self.embeddings_initializer,
            autocast=False,
        )

    def call(self, leaves: tf.Tensor) -> tf.Tensor:
        """Combines the embeddings of an example's leaves.

        Args:
            leaves: [batch, num_trees] integers, as `LeafEncoder` or `leaf_encode` give them.

        Returns:
            [batch, dim], or [batch, num_trees * dim] for "concat", in the layer's compute dtype.
        """
        leaves = tf.ensure_shape(tf.cast(leaves, tf.int64), [None, self.num_trees])
        values = tf.reshape(leaves, [-1])
        if self.pooling == "concat":
            bags_of_one = tf.range(tf.size(values, tf.int64) + 1)
            rows = pooled_lookup(self.embeddings, values, bags_of_one, pooling="sum")
            combined = tf.reshape(rows, [-1, self.num_trees * self.dim])
        else:
            offsets = tf.range(tf.shape(leaves, tf.int64)[0] + 1) * self.num_trees
            combined = pooled_lookup(self.embeddings, values, offsets, pooling=self.pooling)
        return tf.cast(combined, self.compute_dtype)

    def compute_output_shape(self, leaves_shape: Any) -> tuple[int | None, int]:
        """[batch, dim], or [batch, num_trees * dim] for "concat"."""
        width = self.dim * (self.num_trees if self.pooling == "concat" else 1)
        return (leaves_shape[0], width)

    def get_config(self) -> dict[str, Any]:
        """Everything `from_config` needs."""
        return {
            **super().get_config(),
            "num_leaves": self.num_leaves,
            "dim": self.dim,
            "num_trees": self.num_trees,
            "pooling": self.pooling,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }
