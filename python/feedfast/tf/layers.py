"""The Keras layers of feedfast (`fft.layers`)."""

from __future__ import annotations

from feedfast.tf.compositional_embedding import CompositionalEmbedding
from feedfast.tf.cross_layer import CrossLayer
from feedfast.tf.gated_dense import GatedDense
from feedfast.tf.leaf_embedding import LeafEmbedding
from feedfast.tf.pooled_embedding import PooledEmbedding
from feedfast.tf.string_lookup import StringLookup

__all__ = [
    "CompositionalEmbedding",
    "CrossLayer",
    "GatedDense",
    "LeafEmbedding",
    "PooledEmbedding",
    "StringLookup",
]
