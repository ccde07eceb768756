"""Plans: every cell has one home, whatever the kinds; what is wrong is named; JSON is strict."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedfast.sharding import (
    KINDS,
    Kind,
    Placement,
    Shard,
    ShardingPlan,
    TableShape,
    column_wise,
    data_parallel,
    row_column,
    row_wise,
    table_wise,
)
from feedfast.sharding.sharding_plan import _TABLE_TYPES

USERS = TableShape(name="users", rows=10, dim=6)


@st.composite
def placements(draw: st.DrawFn, table: TableShape, num_ranks: int, per_host: int) -> Placement:
    """Any placement of `table` that the constructors make."""
    kind = draw(st.sampled_from(KINDS))
    hot_rows = draw(st.integers(0, table.rows - 1))
    ranks = draw(st.permutations(range(num_ranks)))
    if kind == "data_parallel":
        return data_parallel(table, num_ranks)
    if kind == "table":
        return table_wise(table, ranks[0], hot_rows=hot_rows)
    if kind == "column":
        parts = draw(st.integers(1, min(num_ranks, table.dim)))
        return column_wise(table, ranks[:parts], hot_rows=hot_rows)
    parts = draw(st.integers(1, num_ranks)) if kind == "row" else per_host
    boundaries = None
    if draw(st.booleans()):
        inner = draw(
            st.lists(st.integers(hot_rows, table.rows), min_size=parts - 1, max_size=parts - 1)
        )
        boundaries = [hot_rows, *sorted(inner), table.rows]
    if kind == "row":
        return row_wise(table, ranks[:parts], boundaries=boundaries, hot_rows=hot_rows)
    hosts = draw(st.permutations(range(num_ranks // per_host)))
    count = draw(st.integers(1, min(len(hosts), table.dim)))
    return row_column(table, hosts[:count], per_host, boundaries=boundaries, hot_rows=hot_rows)


@st.composite
def plans(draw: st.DrawFn) -> ShardingPlan:
    """Plans of up to 4 tables on up to 12 ranks."""
    per_host = draw(st.integers(1, 4))
    num_ranks = per_host * draw(st.integers(1, 3))
    tables = tuple(
        TableShape(
            name=f"t{index}",
            rows=draw(st.integers(1, 40)),
            dim=draw(st.integers(1, 9)),
            bytes_per_element=draw(st.sampled_from([1, 2, 4])),
            lookups_per_example=draw(st.floats(0, 100)),
        )
        for index in range(draw(st.integers(0, 4)))
    )
    return ShardingPlan(
        num_ranks=num_ranks,
        ranks_per_host=per_host,
        tables=tables,
        placements=tuple(draw(placements(table, num_ranks, per_host)) for table in tables),
    )


@given(plans())
@settings(max_examples=300, deadline=None)
def test_every_cell_has_one_home(plan: ShardingPlan) -> None:
    for table, placement in zip(plan.tables, plan.placements, strict=True):
        homes = np.zeros((table.rows, table.dim), int)
        for rank in range(plan.num_ranks):
            for shard in plan.of_rank(rank):
                if shard.table == table.name:
                    homes[
                        shard.row_begin : shard.row_end, shard.column_begin : shard.column_end
                    ] += 1
        want = np.ones_like(homes)
        want[: placement.hot_rows] = 0
        if placement.kind == "data_parallel":
            want[:] = plan.num_ranks
        np.testing.assert_array_equal(homes, want)


@given(plans())
@settings(max_examples=100, deadline=None)
def test_json_reads_back(plan: ShardingPlan) -> None:
    again = ShardingPlan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()


@given(plans())
@settings(max_examples=100, deadline=None)
def test_balance_figures_add_up(plan: ShardingPlan) -> None:
    lookups = sum(table.lookups_per_example for table in plan.tables)
    np.testing.assert_allclose(plan.lookups_per_example().sum(), lookups, atol=1e-9)
    want = np.zeros(plan.num_ranks, np.int64)
    for table, placement in zip(plan.tables, plan.placements, strict=True):
        for rank in range(plan.num_ranks):
            shard = placement.shard_of(rank)
            cells = placement.hot_rows * table.dim + (shard.cells if shard else 0)
            rows = placement.hot_rows + (shard.rows if shard else 0)
            want[rank] += cells * table.bytes_per_element + rows * 4  # rowwise_adagrad
    np.testing.assert_array_equal(plan.memory_bytes(), want)


def plan_of(placement: Placement, table: TableShape = USERS, num_ranks: int = 4) -> ShardingPlan:
    return ShardingPlan(
        num_ranks=num_ranks, ranks_per_host=2, tables=(table,), placements=(placement,)
    )


def test_constructors_divide_as_documented() -> None:
    assert [s.columns for s in column_wise(USERS, [3, 0, 1, 2]).shards] == [2, 2, 1, 1]
    assert [s.rank for s in column_wise(USERS, [3, 0, 1, 2]).shards] == [3, 0, 1, 2]
    few = TableShape(name="few", rows=2, dim=3)
    assert row_wise(few, [0, 1, 2]).ranks == (0, 1)  # rank 2 would have no row
    grid = row_column(USERS, [1, 0], 2, hot_rows=2)
    assert [dataclasses.astuple(s)[1:] for s in grid.shards] == [
        (2, 2, 6, 0, 3),
        (3, 6, 10, 0, 3),
        (0, 2, 6, 3, 6),
        (1, 6, 10, 3, 6),
    ]
    assert grid.shard_of(3) == Shard("users", 3, 6, 10, 0, 3)
    assert row_wise(few, [0]).shard_of(1) is None


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        ("sgd", 0),
        ("adagrad", 10 * 6 * 4),
        ("rowwise_adagrad", 10 * 4),
        ("adam", 2 * 10 * 6 * 4),
        ("rowwise_adam", 10 * 6 * 4 + 10 * 4),
    ],
)
def test_state_bytes_are_those_of_the_updater(rule: Any, want: int) -> None:
    from feedfast.row_optimizers import RowUpdater

    shape = dataclasses.replace(USERS, optimizer=rule)
    states = RowUpdater(rule).states(np.zeros((10, 6), np.float32))
    assert sum(state.nbytes for state in states) == want
    assert shape.part_bytes(10, 6) == 10 * 6 * 4 + want


def shard(rank: int, *cells: int) -> Shard:
    return Shard("users", rank, *cells)


def placed(kind: Kind, *shards: Shard, hot_rows: int = 0) -> Placement:
    return Placement("users", kind, shards, hot_rows)


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (placed("row", shard(0, 0, 4, 0, 6)), r"'users': rows \[4, 10\) are on no rank"),
        (placed("row", shard(0, 2, 10, 0, 6)), r"rows \[0, 2\) are on no rank"),
        (
            placed("row", shard(0, 0, 4, 0, 6), shard(1, 6, 10, 0, 6)),
            r"rows \[4, 6\) are on no rank",
        ),
        (
            placed("row", shard(0, 0, 6, 0, 6), shard(1, 4, 10, 0, 6)),
            r"rows \[4, 6\) are in two",
        ),
        (placed("column", shard(0, 0, 10, 0, 5)), r"columns \[5, 6\) are on no rank"),
        (
            placed("table", shard(0, 0, 10, 0, 6), shard(2, 0, 10, 0, 6)),
            r"columns \[0, 6\) are on ranks 0 and 2",
        ),
        (
            placed("row", shard(0, 0, 5, 0, 6), shard(0, 5, 10, 0, 6)),
            r"rank 0 holds two shards",
        ),
        (placed("table", shard(4, 0, 10, 0, 6)), r"rank 4 is not in 0\.\.3"),
        (placed("table", shard(0, 0, 11, 0, 6)), r"rank 0: rows \[0, 11\) must be"),
        (placed("table", shard(0, 0, 10, 3, 3)), r"rank 0: columns \[3, 3\) must be"),
        (placed("table", shard(0, 0, 10, 0, 6), hot_rows=2), r"rows \[0, 10\) .* \[2, 10\)"),
        (placed("table", shard(0, 0, 10, 0, 6), hot_rows=10), r"hot_rows must be in \[0, 9\]"),
        (placed("table"), r"rows \[0, 10\) are on no rank"),
        (placed("row", *column_wise(USERS, [0, 1]).shards), r"'row' has 2 ranges of columns"),
        (placed("column", *row_wise(USERS, [0, 1]).shards), r"'column' has 2 ranges of rows"),
        (placed("row_column", *row_wise(USERS, [1, 2]).shards), r"hosts \[0, 1\]; allowed"),
        (
            placed("row_column", *row_column(USERS, [0, 1], 2).shards[:3]),
            r"rows \[5, 10\), columns \[3, 6\) are on no rank",
        ),
        (placed("data_parallel", *data_parallel(USERS, 3).shards), r"rank 3 has no replica"),
        (
            placed("data_parallel", *row_wise(USERS, [0, 1, 2, 3]).shards),
            r"rank 0: a data_parallel shard must be the whole table",
        ),
        (placed("rows"), r"kind 'rows' is unknown"),  # type: ignore[arg-type]
        (Placement("items", "table", ()), r"its placement is of table 'items'"),
        (placed("table", Shard("items", 1, 0, 10, 0, 6)), r"shard of rank 1 is of table 'items'"),
    ],
)
def test_what_is_wrong_is_named(placement: Placement, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(placement)


def test_a_plan_checks_its_own_numbers() -> None:
    good = plan_of(table_wise(USERS, 0))
    for changes, message in (
        ({"num_ranks": 0}, "num_ranks must be in"),
        ({"ranks_per_host": 3}, "must divide num_ranks = 4"),
        ({"placements": ()}, "0 placements for 1 tables"),
        ({"tables": (USERS,) * 2, "placements": good.placements * 2}, "'users' is there twice"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **changes)
    with pytest.raises(ValueError, match="rank 4 is not in"):
        good.of_rank(4)
    with pytest.raises(KeyError, match="items"):
        good.placement("items")
    assert good.table("users") is USERS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "at least 1 letter"),
        ({"rows": 0}, "rows must be in"),
        ({"dim": 1 << 20}, "dim must be in"),
        ({"bytes_per_element": 3}, "bytes_per_element must be one of"),
        ({"lookups_per_example": float("nan")}, "lookups_per_example must be finite"),
        ({"zipf": -1.0}, "zipf must be in"),
        ({"order": "random"}, "order must be one of"),
        ({"optimizer": "lion"}, "optimizer must be one of"),
    ],
)
def test_a_table_checks_itself(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(USERS, **changes)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: column_wise(USERS, range(7)), "between 1 to 6 ranks; got 7"),
        (lambda: row_wise(USERS, []), "at least 1 rank"),
        (lambda: row_wise(USERS, [0, 1], boundaries=[0, 12, 10]), "boundaries must be 3"),
        (lambda: row_column(USERS, [], 2), "between 1 to 6 hosts; got 0"),
    ],
)
def test_constructors_check_their_arguments(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_json_is_strict() -> None:
    good = json.loads(plan_of(row_column(USERS, [0, 1], 2, hot_rows=1)).to_json())
    assert tuple(_TABLE_TYPES) == tuple(field.name for field in dataclasses.fields(TableShape))

    def broken(change: Any) -> str:
        document = json.loads(json.dumps(good))
        change(document)
        return json.dumps(document)

    for text, message in (
        ("[" * 100_000, "not JSON"),
        ("{", "not JSON"),
        ("[]", "must be an object; got list"),
        (broken(lambda d: d.update(format="plan")), "format is 'plan'"),
        (broken(lambda d: d.update(version=2)), "version 2 is unknown"),
        (broken(lambda d: d.update(note="")), "member 'note' is unknown"),
        (broken(lambda d: d.pop("tables")), "member 'tables' is missing"),
        (broken(lambda d: d.update(num_ranks=4.0)), "num_ranks must be int; got float"),
        (broken(lambda d: d.update(num_ranks=True)), "num_ranks must be int; got bool"),
        (broken(lambda d: d["tables"][0].pop("dim")), r"tables\[0\]: member 'dim' is missing"),
        (broken(lambda d: d["tables"][0].update(rows=0)), r"tables\[0\]: table 'users': rows"),
        (broken(lambda d: d["tables"][0].update(zipf=10**400)), "zipf must be float; got int"),
        (broken(lambda d: d["placements"][0]["shards"][1].pop()), r"shards\[1\] must be whole"),
        (broken(lambda d: d["placements"][0]["shards"].pop()), "are on no rank"),
    ):
        with pytest.raises(ValueError, match=message):
            ShardingPlan.from_json(text)


def test_bytes_that_are_no_plan_give_value_errors() -> None:
    text = plan_of(row_wise(USERS, [0, 2], hot_rows=3)).to_json().encode()
    rng = np.random.default_rng(20_261_122)
    for _ in range(2000):
        changed = bytearray(text)
        for position in rng.integers(0, len(changed), rng.integers(1, 4)):
            changed[position] = rng.integers(32, 127)
        try:
            ShardingPlan.from_json(changed.decode())
        except ValueError:
            continue
