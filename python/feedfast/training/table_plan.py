"""Which process holds which part of a ranker's tables: from the configuration to a plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from feedfast.comm import Engine
from feedfast.config import RankerConfig
from feedfast.ranker.examples import Examples
from feedfast.ranker.features import Sizes
from feedfast.ranker_precision import TABLES
from feedfast.sharding import (
    Kind,
    Placement,
    ShardingPlan,
    TableShape,
    Topology,
    Workload,
    data_parallel,
    plan_tables,
    row_wise,
)
from feedfast.training import replicas

# Of `auto`: a plan must not depend on the moment at which it is made, or a run that goes on would
# round otherwise. So rates are those of `feedfast plan calibrate` on a two-core machine, rounded;
# between hosts a network of 10 Gbit/s is assumed.
_RATES = Topology(
    name="cpu",
    source="preset",
    num_hosts=1,
    ranks_per_host=1,
    memory_bytes=1,
    local_latency=50e-6,
    local_bandwidth=6e9,
    host_latency=200e-6,
    host_bandwidth=1e9,
    id_seconds=30e-9,
    row_seconds=6e-9,
    row_bandwidth=8e9,
    window_seconds=28e-9,
    window_bandwidth=6e9,
    sum_seconds=26e-9,
    sum_bandwidth=8e9,
    update_seconds=18e-9,
    update_bandwidth=30e9,
    copy_bandwidth=12e9,
    table_seconds=4e-6,
    workers=1,
)
# Of `auto`, weights and Adam's states. Below the first, dividing saves no memory that matters, and
# two more exchanges a micro-batch cost time; below the second the same holds for one table.
_WHOLE_MODEL_BYTES = 256 << 20
_WHOLE_TABLE_BYTES = 4 << 20
_DIVIDED: tuple[Kind, ...] = ("table", "column", "row", "row_column")
# Of a host's memory, for tables, states and exchanges of all its processes.
_MEMORY_SHARE = 0.5


def table_shapes(config: RankerConfig, sizes: Sizes, examples: Examples) -> tuple[TableShape, ...]:
    """The tables as a planner sees them, in the order of `TABLES`.

    Args:
        config: Dims.
        sizes: Rows.
        examples: What is trained on, for the number of ids in a row.
    """
    n = max(1, len(examples))
    lookups = (
        3 + examples.history_members.values.size / n,
        (examples.history_hashtags.values.size + examples.hashtags.values.size) / n,
        sizes.num_trees,
    )
    rows = (sizes.num_members, sizes.num_hashtags, sizes.num_leaves)
    dims = (config.member.dim, config.hashtag.dim, config.forest.leaf_dim)
    return tuple(
        TableShape(
            name=name, rows=num_rows, dim=dim, lookups_per_example=float(ids), optimizer="adam"
        )
        for name, num_rows, dim, ids in zip(TABLES, rows, dims, lookups, strict=True)
    )


def choose_plan(
    config: RankerConfig, tables: Sequence[TableShape], engine: Engine
) -> ShardingPlan | None:
    """The plan that `DistributedConfig.sharding` asks for; collective.

    Args:
        config: Of the run.
        tables: As of `table_shapes`.
        engine: Of the processes that train.

    Returns:
        None where every process holds all tables whole, as one process alone always does.

    Raises:
        OSError: The plan file cannot be read; on rank 0.
        ValueError: It is of other tables or of another number of processes, or no plan of `auto`
            fits the memory; on rank 0.
        PeerLostError: One of these, on other ranks.
    """
    sharding = config.distributed.sharding
    if sharding == "auto" and whole_bytes(tables) <= _WHOLE_MODEL_BYTES:
        sharding = "none"
    if engine.size == 1 or sharding == "none":
        return None
    if sharding == "row":
        return ShardingPlan(
            num_ranks=engine.size,
            ranks_per_host=1,
            tables=tuple(tables),
            placements=tuple(
                data_parallel(table, engine.size)
                if table.name == "leaf_table"
                else row_wise(table, range(engine.size))
                for table in tables
            ),
        )

    def choose() -> str:
        if sharding == "auto":
            return _fastest(config, tables, engine).to_json()
        return _from_file(Path(sharding), tables, engine).to_json()

    # One choice for all: the file is that of rank 0, and so is the memory.
    return ShardingPlan.from_json(
        replicas.broadcast_json(engine, replicas.on_rank_0(engine, choose))
    )


def whole_bytes(tables: Sequence[TableShape]) -> int:
    """Bytes of the weights and states of whole tables."""
    return sum(table.part_bytes(table.rows, table.dim) for table in tables)


def describe_plan(plan: ShardingPlan | None, tables: Sequence[TableShape]) -> str:
    """One line on what lies where, as `choose_plan` has chosen."""
    whole = f"{whole_bytes(tables) / 2**20:,.1f} MiB"
    if plan is None:
        return f"tables and their Adam states: {whole} in each process"
    held = plan.memory_bytes() / 2**20
    kinds = {
        "data_parallel": "whole in each",
        "table": "in one process",
        "column": "by columns",
        "row": "by rows",
        "row_column": "by rows and columns",
    }
    where = ", ".join(f"{p.table} {kinds[p.kind]}" for p in plan.placements)
    return (
        f"tables and their Adam states: {held.min():,.1f} to {held.max():,.1f} of {whole} in each "
        f"process ({where})"
    )


def _fastest(config: RankerConfig, tables: Sequence[TableShape], engine: Engine) -> ShardingPlan:
    small = [t for t in tables if t.part_bytes(t.rows, t.dim) <= _WHOLE_TABLE_BYTES]
    large = [table for table in tables if table not in small]
    ranks_per_host = engine.local_size if engine.size % engine.local_size == 0 else 1
    host_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    topology = replace(
        _RATES,
        num_hosts=engine.size // ranks_per_host,
        ranks_per_host=ranks_per_host,
        memory_bytes=int(_MEMORY_SHARE * host_bytes / engine.local_size),
        workers=ranks_per_host,
    )
    parts = engine.size * config.training.accumulate
    work = Workload(
        batch_per_rank=-(-config.training.batch_size // parts), window=config.training.accumulate
    )
    planned = plan_tables(large, topology, work, kinds=_DIVIDED).plan
    return replace(
        planned,
        tables=tuple(tables),
        placements=tuple(
            data_parallel(table, engine.size) if table in small else planned.placement(table.name)
            for table in tables
        ),
    )


def _from_file(path: Path, tables: Sequence[TableShape], engine: Engine) -> ShardingPlan:
    """The plan of a file for tables of these sizes.

    The two stages of a run have tables of different sizes, so the plan's ranges of rows are scaled.
    """
    try:
        plan = ShardingPlan.from_json(path.read_text())
        if plan.num_ranks != engine.size:
            raise ValueError(f"is for {plan.num_ranks} processes; {engine.size} train")
        names = [table.name for table in tables]
        planned = [table.name for table in plan.tables]
        if sorted(planned) != sorted(names):
            raise ValueError(f"is of tables {', '.join(planned)}; needs {', '.join(names)}")
        placements = tuple(_scaled(plan, table) for table in tables)
        return replace(plan, tables=tuple(tables), placements=placements)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _scaled(plan: ShardingPlan, table: TableShape) -> Placement:
    planned, placement = plan.table(table.name), plan.placement(table.name)
    if planned.dim != table.dim:
        raise ValueError(
            f"table {table.name!r} has {planned.dim} columns; the configuration says {table.dim}"
        )
    if planned.rows < table.rows:
        raise ValueError(
            f"table {table.name!r} is planned for {planned.rows} rows; the data need {table.rows}"
        )

    def at(row: int) -> int:
        return row * table.rows // planned.rows

    shards = [
        replace(shard, row_begin=at(shard.row_begin), row_end=at(shard.row_end))
        for shard in placement.shards
    ]
    return replace(
        placement,
        hot_rows=at(placement.hot_rows),
        shards=tuple(shard for shard in shards if shard.rows),
    )
