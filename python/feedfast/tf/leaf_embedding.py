"""Boosted-tree leaves in TensorFlow: the encoder as an op."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from feedfast.tf import _library
from feedfast.trees import LeafEncoder

__all__ = ["leaf_encode"]


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
