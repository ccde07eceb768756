"""A model of embedding tables alone, trained in shards and, beside it, whole and in double."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.bags import Bags, pooled_lookup
from feedfast.comm import Engine
from feedfast.row_optimizers import Rule
from feedfast.sharded_tables import Normal, RowOptimization, ShardedTables, TableSpec
from feedfast.sharding import (
    Placement,
    ShardingPlan,
    TableShape,
    column_wise,
    data_parallel,
    row_column,
    row_wise,
    table_wise,
)
from reference.row_optimizer import RowOptimizer

Array = NDArray[Any]
LEARNING_RATE = 0.05
WORLD = 12  # ranks' batches in a step, which 1, 2, 3, 4 or 6 ranks share
# Odd dims, a table with fewer rows than ranks, one with a single row and column.
SIZES = {
    "replicated": (37, 5),
    "whole": (41, 7),
    "columns": (53, 9),
    "rows": (67, 3),
    "grid": (71, 11),
    "hot_rows": (83, 6),
    "hot_columns": (47, 13),
    "short": (3, 4),
    "single": (1, 1),
}


def specs_of(rule: Rule) -> list[TableSpec]:
    """The tables, all with one rule; Adam's epsilon is 1e-3, or the sign of noise would count."""
    optimizer = RowOptimization(
        rule=rule,
        learning_rate=LEARNING_RATE,
        initial_state=0.1 if "adagrad" in rule else 0.0,
        epsilon=1e-3 if "adam" in rule else 1e-7,
    )
    return [
        TableSpec(name=name, rows=rows, dim=dim, optimizer=optimizer, initializer=Normal(0.5))
        for name, (rows, dim) in SIZES.items()
    ]


def plan_of(num_ranks: int, *, shift: int = 0) -> ShardingPlan:
    """Every kind of placement, `shift` gives others of the same kinds."""
    per_host = 2 if num_ranks % 2 == 0 and num_ranks > 2 else 1
    hosts = list(range(num_ranks // per_host))
    ranks = [(rank + shift) % num_ranks for rank in range(num_ranks)]
    shapes = {name: TableShape(name=name, rows=r, dim=d) for name, (r, d) in SIZES.items()}

    def columns(name: str, hot_rows: int = 0) -> Placement:
        shape = shapes[name]
        return column_wise(shape, ranks[: min(num_ranks, shape.dim)], hot_rows=hot_rows)

    placements = [
        data_parallel(shapes["replicated"], num_ranks),
        table_wise(shapes["whole"], ranks[-1]),
        columns("columns"),
        row_wise(shapes["rows"], ranks),
        row_column(shapes["grid"], hosts, per_host),
        row_wise(shapes["hot_rows"], ranks, hot_rows=9 + shift),
        columns("hot_columns", hot_rows=7),
        row_wise(shapes["short"], ranks),
        table_wise(shapes["single"], ranks[0]),
    ]
    return ShardingPlan(
        num_ranks=num_ranks,
        ranks_per_host=per_host,
        tables=tuple(shapes.values()),
        placements=tuple(placements),
    )


@dataclass(frozen=True)
class Batch:
    """What one rank sees in one micro-batch: bags and the vectors to come near to, per table."""

    bags: list[Bags]
    targets: list[Array]


def batch_of(step: int, micro: int, rank: int, *, size: int = 6) -> Batch:
    """Some are empty, some have one id all over; ids of low rows are frequent."""
    rng = np.random.default_rng([step, micro, rank])
    bags, targets = [], []
    for table, (rows, dim) in enumerate(SIZES.values()):
        examples = 0 if (step + rank + micro) % 7 == 3 else size
        lengths = rng.integers(0, 5, examples)
        ids = np.minimum(rng.zipf(1.3, int(lengths.sum())) - 1, rows - 1).astype(np.int64)
        if (step + table) % 5 == 0:
            ids[:] = rows // 2
        bags.append(Bags.from_lengths(ids, lengths))
        targets.append(rng.standard_normal((examples, dim)).astype(np.float32))
    return Batch(bags, targets)


def row_gradients(rows: Array, positions: Array, bags: Bags, target: Array) -> Array:
    """Gradient by `rows` of half the mean squared distance of the summed bags from `target`."""
    pooled = pooled_lookup(rows, positions, bags.offsets)
    slope = np.repeat((pooled - target) / max(1, bags.num_bags), bags.lengths, axis=0)
    gradient = np.zeros_like(rows)
    np.add.at(gradient, positions, slope)
    return gradient


def train(tables: ShardedTables, engine: Engine, steps: Sequence[int], k: int, world: int) -> None:
    """Windows of `k` micro-batches; the engine's ranks share the batches of `world` ranks."""
    for step in steps:
        for micro in range(k):
            for rank in range(engine.rank, world, engine.size):
                batch = batch_of(step, micro, rank)
                fetched = tables.lookup(batch.bags)
                gradients = [
                    row_gradients(found.rows, found.positions, bags, target)
                    for found, bags, target in zip(fetched, batch.bags, batch.targets, strict=True)
                ]
                tables.accumulate([found.ids for found in fetched], gradients)
        tables.exchange_window(1.0 / (k * world))
        tables.apply_window(1.0)


def train_whole(rule: Rule, steps: Sequence[int], k: int, world: int) -> list[Array]:
    """The tables after the same windows, whole and in double precision."""
    oracles = []
    for spec in specs_of(rule):
        start = spec.initializer(spec.name, 0, spec.rows, spec.dim)
        options = spec.optimizer
        oracles.append(
            RowOptimizer(start, rule, epsilon=options.epsilon, initial=options.initial_state)
        )
    for step in steps:
        slices: list[list[tuple[Array, Array]]] = [[] for _ in oracles]
        for micro in range(k):
            for rank in range(world):
                batch = batch_of(step, micro, rank)
                for table, oracle in enumerate(oracles):
                    bags, target = batch.bags[table], batch.targets[table]
                    pooled = np.zeros((bags.num_bags, oracle.table.shape[1]))
                    bag_of = np.repeat(np.arange(bags.num_bags), bags.lengths)
                    np.add.at(pooled, bag_of, oracle.table[bags.values])
                    slope = (pooled - target) / max(1, bags.num_bags)
                    slices[table].append((bags.values, slope[bag_of]))
        for oracle, parts in zip(oracles, slices, strict=True):
            rows = np.concatenate([part[0] for part in parts])
            values = np.concatenate([part[1] for part in parts])
            oracle.apply(rows, values / (k * world), LEARNING_RATE)
    return [oracle.table for oracle in oracles]


def assembled(shards: Sequence[ShardedTables]) -> list[Array]:
    """The whole tables from the parts of all ranks; replicas must have the same bits."""
    tables = [np.full((spec.rows, spec.dim), np.nan, np.float32) for spec in shards[0].specs]
    for rank in shards:
        for piece, part in rank.parts.items():
            rows = slice(piece.row_begin, piece.row_end)
            values = part.values(0, piece.rows)
            tables[piece.table][rows, piece.column_begin : piece.column_end] = values
        for piece, part in rank.replicas.items():
            rows = slice(piece.row_begin, piece.row_end)
            np.testing.assert_array_equal(part.weights, shards[0].replicas[piece].weights)
            tables[piece.table][rows] = part.values(0, piece.rows)
    assert not any(np.isnan(table).any() for table in tables)
    return tables
