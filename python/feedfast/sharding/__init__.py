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
from feedfast.sharding.sharding_plan import ShardingPlan
from feedfast.sharding.table_shape import TableShape

__all__ = [
    "KINDS",
    "Kind",
    "Placement",
    "Shard",
    "ShardingPlan",
    "TableShape",
    "column_wise",
    "data_parallel",
    "row_column",
    "row_wise",
    "table_wise",
]
