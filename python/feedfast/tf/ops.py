"""The TensorFlow ops of feedfast as functions (`fft.ops`)."""

from __future__ import annotations

from feedfast.tf.gated_dense import gated_dense

__all__ = ["gated_dense"]
