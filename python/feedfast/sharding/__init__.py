"""Which process holds which part of which embedding table; docs/sharding.md."""

from __future__ import annotations

from feedfast.sharding.placement import (
    KINDS,
    Kind,
    Placement,
    Shard,
    column_wise,
    data_parallel,
    row_column,
    row_wise,
    table_wise,
)
from feedfast.sharding.planner import Alternative, Planned, plan_tables
from feedfast.sharding.sharding_plan import ShardingPlan
from feedfast.sharding.step_cost import PARTS, Exchange, Prediction, Workload, predict
from feedfast.sharding.table_shape import TableShape
from feedfast.sharding.topology import PRESETS, Topology, preset

__all__ = [
    "KINDS",
    "PARTS",
    "PRESETS",
    "Alternative",
    "Exchange",
    "Kind",
    "Placement",
    "Planned",
    "Prediction",
    "Shard",
    "ShardingPlan",
    "TableShape",
    "Topology",
    "Workload",
    "column_wise",
    "data_parallel",
    "plan_tables",
    "predict",
    "preset",
    "row_column",
    "row_wise",
    "table_wise",
]
