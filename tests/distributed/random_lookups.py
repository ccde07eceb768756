"""One rank of a long run of random sharded tables: any plan, rule, dtype, checkpoint, error.

Usage: random_lookups.py FOLDER NUM_STEPS [SEED]. Run by `test_random_steps.py`.

Ranks draw the shape of every model and window from a seed that they share, and what they look up
from their own, in tables with vocabularies by rows or by keys. After each model all read whole
tables, which must have the same bits.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from feedfast.bags import Bags
from feedfast.comm import Engine, connect
from feedfast.row_optimizers import Rule
from feedfast.sharded_tables import (
    BadBagsError,
    KeyBags,
    RowOptimization,
    ShardedTables,
    ShardedVocabulary,
    TableSpec,
)
from feedfast.sharded_tables.checkpoint import load_tables, save_tables
from feedfast.sharded_tables.weight_format import TableDtype
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


def draw_placement(
    shape: TableShape, ranks: list[int], per_host: int, shared: np.random.Generator
) -> Placement:
    hot_rows = int(shared.integers(0, min(shape.rows, 8)))
    kind = str(shared.choice(["data_parallel", "table", "column", "row", "row_column"]))
    if kind == "data_parallel":
        return data_parallel(shape, len(ranks))
    if kind == "table":
        return table_wise(shape, ranks[0], hot_rows=hot_rows)
    if kind == "column":
        return column_wise(shape, ranks[: min(len(ranks), shape.dim)], hot_rows=hot_rows)
    if kind == "row":
        return row_wise(shape, ranks, hot_rows=hot_rows)
    hosts = list(range(min(len(ranks) // per_host, shape.dim)))
    return row_column(shape, hosts, per_host, hot_rows=hot_rows)


def draw_plan(
    specs: list[TableSpec],
    size: int,
    shared: np.random.Generator,
    vocabularies: dict[str, ShardedVocabulary],
) -> ShardingPlan:
    per_host = int(shared.choice([n for n in range(1, size + 1) if size % n == 0]))
    shapes = tuple(TableShape(name=spec.name, rows=spec.rows, dim=spec.dim) for spec in specs)
    return ShardingPlan(
        num_ranks=size,
        ranks_per_host=per_host,
        tables=shapes,
        placements=tuple(
            vocabularies[shape.name].placement(shape)
            if shape.name in vocabularies
            else draw_placement(shape, shared.permutation(size).tolist(), per_host, shared)
            for shape in shapes
        ),
    )


def draw_specs(shared: np.random.Generator) -> list[TableSpec]:
    return [
        TableSpec(
            name=f"t{index}",
            rows=int(shared.integers(1, 200)),
            dim=int(shared.integers(1, 33)),
            optimizer=RowOptimization(rule=str(shared.choice(get_args(Rule)))),  # type: ignore[arg-type]
            dtype=str(shared.choice(get_args(TableDtype))),  # type: ignore[arg-type]
        )
        for index in range(int(shared.integers(1, 6)))
    ]


def keys_of(spec: TableSpec) -> list[bytes]:
    """What is known of a table with a vocabulary."""
    return [b"%s %d" % (spec.name.encode(), index) for index in range(1, spec.rows)]


def draw_vocabularies(
    specs: list[TableSpec], engine: Engine, shared: np.random.Generator
) -> dict[str, ShardedVocabulary]:
    return {
        spec.name: ShardedVocabulary.build(
            [keys_of(spec)[engine.rank :: engine.size]],
            engine,
            num_parts=int(shared.integers(1, 2 * engine.size + 1)),
            fingerprint_bits=32,
        )
        for spec in specs
        if shared.random() < 0.3
    }


def draw_bags(tables: ShardedTables, own: np.random.Generator) -> list[Bags | KeyBags]:
    bags: list[Bags | KeyBags] = []
    for spec in tables.specs:
        lengths = own.integers(0, 4, int(own.choice([0, 1, 17])))
        rows = Bags.from_lengths(own.integers(0, spec.rows, lengths.sum()), lengths)
        if spec.name in tables.vocabularies and own.random() < 0.7:
            words = [b"unknown", *keys_of(spec)]
            bags.append(KeyBags([words[row] for row in rows.values], rows.offsets))
        else:
            bags.append(rows)
    return bags


def one_step(tables: ShardedTables, shared: np.random.Generator, own: np.random.Generator) -> None:
    bags = draw_bags(tables, own)
    if shared.random() < 0.05:
        guilty = int(shared.integers(tables.engine.size))
        if tables.engine.rank == guilty:
            bags[0] = Bags.from_lengths(np.array([tables.specs[0].rows]), np.array([1]))
        with pytest.raises(BadBagsError, match=f"rank {guilty}: table 't0'"):
            tables.lookup(bags)
        return
    fetched = tables.lookup(bags)
    gradients = [own.standard_normal(found.rows.shape, dtype=np.float32) for found in fetched]
    tables.accumulate([found.ids for found in fetched], gradients)


def all_rows(tables: ShardedTables) -> list[np.ndarray[Any, Any]]:
    """Whole tables, looked up; by keys the same."""
    bags = [Bags.from_lengths(np.arange(s.rows), np.ones(s.rows, int)) for s in tables.specs]
    whole = [found.rows[found.positions] for found in tables.lookup(bags)]
    words = [[b"unknown", *keys_of(spec)] for spec in tables.specs]
    by_keys = tables.lookup(
        [
            KeyBags(keys, rows.offsets) if spec.name in tables.vocabularies else rows
            for spec, rows, keys in zip(tables.specs, bags, words, strict=True)
        ]
    )
    for spec, table, found, keys in zip(tables.specs, whole, by_keys, words, strict=True):
        if spec.name in tables.vocabularies:
            rows = tables.vocabularies[spec.name].lookup(keys)
            np.testing.assert_array_equal(np.sort(rows), np.arange(spec.rows))
            np.testing.assert_array_equal(found.ids[found.positions], rows)
            np.testing.assert_array_equal(found.rows[found.positions], table[rows])
    return whole


def one_model(
    engine: Engine, folder: Path, shared: np.random.Generator, own: np.random.Generator, digest: Any
) -> int:
    """Steps taken."""
    specs = draw_specs(shared)
    vocabularies = draw_vocabularies(specs, engine, shared)
    plan = draw_plan(specs, engine.size, shared, vocabularies)
    tables = ShardedTables(specs, plan, engine, vocabularies=vocabularies)
    steps = 0
    for _ in range(int(shared.integers(1, 6))):
        for _ in range(int(shared.integers(1, 9))):
            one_step(tables, shared, own)
            steps += 1
        if shared.random() < 0.1:  # given up by all
            tables.discard_window()
            continue
        squares = tables.exchange_window(0.25)
        assert np.isfinite(squares)
        tables.apply_window(float(shared.choice([1.0, 0.5])))
    whole = all_rows(tables)
    for table in whole:
        assert np.isfinite(table).all()
        digest.update(table.tobytes())
    if shared.random() < 0.2:
        save_tables(tables, folder / "tables")
        plan = draw_plan(specs, engine.size, shared, {})
        others = ShardedTables(specs, plan, engine, initialize=False)
        load_tables(others, folder / "tables")
        for table, other in zip(whole, all_rows(others), strict=True):
            np.testing.assert_array_equal(other, table)
    return steps


def main(folder: str, num_steps: str, seed: str = "0") -> None:
    engine = connect()
    shared = np.random.default_rng([int(seed)])
    own = np.random.default_rng([int(seed), engine.rank])
    digest = hashlib.sha256()
    steps = 0
    while steps < int(num_steps):
        steps += one_model(engine, Path(folder), shared, own, digest)
    (Path(folder) / f"{engine.rank}.digest").write_text(f"{steps} {digest.hexdigest()}")
    engine.barrier()
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
