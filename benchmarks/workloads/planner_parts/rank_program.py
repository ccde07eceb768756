"""One rank: measures the machine, then the windows of random plans and of the planner's, in turns.

    python rank_program.py RESULT PLANS ROUNDS

Rank 0 writes RESULT, a JSON object: the topology and, by plan, predicted and measured seconds of a
micro-batch, the latter also of every other round apart; the planner's plan last.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from feedfast.bags import Bags, FloatArray, pooled_lookup
from feedfast.comm import Engine, connect
from feedfast.comm.sparse_rows import RowAccumulator
from feedfast.sharded_tables import FetchedRows, RowOptimization, ShardedTables, TableSpec
from feedfast.sharding import (
    KINDS,
    Placement,
    ShardingPlan,
    TableShape,
    Workload,
    column_wise,
    data_parallel,
    plan_tables,
    predict,
    row_wise,
    table_wise,
)
from feedfast.sharding.calibration import calibrate

BATCH = 4096
WINDOW = 1
SEED = 20_261_122
# Next to no key twice or the same ones over and over, narrow and wide, one id and many: where such
# a table is makes a difference.
TABLES = tuple(
    TableShape(name=name, rows=rows, dim=dim, lookups_per_example=ids, zipf=zipf)
    for name, rows, dim, ids, zipf in (
        ("members", 100_000, 64, 3, 0.4),
        ("items", 60_000, 128, 2, 0.2),
        ("hashtags", 100_000, 32, 6, 1.0),
        ("companies", 20_000, 96, 1, 0.6),
        ("titles", 4_000, 64, 4, 0.8),
        ("countries", 200, 8, 1, 1.0),
    )
)


def main(result: Path, num_plans: int, rounds: int) -> None:
    with connect() as engine:
        topology = calibrate(engine, memory_bytes=1 << 30)
        work = Workload(batch_per_rank=BATCH, window=WINDOW)
        rng = np.random.default_rng(SEED)
        plans = random_plans(rng, engine.size, num_plans)
        plans.append(plan_tables(TABLES, topology, work).plan)
        models = [ShardedTables(_specs(), plan, engine) for plan in plans]
        batches = _batches(engine.rank)
        # In another order each round: what a plan leaves in caches and memory meets another plan.
        measured = np.empty((rounds + 1, len(plans)))
        for taken in measured:
            for index in rng.permutation(len(plans)):
                taken[index] = _step_seconds(engine, models[index], batches)
        if engine.rank:
            return
    document = {
        "topology": json.loads(topology.to_json()),
        "predicted": [predict(plan, topology, work).step_seconds for plan in plans],
        # The first round warms up.
        "measured": np.median(measured[1:], axis=0).tolist(),
        "halves": [np.median(measured[first::2], axis=0).tolist() for first in (1, 2)],
    }
    result.write_text(json.dumps(document))


def random_plans(rng: np.random.Generator, num_ranks: int, count: int) -> list[ShardingPlan]:
    """Plans of which no two are the same but for the numbers of the ranks."""
    plans: dict[tuple[object, ...], ShardingPlan] = {}
    while len(plans) < count:
        plan = _random_plan(rng, num_ranks)
        number: dict[int, int] = {}  # ranks in the order in which they come up
        shape = tuple(
            tuple(
                (number.setdefault(shard.rank, len(number)), shard.rows, shard.columns)
                for shard in placement.shards
            )
            for placement in plan.placements
        )
        plans.setdefault(shape, plan)
    return list(plans.values())


def _random_plan(rng: np.random.Generator, num_ranks: int) -> ShardingPlan:
    """A plan on some of the ranks of one host, with random kinds of which some are more likely."""
    kinds = [kind for kind in KINDS if kind != "row_column"]
    likely = rng.dirichlet(np.full(len(kinds), 0.5))
    used = [int(rank) for rank in rng.permutation(num_ranks)[: rng.integers(1, num_ranks + 1)]]

    def place(table: TableShape) -> Placement:
        kind = rng.choice(kinds, p=likely)
        ranks = [int(rank) for rank in rng.permutation(used)]
        some = ranks[: int(rng.integers(1, len(used) + 1))]
        if kind == "data_parallel":
            return data_parallel(table, num_ranks)
        if kind == "table":
            return table_wise(table, ranks[0])
        return (column_wise if kind == "column" else row_wise)(table, some)

    return ShardingPlan(
        num_ranks=num_ranks,
        ranks_per_host=num_ranks,
        tables=TABLES,
        placements=tuple(place(table) for table in TABLES),
    )


def _specs() -> list[TableSpec]:
    rule = RowOptimization(rule="rowwise_adagrad")
    return [
        TableSpec(name=table.name, rows=table.rows, dim=table.dim, optimizer=rule)
        for table in TABLES
    ]


def _batches(rank: int) -> list[list[Bags]]:
    """[window][table]: ids whose frequencies fall as the shapes say, in rows in no order."""
    rng = np.random.default_rng([SEED, rank])
    batches = []
    for _ in range(WINDOW):
        bags = []
        for table in TABLES:
            count = int(BATCH * table.lookups_per_example)
            weights = np.cumsum(np.arange(1, table.rows + 1) ** -table.zipf)
            drawn = np.searchsorted(weights, rng.random(count) * weights[-1])
            order = np.random.default_rng(SEED).permutation(table.rows)  # the same on all ranks
            offsets = np.linspace(0, count, BATCH + 1).astype(np.int64)
            bags.append(Bags(order[drawn].astype(np.int64), offsets))
        batches.append(bags)
    return batches


def _pooled_and_back(bag: Bags, found: FetchedRows) -> FloatArray:
    """The gradient of the fetched rows, of a loss that is half the squares of the pooled ones."""
    pooled = pooled_lookup(found.rows, found.positions, bag.offsets, pooling="sum")
    of_ids = np.repeat(np.float32(1e-3) * pooled, np.diff(bag.offsets), axis=0)
    sums = RowAccumulator(found.rows.shape[1])
    sums.add(found.positions, of_ids)
    return sums.take().sums


def _step_seconds(engine: Engine, model: ShardedTables, batches: list[list[Bags]]) -> float:
    """Seconds of one micro-batch: a window from the first lookup to the last update, divided."""
    engine.barrier(name="window")
    start = time.perf_counter()
    for bags in batches:
        fetched = model.lookup(bags)
        gradients = [_pooled_and_back(bag, found) for bag, found in zip(bags, fetched, strict=True)]
        model.accumulate([found.ids for found in fetched], gradients)
    model.exchange_window(1.0)
    model.apply_window(1.0)
    engine.barrier(name="window")
    return (time.perf_counter() - start) / len(batches)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
