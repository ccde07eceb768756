"""Training on several processes (`fft.distributed`)."""

from __future__ import annotations

from feedfast.tf.distributed.window import WindowParticipant

__all__ = ["WindowParticipant"]
