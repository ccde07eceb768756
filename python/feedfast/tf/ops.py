"""The TensorFlow ops of feedfast as functions (`fft.ops`)."""

from __future__ import annotations

from feedfast.tf.fusion import fuse, unfuse
from feedfast.tf.gated_dense import gated_dense
from feedfast.tf.leaf_embedding import leaf_encode
from feedfast.tf.pooled_lookup import pooled_lookup

__all__ = ["fuse", "gated_dense", "leaf_encode", "pooled_lookup", "unfuse"]
