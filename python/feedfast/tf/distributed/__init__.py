"""Training on several processes (`fft.distributed`)."""

from __future__ import annotations

from feedfast.sharded_tables import TableSpec
from feedfast.tf.distributed.sharded_embedding import ShardedEmbedding
from feedfast.tf.distributed.window import WindowParticipant

__all__ = ["ShardedEmbedding", "TableSpec", "WindowParticipant"]
