from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from sharded_model import SIZES, WORLD, assembled, batch_of, plan_of, specs_of, train, train_whole
from thread_engines import on_ranks

from feedfast.bags import Bags
from feedfast.comm import Engine, NullEngine
from feedfast.row_optimizers import Rule
from feedfast.sharded_tables import (
    BadBagsError,
    Constant,
    Normal,
    RowOptimization,
    ShardedTables,
    TableSpec,
    Uniform,
)
from feedfast.sharded_tables import messages as wire
from feedfast.sharding import ShardingPlan, TableShape, column_wise, row_wise, table_wise

STEPS = range(20)


@functools.cache
def whole(rule: Rule, k: int) -> list[Any]:
    return train_whole(rule, STEPS, k, WORLD)


def check_equal(num_ranks: int, rule: Rule, k: int) -> None:
    def body(engine: Engine) -> ShardedTables:
        tables = ShardedTables(specs_of(rule), plan_of(num_ranks), engine)
        train(tables, engine, STEPS, k, WORLD)
        return tables

    got = assembled(on_ranks(num_ranks, body))
    for name, table, want in zip(SIZES, got, whole(rule, k), strict=True):
        difference = np.abs(table - want).max() / np.abs(want).max()
        assert difference <= 1e-5, f"{num_ranks} ranks, {rule}, k = {k}, table {name}"


@pytest.mark.parametrize("rule", get_args(Rule))
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_every_division_trains_as_whole_tables(num_ranks: int, k: int, rule: Rule) -> None:
    check_equal(num_ranks, rule, k)


@pytest.mark.slow
@pytest.mark.parametrize("rule", get_args(Rule))
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("num_ranks", [3, 4, 6])
def test_more_ranks_train_as_whole_tables(num_ranks: int, k: int, rule: Rule) -> None:
    check_equal(num_ranks, rule, k)


def test_four_ranks_on_two_hosts_train_as_whole_tables() -> None:
    check_equal(4, "rowwise_adagrad", 2)


@pytest.mark.parametrize("initializer", [Uniform(0.5), Normal(0.5), Constant(0.25)])
@pytest.mark.parametrize("num_ranks", [2, 6])
def test_first_values_do_not_depend_on_the_division(num_ranks: int, initializer: Any) -> None:
    specs = [
        TableSpec(name=name, rows=rows, dim=dim, initializer=initializer)
        for name, (rows, dim) in SIZES.items()
    ]
    whole_tables = [initializer(spec.name, 0, spec.rows, spec.dim) for spec in specs]
    got = assembled(
        on_ranks(num_ranks, lambda engine: ShardedTables(specs, plan_of(num_ranks), engine))
    )
    for table, want in zip(got, whole_tables, strict=True):
        np.testing.assert_array_equal(table, want)


@pytest.mark.parametrize("initializer", [Uniform(0.5), Normal(0.5)])
def test_first_values_are_random_numbers_of_seed_and_name(initializer: Any) -> None:
    table = initializer("a", 0, 2000, 33)
    stddev = 0.5 / np.sqrt(3) if isinstance(initializer, Uniform) else 0.5
    assert table.mean() == pytest.approx(0.0, abs=5 * stddev / np.sqrt(table.size))
    assert table.std() == pytest.approx(stddev, rel=0.02)
    assert np.unique(table).size > 0.99 * table.size
    np.testing.assert_array_equal(initializer("a", 700, 801, 33), table[700:801])
    assert (initializer("b", 0, 2000, 33) != table).mean() > 0.99
    assert (type(initializer)(0.5, seed=1)("a", 0, 2000, 33) != table).mean() > 0.99


def closed_form(
    tables: ShardedTables, asked: list[list[np.ndarray]], updated: list[list[np.ndarray]]
) -> dict[str, int]:
    """The bytes of one lookup and one window without dense replicas, from plan and ids alone.

    Args:
        tables: Of one rank.
        asked, updated: For each rank and table the distinct rows of the lookup and the window.
    """
    me, layout = tables.engine.rank, tables.layout
    others = [rank for rank in range(layout.num_ranks) if rank != me]

    def count(rows: list[np.ndarray], piece: Any) -> int:
        of_table = rows[piece.table]
        return int(((of_table >= piece.row_begin) & (of_table < piece.row_end)).sum())

    ids = rows = gradients = squares = 0
    for other in others:
        pieces = layout.pieces_of_rank[other]
        ids += 4 * (1 + len(pieces) + sum(count(asked[me], piece) for piece in pieces))
        for piece in layout.pieces_of_rank[me]:
            rows += 4 * piece.columns * count(asked[other], piece)
        gradients += 4 * (len(pieces) + len(layout.replicas))
        for piece in (*pieces, *layout.replicas):
            gradients += 4 * (1 + piece.columns) * count(updated[me], piece)
    for piece in layout.pieces_of_rank[me]:
        holders = layout.pieces_of_block[piece.block]
        summed = {row for rank in updated for row in rank[piece.table].tolist()}
        of_piece = sum(piece.row_begin <= row < piece.row_end for row in summed)
        squares += 4 * of_piece * (len(holders) - 1)
    return {
        "sharded_ids": ids,
        "sharded_rows": rows,
        "sharded_gradients": gradients,
        "sharded_row_squares": squares,
    }


@pytest.mark.parametrize("num_ranks", [1, 2, 4, 6])
def test_bytes_and_exchanges_are_those_of_the_closed_form(num_ranks: int) -> None:
    def body(engine: Engine) -> tuple[ShardedTables, dict[str, Any]]:
        tables = ShardedTables(specs_of("rowwise_adagrad"), plan_of(num_ranks), engine)
        before = engine.exchanges_by_name
        train(tables, engine, range(1), 1, num_ranks)
        new = {name: t for name, t in engine.exchanges_by_name.items() if name not in before}
        return tables, new

    distinct = [
        [np.unique(bags.values) for bags in batch_of(0, 0, rank).bags] for rank in range(num_ranks)
    ]
    for tables, traffic in on_ranks(num_ranks, body):
        got = {name: counted.bytes_sent for name, counted in traffic.items()}
        want = closed_form(tables, distinct, distinct)
        if num_ranks == 1:
            want.pop("sharded_row_squares")  # no table is divided by columns
        assert got == want
        assert {counted.exchanges for counted in traffic.values()} == {1}


@pytest.mark.parametrize("num_tables", [1, 7])
def test_two_exchanges_a_lookup_and_one_a_window_whatever_the_number_of_tables(
    num_tables: int,
) -> None:
    shapes = [TableShape(name=f"t{i}", rows=50 + i, dim=4) for i in range(num_tables)]
    placements = tuple(row_wise(shape, [0, 1, 2]) for shape in shapes)
    plan = ShardingPlan(num_ranks=3, ranks_per_host=1, tables=tuple(shapes), placements=placements)
    specs = [TableSpec(name=s.name, rows=s.rows, dim=s.dim) for s in shapes]
    bags = [Bags.from_lists([[1, 2], [], [49]])] * num_tables

    def body(engine: Engine) -> dict[str, int]:
        tables = ShardedTables(specs, plan, engine)
        for _ in range(2):
            for _ in range(3):
                found = tables.lookup(bags)
                tables.accumulate([f.ids for f in found], [f.rows for f in found])
            tables.exchange_window(1.0)
            tables.apply_window(1.0)
        return {name: counted.exchanges for name, counted in engine.exchanges_by_name.items()}

    want = {"sharded_layout": 1, "sharded_ids": 6, "sharded_rows": 6, "sharded_gradients": 2}
    assert on_ranks(3, body) == [want] * 3


def test_replicas_touched_everywhere_travel_as_one_sum_from_the_second_window_on() -> None:
    shape = TableShape(name="hot", rows=40, dim=3)
    specs = [
        TableSpec(
            name="hot",
            rows=40,
            dim=3,
            optimizer=RowOptimization(rule="adam", learning_rate=0.1, epsilon=1e-3),
        )
    ]
    # The last hot row is never read: Adam must leave it alone, also in a dense sum.
    bags = [Bags.from_lists([list(range(9)), [20, 30]])]

    def train_on(num_ranks: int, hot_rows: int) -> tuple[np.ndarray, dict[str, int]]:
        placement = row_wise(shape, range(num_ranks), hot_rows=hot_rows)
        plan = ShardingPlan(
            num_ranks=num_ranks, ranks_per_host=1, tables=(shape,), placements=(placement,)
        )

        def body(engine: Engine) -> tuple[ShardedTables, dict[str, int]]:
            tables = ShardedTables(specs, plan, engine)
            for window in range(6):
                for _ in range(12 // num_ranks):
                    found = tables.lookup(bags)
                    slope = [np.cos(window + f.rows) for f in found]
                    tables.accumulate([f.ids for f in found], slope)
                tables.exchange_window(1 / 12)
                tables.apply_window(1.0)
            counts = {n: c.exchanges for n, c in engine.exchanges_by_name.items()}
            return tables, counts

        ranks = on_ranks(num_ranks, body)
        return assembled([tables for tables, _ in ranks])[0], ranks[0][1]

    want, _ = train_on(1, 0)
    got, counts = train_on(4, 10)
    assert counts["sharded_replicas"] == 5  # the first window is sparse
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[9], Uniform()("hot", 9, 10, 3)[0])


def test_bad_bags_of_one_rank_are_an_error_on_all_and_the_next_lookup_works() -> None:
    good = batch_of(1, 0, 0).bags
    bad = [*good]
    bad[3] = Bags.from_lists([[1, 2], [67]])
    heavy = [*good]
    weights = np.full(good[1].values.size, np.nan, np.float32)
    heavy[1] = Bags(good[1].values, good[1].offsets, weights)

    def body(engine: Engine) -> list[str]:
        tables = ShardedTables(specs_of("sgd"), plan_of(3), engine)
        messages = []
        for of_rank_1 in (bad, heavy):
            with pytest.raises(BadBagsError) as caught:
                tables.lookup(of_rank_1 if engine.rank == 1 else good)
            messages.append(str(caught.value))
        assert [f.ids.size for f in tables.lookup(good)]
        return messages

    for messages in on_ranks(3, body):
        message = "rank 1: table 'rows': values[2] = 67 is not a row of a table with 67 rows"
        assert messages[0] == message
        assert re.match("rank 1: table 'whole': weights.0. = nan", messages[1])


def test_ids_of_32_bits_name_rows_of_tables_beyond_2_to_31_rows_in_all() -> None:
    rows = 1_200_000_000  # of memory that is never touched
    shapes = tuple(TableShape(name=name, rows=rows, dim=1) for name in "ab")
    plan = ShardingPlan(
        num_ranks=1,
        ranks_per_host=1,
        tables=shapes,
        placements=tuple(table_wise(shape, 0) for shape in shapes),
    )
    optimizer = RowOptimization(rule="sgd")
    specs = [
        TableSpec(name=shape.name, rows=rows, dim=1, dtype="float16", optimizer=optimizer)
        for shape in shapes
    ]
    tables = ShardedTables(specs, plan, NullEngine(), initialize=False)
    for part in tables.parts.values():
        part.weights[[5, rows - 1]] = [[2], [3]]
    ids = np.array([rows - 1, 5, 5], np.int32)
    for found in tables.lookup([Bags(ids, np.array([0, 3]))] * 2):
        np.testing.assert_array_equal(found.ids, [5, rows - 1])
        np.testing.assert_array_equal(found.rows[found.positions], [[3], [2], [2]])


def test_gradients_of_a_wrong_shape_are_refused() -> None:
    tables = ShardedTables(specs_of("sgd"), plan_of(1), NullEngine())
    ids = np.arange(3)
    for shape in [(1, tables.specs[1].dim), (3, 1), (3,)]:
        with pytest.raises(
            ValueError, match=f"table '{tables.specs[1].name}': gradients of 3 rows"
        ):
            tables.accumulate([ids], [np.ones(shape, np.float32)], tables=[1])
    assert tables.exchange_window(1.0) == 0.0


def changed(at: int, value: int) -> Callable[[Any], Any]:
    def change(message: Any) -> Any:
        message[at] = value
        return message

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message[:0],
        lambda message: message[:-1],
        lambda message: np.append(message, np.int32(0)),
        changed(0, 4),
        changed(0, -1),
        changed(0, 2**31 - 1),
        changed(1, 0),  # rows of the replica that come are not said to come
    ],
)
def test_gradients_in_messages_of_a_wrong_size_are_errors(change: Callable[[Any], Any]) -> None:
    shape = TableShape(name="t", rows=10, dim=3)
    placements = (row_wise(shape, [0, 1], hot_rows=1),)
    plan = ShardingPlan(num_ranks=2, ranks_per_host=1, tables=(shape,), placements=placements)

    def body(engine: Engine) -> None:
        tables = ShardedTables([TableSpec(name="t", rows=10, dim=3)], plan, engine)
        tables.accumulate([np.arange(10)], [np.ones((10, 3), np.float32)])
        if engine.rank == 0:
            with pytest.raises(RuntimeError, match="a message of rank 1 has "):
                tables.exchange_window(1.0)
            return
        pieces, replicas = tables.layout.pieces_of_rank[0], tables.layout.replicas
        ones = np.ones((10, 3), np.float32)
        of_block = [(np.arange(n), ones[:n]) for n in (1, 5, 4)]
        good = wire.gradients(pieces, replicas, [False], of_block)
        engine.all_to_all([change(good), np.empty(0, np.int32)], name="sharded_gradients")

    on_ranks(2, body)


def test_a_rank_without_parts_and_ranks_without_examples_take_part() -> None:
    shape = TableShape(name="t", rows=9, dim=2)
    plan = ShardingPlan(
        num_ranks=2, ranks_per_host=1, tables=(shape,), placements=(table_wise(shape, 0),)
    )
    spec = TableSpec(name="t", rows=9, dim=2, optimizer=RowOptimization(rule="sgd"))

    def body(engine: Engine) -> float:
        tables = ShardedTables([spec], plan, engine)
        ids: list[list[int]] = [[3, 3, 3]] if engine.rank == 1 else []
        (found,) = tables.lookup([Bags.from_lists(ids)])
        assert found.rows.shape == (engine.rank, 2)
        np.testing.assert_array_equal(found.positions, [0, 0, 0][: 3 * engine.rank])
        tables.accumulate([found.ids], [np.full(found.rows.shape, 2.0, np.float32)])
        squares = tables.exchange_window(0.5)
        tables.apply_window(0.5)
        if engine.rank == 0:
            moved = Uniform()("t", 3, 4, 2) - np.float32(0.005)
            np.testing.assert_allclose(next(iter(tables.parts.values())).weights[3:4], moved)
        return squares

    assert on_ranks(2, body) == [2.0, 0.0]


def test_discard_forgets_the_window() -> None:
    def body(engine: Engine) -> ShardedTables:
        tables = ShardedTables(specs_of("adagrad"), plan_of(2), engine)
        found = tables.lookup(batch_of(0, 0, engine.rank).bags)
        tables.accumulate([f.ids for f in found], [np.ones_like(f.rows) for f in found])
        tables.discard_window()
        assert tables.exchange_window(1.0) == 0.0
        tables.apply_window(1.0)
        tables.accumulate([f.ids for f in found], [np.ones_like(f.rows) for f in found])
        assert tables.exchange_window(1.0) > 0.0
        tables.discard_window()
        tables.apply_window(1.0)
        return tables

    for spec, table in zip(specs_of("adagrad"), assembled(on_ranks(2, body)), strict=True):
        np.testing.assert_array_equal(table, spec.initializer(spec.name, 0, spec.rows, spec.dim))


def test_two_tables_use_six_workers_by_column_splits() -> None:
    shapes = [TableShape(name="a", rows=300, dim=16), TableShape(name="b", rows=200, dim=9)]
    placements = (column_wise(shapes[0], [0, 1, 2, 3]), column_wise(shapes[1], [4, 5]))
    plan = ShardingPlan(num_ranks=6, ranks_per_host=1, tables=tuple(shapes), placements=placements)
    specs = [TableSpec(name=s.name, rows=s.rows, dim=s.dim) for s in shapes]
    rng = np.random.default_rng(1)
    bags = [Bags.from_lengths(rng.integers(0, s.rows, 40), [4] * 10) for s in shapes]

    def body(engine: Engine) -> int:
        tables = ShardedTables(specs, plan, engine)
        found = tables.lookup(bags)
        for spec, rows in zip(specs, found, strict=True):
            first = spec.initializer(spec.name, 0, spec.rows, spec.dim)
            np.testing.assert_array_equal(rows.rows, first[rows.ids])
        return tables.nbytes

    held = on_ranks(6, body)
    assert held == [300 * (4 + 1) * 4] * 4 + [200 * (5 + 1) * 4, 200 * (4 + 1) * 4]


def test_plans_that_do_not_fit_are_refused() -> None:
    specs = specs_of("sgd")

    def message(specs: list[TableSpec], plan: ShardingPlan, size: int) -> str:
        def body(engine: Engine) -> str:
            with pytest.raises(ValueError, match=r"plan|table") as caught:
                ShardedTables(specs, plan, engine)
            return str(caught.value)

        return on_ranks(size, body)[0]

    assert message(specs, plan_of(2), 1) == "the plan has 2 ranks, the engine 1"
    assert "the plan is of tables" in message(specs[1:], plan_of(1), 1)
    taller = [TableSpec(name="replicated", rows=38, dim=5), *specs[1:]]
    assert "table 'replicated' is [38, 5]; the plan has it as [37, 5]" in message(
        taller, plan_of(1), 1
    )

    decay = RowOptimization(rule="rowwise_adagrad", weight_decay=0.1)
    decayed = [
        TableSpec(name=spec.name, rows=spec.rows, dim=spec.dim, optimizer=decay) for spec in specs
    ]
    assert "divided by columns, rule 'rowwise_adagrad' cannot have" in message(
        decayed, plan_of(2), 2
    )


def test_ranks_whose_tables_cannot_be_divided_tell_the_others() -> None:
    shape = TableShape(name="t", rows=9, dim=2)
    placements = (row_wise(shape, [0, 1]),)
    plan = ShardingPlan(num_ranks=2, ranks_per_host=1, tables=(shape,), placements=placements)

    def body(engine: Engine) -> str:
        spec = TableSpec(name="t", rows=9 + engine.rank, dim=2)
        with pytest.raises((ValueError, RuntimeError)) as caught:
            ShardedTables([spec], plan, engine)
        return str(caught.value)

    message = "table 't' is [10, 2]; the plan has it as [9, 2]"
    assert on_ranks(2, body) == [f"rank 1: ValueError: {message}", message]


def test_ranks_that_differ_are_told_where() -> None:
    def said(change: Callable[[TableSpec], TableSpec], *, shift: int = 0) -> str:
        def body(engine: Engine) -> str:
            specs = specs_of("adam")
            if engine.rank == 2:
                specs[1] = change(specs[1])
            plan = plan_of(3, shift=shift * engine.rank)
            with pytest.raises(ValueError, match="differs in") as caught:
                ShardedTables(specs, plan, engine)
            return str(caught.value)

        first, *others = on_ranks(3, body)
        assert others == [first, first]
        return first

    def other_optimizer(**changes: Any) -> Callable[[TableSpec], TableSpec]:
        return lambda spec: replace(spec, optimizer=replace(spec.optimizer, **changes))

    assert said(lambda spec: spec, shift=1).startswith("rank 1 differs in the plan")
    assert said(other_optimizer(learning_rate=0.5)) == (
        "rank 2 differs in learning_rate of 'whole': 0.5 where rank 0 has 0.05"
    )
    assert "learning_rate of 'whole'" in said(other_optimizer(learning_rate=lambda _: 0.1))
    assert "beta1 of 'whole': 0.8" in said(other_optimizer(beta1=0.8))
    assert "max_value of 'whole': 1.0" in said(other_optimizer(max_value=1.0))
    assert "pooling of 'whole': mean" in said(lambda spec: replace(spec, pooling="mean"))
    assert "first values of 'whole'" in said(
        lambda spec: replace(spec, initializer=Normal(0.5, seed=1))
    )
