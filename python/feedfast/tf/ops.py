"""The TensorFlow ops of feedfast as functions (`fft.ops`)."""

from __future__ import annotations

from feedfast.tf.fusion import fuse, unfuse
from feedfast.tf.gated_dense import gated_dense
from feedfast.tf.grouped_lookup import PooledFeature, pooled_lookup_grouped
from feedfast.tf.hashing import double_hash_rows, hash_rows, quotient_remainder_rows
from feedfast.tf.leaf_embedding import leaf_encode
from feedfast.tf.pooled_lookup import pooled_lookup
from feedfast.tf.row_update import RowRule, assign_rows, row_update

__all__ = [
    "PooledFeature",
    "RowRule",
    "assign_rows",
    "double_hash_rows",
    "fuse",
    "gated_dense",
    "hash_rows",
    "leaf_encode",
    "pooled_lookup",
    "pooled_lookup_grouped",
    "quotient_remainder_rows",
    "row_update",
    "unfuse",
]
