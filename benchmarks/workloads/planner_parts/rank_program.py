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
from feedfast.sharded_tables import RowOptimization, ShardedTables, TableSpec
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

BATCH = 2048
WINDOW = 2
SEED = 20_261_122
TABLES = tuple(
    TableShape(name=name, rows=rows, dim=dim, lookups_per_example=ids, zipf=zipf)
    for name, rows, dim, ids, zipf in (
        ("members", 300_000, 64, 4, 0.8),
        ("items", 200_000, 128, 2, 0.6),
        ("hashtags", 100_000, 32, 4, 0.9),
        ("companies", 50_000, 32, 1, 0.8),
        ("titles", 5_000, 16, 1, 0.8),
        ("countries", 200, 8, 1, 1.0),
    )
)


def main(result: Path, num_plans: int, rounds: int) -> None:
    with connect() as engine:
        topology = calibrate(engine, memory_bytes=1 << 30)
        work = Workload(batch_per_rank=BATCH, window=WINDOW)
        rng = np.random.default_rng(SEED)
        plans = [random_plan(rng, engine.size) for _ in range(num_plans)]
        plans.append(plan_tables(TABLES, topology, work).plan)
        models = [ShardedTables(_specs(), plan, engine) for plan in plans]
        batches = _batches(engine.rank)
        measured = [
            [_step_seconds(engine, model, batches) for model in models] for _ in range(rounds + 1)
        ]
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


def random_plan(rng: np.random.Generator, num_ranks: int) -> ShardingPlan:
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


def _step_seconds(engine: Engine, model: ShardedTables, batches: list[list[Bags]]) -> float:
    """Seconds of one micro-batch: a window from the first lookup to the last update, divided."""
    engine.barrier(name="window")
    start = time.perf_counter()
    for bags in batches:
        fetched = model.lookup(bags)
        gradients: list[FloatArray] = []
        for bag, found in zip(bags, fetched, strict=True):
            pooled_lookup(found.rows, found.positions, bag.offsets, pooling="sum")
            gradients.append(1e-3 * found.rows)
        model.accumulate([found.ids for found in fetched], gradients)
    model.exchange_window(1.0)
    model.apply_window(1.0)
    engine.barrier(name="window")
    return (time.perf_counter() - start) / len(batches)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
