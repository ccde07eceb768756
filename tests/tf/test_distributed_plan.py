"""`fft.distributed.plan`: with known rates, and with those of the processes themselves."""

from __future__ import annotations

import numpy as np
import pytest

import feedfast.tf as fft
from feedfast.comm import NullEngine
from feedfast.sharding import preset
from feedfast.tf.distributed import ShardedEmbedding, TableShape, TableSpec, plan

TABLES = [
    TableShape(name="members", rows=1000, dim=8, lookups_per_example=4),
    TableShape(name="items", rows=50, dim=4),
]


def test_plans_for_known_rates() -> None:
    topology = preset("h100", num_hosts=2, ranks_per_host=2)
    chosen = fft.distributed.plan(TABLES, topology, batch_per_rank=64)
    assert (chosen.num_ranks, chosen.ranks_per_host) == (4, 2)
    assert chosen.tables == tuple(TABLES)
    only = plan(TABLES, topology, batch_per_rank=64, kinds=("table",))
    assert {placement.kind for placement in only.placements} == {"table"}
    with pytest.raises(ValueError, match="no plan found that fits"):
        plan(TABLES, topology, batch_per_rank=64, memory_gib=1e-6)


def test_plans_for_the_processes_that_train() -> None:
    with NullEngine() as engine:
        chosen = plan(TABLES, engine, batch_per_rank=16, window=2)
        specs = [TableSpec(name=t.name, rows=t.rows, dim=t.dim) for t in TABLES]
        layer = ShardedEmbedding(specs, plan=chosen, engine=engine)
        bags = (np.array([1, 2, 3]), np.array([0, 2, 3]))
        out = layer({"members": bags, "items": bags})
    assert out["members"].shape == (2, 8)
