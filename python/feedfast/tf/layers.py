"""The Keras layers of feedfast (`fft.layers`)."""

from __future__ import annotations

from feedfast.tf.gated_dense import GatedDense

__all__ = ["GatedDense"]
