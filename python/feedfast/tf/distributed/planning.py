"""The plan of a model's tables for the processes that train it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from feedfast.comm import Engine
from feedfast.sharding import KINDS, Kind, ShardingPlan, TableShape, Topology, Workload, plan_tables
from feedfast.sharding.calibration import calibrate

_GIB = 1 << 30


def plan(
    tables: Sequence[TableShape],
    engine_or_topology: Engine | Topology,
    *,
    batch_per_rank: int,
    window: int = 1,
    memory_gib: float | None = None,
    kinds: Sequence[Kind] = KINDS,
    seed: int = 0,
) -> ShardingPlan:
    """Chooses where the parts of `tables` live, for `ShardedEmbedding(tables, plan=...)`.

    With an engine, all processes call it; they measure themselves for about 20 s first
    (`feedfast.sharding.calibration`) and get the same plan. `feedfast plan shards` prints reasons
    and predictions.

    Args:
        tables: Shapes, in the order and with the names of the `TableSpec`s.
        engine_or_topology: The processes that train, or rates that are known already.
        batch_per_rank: Examples of a micro-batch in one process.
        window: Micro-batches between two updates.
        memory_gib: What one process may use for tables, optimizer states and exchanges; default:
            that of the topology, 8 with an engine.
        kinds: Kinds of placement that may be used.
        seed: Of the search.

    Raises:
        ValueError: As `feedfast.sharding.plan_tables`.
        RuntimeError: As the engine.
    """
    if isinstance(engine_or_topology, Topology):
        topology = engine_or_topology
        if memory_gib is not None:
            topology = replace(topology, memory_bytes=int(memory_gib * _GIB))
    else:
        memory = int((8.0 if memory_gib is None else memory_gib) * _GIB)
        topology = calibrate(engine_or_topology, memory_bytes=memory)
    work = Workload(batch_per_rank=batch_per_rank, window=window)
    return plan_tables(tables, topology, work, kinds=kinds, seed=seed).plan
