"""The TensorFlow ops of feedfast as functions (`fft.ops`)."""

from __future__ import annotations

from feedfast.tf.gated_dense import gated_dense
from feedfast.tf.pooled_lookup import pooled_lookup

__all__ = ["gated_dense", "pooled_lookup"]
