"""Three encodings of the same candidates in TensorFlow, in front of the same dense layers.

    many_sparse   50 string features, each with a `StaticHashTable`, a table and a sparse lookup of
                  its own, concatenated
    tree_sparse   the leaves of 100 trees as one sparse tensor from the wire: COO, all int64
    tree_dense    the leaves as one dense tensor from the wire, int32

The trees replace the strings: xgboost reads the raw features of which the strings are buckets.
Every encoding is a concatenation 200 wide, so the dense layers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import request_tensorflow
import tensorflow as tf
from numpy.typing import NDArray

from feedfast.gated_mlp import GatedLayer

NUM_FEATURES, BUCKETS = 50, 200
WIDTH = 200
STAGES = ("many_sparse", "tree_sparse", "tree_dense")


class Encodings(tf.Module):
    """Tables of both kinds and one stack of dense layers."""

    def __init__(
        self,
        words: Sequence[Sequence[str]],
        feature_tables: Sequence[NDArray[np.float32]],
        leaf_table: NDArray[np.float32],
        layers: Sequence[GatedLayer],
    ) -> None:
        super().__init__()
        self._rows = [
            tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(
                    tf.constant(list(known)), tf.range(1, len(known) + 1, dtype=tf.int64)
                ),
                default_value=0,
            )
            for known in words
        ]
        self._tables = [tf.Variable(table, trainable=False) for table in feature_tables]
        self._leaf_table = tf.Variable(leaf_table, trainable=False)
        self._layers = request_tensorflow.tower_variables(layers, tf.float32)

    @tf.function
    def many_sparse(self, words: list[tf.Tensor], indices: tf.Tensor) -> tf.Tensor:
        candidates = tf.shape(indices, tf.int64)[0]
        parts = []
        for column, rows, table in zip(words, self._rows, self._tables, strict=True):
            ids = tf.SparseTensor(indices, rows.lookup(column), tf.stack([candidates, 1]))
            parts.append(tf.nn.embedding_lookup_sparse(table, ids, None, combiner="mean"))
        return self._dense(tf.ensure_shape(tf.concat(parts, axis=1), [None, WIDTH]))

    @tf.function
    def tree_sparse(self, indices: tf.Tensor, leaves: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
        ids = tf.SparseTensor(
            tf.io.parse_tensor(indices, tf.int64), tf.io.parse_tensor(leaves, tf.int64), shape
        )
        ids = tf.sparse.reshape(ids, [-1, 1])
        vectors = tf.nn.embedding_lookup_sparse(self._leaf_table, ids, None, combiner="sum")
        return self._dense(tf.reshape(vectors, [-1, WIDTH]))

    @tf.function
    def tree_dense(self, leaves: tf.Tensor) -> tf.Tensor:
        ids = tf.ensure_shape(tf.io.parse_tensor(leaves, tf.int32), [None, None])
        return self._dense(tf.reshape(tf.gather(self._leaf_table, ids), [-1, WIDTH]))

    def _dense(self, x: tf.Tensor) -> tf.Tensor:
        return request_tensorflow.apply_tower(self._layers, x)


def to_wire(array: NDArray[Any]) -> tf.Tensor:
    """A tensor as a message carries it."""
    return tf.io.serialize_tensor(tf.constant(array))
