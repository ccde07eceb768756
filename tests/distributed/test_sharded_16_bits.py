"""Tables of 16 bits: the same bits as whole tables, with half the bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import ml_dtypes
import numpy as np
import pytest
from sharded_model import SIZES, assembled, plan_of, specs_of
from thread_engines import on_ranks

from feedfast.bags import Bags
from feedfast.comm import Engine
from feedfast.row_optimizers import Rule
from feedfast.sharded_tables import ShardedTables, TableSpec
from feedfast.sharded_tables.checkpoint import load_tables, save_tables
from feedfast.sharded_tables.store_export import export_tables
from feedfast.sharded_tables.weight_format import TableDtype, rounded
from feedfast.store import ModelStore, ModelWriter, encode_table

DTYPES: tuple[TableDtype, ...] = ("float16", "bfloat16")
SHARES = 12  # of a micro-batch, which 1, 2, 3, 4 or 6 ranks divide


def specs_in(dtype: TableDtype, rule: Rule) -> list[TableSpec]:
    return [replace(spec, dtype=dtype) for spec in specs_of(rule)]


def train(tables: ShardedTables, engine: Engine, steps: range) -> None:
    """Gradients are small multiples of 1/8, so that sums are exact in any order."""
    for step in steps:
        for share in range(engine.rank, SHARES, engine.size):
            rng = np.random.default_rng([step, share])
            bags = [
                Bags.from_lengths(rng.integers(0, rows, 6), np.full(2, 3))
                for rows, _ in SIZES.values()
            ]
            fetched = tables.lookup(bags)
            gradients = [
                np.float32(0.125)
                * np.random.default_rng([step, share, table]).integers(-9, 9, found.rows.shape)
                for table, found in enumerate(fetched)
            ]
            tables.accumulate([found.ids for found in fetched], gradients)
        tables.exchange_window(0.25)
        tables.apply_window(1.0)


def trained_on(num_ranks: int, dtype: TableDtype, rule: Rule) -> list[ShardedTables]:
    def body(engine: Engine) -> ShardedTables:
        tables = ShardedTables(specs_in(dtype, rule), plan_of(num_ranks), engine)
        train(tables, engine, range(6))
        return tables

    return on_ranks(num_ranks, body)


@pytest.mark.parametrize("num_ranks", [2, 3, 4, 6])
@pytest.mark.parametrize("rule", get_args(Rule))
@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_have_the_bits_of_whole_tables(dtype: TableDtype, rule: Rule, num_ranks: int) -> None:
    whole = trained_on(1, dtype, rule)
    want = assembled(whole)
    for got, table in zip(assembled(trained_on(num_ranks, dtype, rule)), want, strict=True):
        np.testing.assert_array_equal(got, table)
    first = [
        part.values(0, part.piece.rows)
        for part in [*whole[0].parts.values(), *whole[0].replicas.values()]
    ]
    assert all(np.abs(values).max() > 0 for values in first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_updates_are_those_of_a_table_of_this_type(dtype: TableDtype) -> None:
    """The rounding is at random, the same as that of one array of float16 or ml_dtypes.bfloat16."""
    (spec,) = [spec for spec in specs_in(dtype, "adagrad") if spec.name == "rows"]
    kind = np.dtype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
    start = spec.initializer("rows", 0, spec.rows, spec.dim)
    table = start.astype(kind)
    np.testing.assert_array_equal(rounded(start, dtype), table.view(rounded(start, dtype).dtype))
    updater = spec.optimizer.updater("rows")
    states = updater.states(table, initial=spec.optimizer.initial_state)
    rows = np.arange(spec.rows)
    gradient = np.random.default_rng(0).standard_normal(table.shape).astype(np.float32)
    nearest = start - spec.optimizer.rate_at(0) * gradient / np.sqrt(0.1 + gradient**2)
    updater.apply_rows(
        table, states, rows, gradient, learning_rate=spec.optimizer.rate_at(0), step=1
    )

    def body(engine: Engine) -> ShardedTables:
        shape = plan_of(3).table("rows")
        plan = replace(plan_of(3), tables=(shape,), placements=(plan_of(3).placement("rows"),))
        tables = ShardedTables([spec], plan, engine)
        own = rows if engine.rank == 0 else rows[:0]
        (found,) = tables.lookup([Bags.from_lengths(own, np.ones(own.size, np.int64))])
        tables.accumulate([found.ids], [gradient[found.ids]])
        tables.exchange_window(1.0)
        tables.apply_window(1.0)
        return tables

    got = np.concatenate(
        [p.values(0, p.piece.rows) for t in on_ranks(3, body) for p in t.parts.values()]
    )
    np.testing.assert_array_equal(got, table.astype(np.float32))
    up = got > nearest
    assert 0.2 < up.mean() < 0.8


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_travel_in_16_bits(dtype: TableDtype) -> None:
    def body(engine: Engine) -> int:
        tables = ShardedTables(specs_in(dtype, "sgd"), plan_of(3), engine)
        bags = [
            Bags.from_lengths(np.arange(rows), np.ones(rows, np.int64))
            for rows, _ in SIZES.values()
        ]
        fetched = tables.lookup(bags)
        for found, spec in zip(fetched, tables.specs, strict=True):
            first = spec.initializer(spec.name, 0, spec.rows, spec.dim)
            want = first.astype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
            np.testing.assert_array_equal(found.rows[found.positions], want.astype(np.float32))
        sent = engine.exchanges_by_name["sharded_rows"].bytes_sent
        others = sum(-(-piece.rows * piece.columns // 2) * 4 for piece in tables.parts)
        assert sent == 2 * others
        held = sum(part.weights.nbytes for part in tables.parts.values())
        assert held == 2 * sum(piece.rows * piece.columns for piece in tables.parts)
        return sent

    assert sum(on_ranks(3, body)) > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_checkpoints_load_under_any_other_plan(dtype: TableDtype, tmp_path: Path) -> None:
    def save(engine: Engine) -> ShardedTables:
        tables = ShardedTables(specs_in(dtype, "adam"), plan_of(3), engine)
        train(tables, engine, range(2))
        save_tables(tables, tmp_path)
        return tables

    want = assembled(on_ranks(3, save))

    def load(engine: Engine) -> ShardedTables:
        tables = ShardedTables(specs_in(dtype, "adam"), plan_of(2), engine, initialize=False)
        load_tables(tables, tmp_path)
        return tables

    for got, table in zip(assembled(on_ranks(2, load)), want, strict=True):
        np.testing.assert_array_equal(got, table)

    def load_float32(engine: Engine) -> None:
        tables = ShardedTables(specs_of("adam"), plan_of(1), engine)
        with pytest.raises(ValueError, match=f"dtype='{dtype}'.; needs StoredTable"):
            load_tables(tables, tmp_path)

    on_ranks(1, load_float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_they_are_exported_as_they_are(dtype: TableDtype, tmp_path: Path) -> None:
    def body(engine: Engine) -> ShardedTables:
        tables = ShardedTables(specs_in(dtype, "sgd"), plan_of(2), engine)
        export_tables(tables, tmp_path, "model")
        return tables

    want = assembled(on_ranks(2, body))
    got = ModelStore(tmp_path).open("model").manifest.sections
    with ModelWriter(tmp_path, "model") as writer:
        for name, table in zip(SIZES, want, strict=True):
            writer.add_table(name, encode_table(table, dtype), layout=dtype, dim=table.shape[1])
        assert got == writer.manifest().sections


def test_scaling_is_refused() -> None:
    def body(engine: Engine) -> None:
        tables = ShardedTables(specs_in("bfloat16", "sgd"), plan_of(1), engine)
        with pytest.raises(ValueError, match="is bfloat16: it cannot be scaled"):
            tables.scale(0.999)

    on_ranks(1, body)
