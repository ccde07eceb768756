"""One of six processes that look up and train two tables, whole on two or in columns on all.

Usage: distributed_columns.py ROUNDS SCALE OUT, started by `feedfast.comm.launch.run_local`. Rank 0
writes one JSON document to OUT. Both plans take turns in the same processes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from feedfast.bags import Bags
from feedfast.comm import Engine, SharedMemoryEngine, connect
from feedfast.sharded_tables import RowOptimization, ShardedTables, TableSpec
from feedfast.sharding import ShardingPlan, TableShape, column_wise, table_wise

ROWS, DIM, EXAMPLES, IDS = 50_000, 192, 512, 10
NAMES = ("members", "hashtags")


class Clocked(SharedMemoryEngine):
    """Knows the processor time of this thread that exchanges took, waiting for others included."""

    exchanging = 0.0

    def all_to_all(self, *args: Any, **kwargs: Any) -> Any:
        before = time.thread_time()
        try:
            return super().all_to_all(*args, **kwargs)
        finally:
            self.exchanging += time.thread_time() - before


def plans_of(num_ranks: int, rows: int) -> dict[str, ShardingPlan]:
    shapes = tuple(TableShape(name=name, rows=rows, dim=DIM) for name in NAMES)
    share = num_ranks // len(shapes)
    placements = {
        "table": tuple(table_wise(shape, index) for index, shape in enumerate(shapes)),
        "column": tuple(
            column_wise(shape, range(index * share, (index + 1) * share))
            for index, shape in enumerate(shapes)
        ),
    }
    return {
        name: ShardingPlan(num_ranks=num_ranks, ranks_per_host=1, tables=shapes, placements=placed)
        for name, placed in placements.items()
    }


def step(tables: ShardedTables, bags: list[Bags]) -> None:
    """Moves every row of the batch towards 1."""
    found = tables.lookup(bags)
    tables.accumulate([rows.ids for rows in found], [rows.rows - 1 for rows in found])
    tables.exchange_window(1.0)
    tables.apply_window(1.0)


def measure(engine: Engine, rounds: int, scale: int) -> dict[str, Any]:
    rows, examples = ROWS // scale, EXAMPLES // scale
    optimizer = RowOptimization(rule="adagrad", learning_rate=0.01, initial_state=0.1)
    specs = [TableSpec(name=name, rows=rows, dim=DIM, optimizer=optimizer) for name in NAMES]
    name = engine.all_gather(np.frombuffer(str(time.time_ns()).encode(), np.uint8))[0].tobytes()
    ways = {}
    for plan_name, plan in plans_of(engine.size, rows).items():
        group = f"columns-{plan_name}-{name.decode()}"
        own = Clocked(group, rank=engine.rank, size=engine.size)
        ways[plan_name] = (own, ShardedTables(specs, plan, own))
    rng = np.random.default_rng(engine.rank)
    lengths = np.full(examples, IDS)
    batches = [
        [Bags.from_lengths(rng.integers(0, rows, examples * IDS), lengths) for _ in NAMES]
        for _ in range(3)
    ]
    for _, tables in ways.values():
        step(tables, batches[0])
    wall: dict[str, list[float]] = {name: [] for name in ways}
    busy: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds):
        for plan_name, (own, tables) in ways.items():
            engine.barrier()
            start, cpu, exchanging = time.perf_counter(), time.thread_time(), own.exchanging
            step(tables, batches[round_ % len(batches)])
            busy[plan_name].append(time.thread_time() - cpu - (own.exchanging - exchanging))
            wall[plan_name].append(time.perf_counter() - start)
    result = {}
    for plan_name, (own, tables) in ways.items():
        result[plan_name] = {
            "seconds": np.max(engine.all_gather(np.asarray(wall[plan_name])), axis=0).tolist(),
            "busy": np.median(engine.all_gather(np.asarray(busy[plan_name])), axis=1).tolist(),
            "table_bytes": [int(own[0]) for own in engine.all_gather(np.array([tables.nbytes]))],
        }
        own.close()
    return result


def main(rounds: str, scale: str, out: str) -> None:
    with connect() as engine:
        result = measure(engine, int(rounds), int(scale))
        if engine.rank == 0:
            Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
