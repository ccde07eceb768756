"""Training on several processes (`fft.distributed`)."""

from __future__ import annotations

from feedfast.sharded_tables import TableSpec
from feedfast.sharding import ShardingPlan, TableShape
from feedfast.tf.distributed.broadcast import broadcast_variables
from feedfast.tf.distributed.planning import plan
from feedfast.tf.distributed.sharded_embedding import ShardedEmbedding
from feedfast.tf.distributed.sparse_exchange import TableChoice
from feedfast.tf.distributed.steps import equal_steps
from feedfast.tf.distributed.tape import AccumulatingGradientTape, TrainingStep
from feedfast.tf.distributed.window import WindowParticipant

__all__ = [
    "AccumulatingGradientTape",
    "ShardedEmbedding",
    "ShardingPlan",
    "TableChoice",
    "TableShape",
    "TableSpec",
    "TrainingStep",
    "WindowParticipant",
    "broadcast_variables",
    "equal_steps",
    "plan",
]
