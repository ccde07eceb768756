"""The planner against every plan there is, on models small enough to try them all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from feedfast.sharding import (
    KINDS,
    Placement,
    ShardingPlan,
    TableShape,
    Topology,
    Workload,
    column_wise,
    data_parallel,
    plan_tables,
    predict,
    preset,
    row_column,
    row_wise,
    table_wise,
)
from feedfast.sharding.choices import PlaceOrder, TableChoices
from feedfast.sharding.step_cost import CostModel, Metric


def every_placement(table: TableShape, hosts: int, per_host: int) -> Iterator[Placement]:
    """All placements of a hashed table whose parts are near equal."""
    ranks = range(hosts * per_host)
    yield data_parallel(table, len(ranks))
    for rank in ranks:
        yield table_wise(table, rank)
    for count in range(2, len(ranks) + 1):
        for some in itertools.combinations(ranks, count):
            if count * 4 <= table.dim:
                yield column_wise(table, some)
            if count <= table.rows:
                yield row_wise(table, some)
    if hosts > 1 and per_host > 1:
        for count in range(1, hosts + 1):
            for some in itertools.combinations(range(hosts), count):
                if count == 1 or count * 4 <= table.dim:
                    yield row_column(table, some, per_host)


def shortest_step(tables: Sequence[TableShape], topology: Topology, workload: Workload) -> float:
    """The step of the best of all plans that fit; inf when none does."""
    model = CostModel(topology, workload)
    totals = np.zeros((1, topology.num_ranks, len(Metric)))
    for table in tables:
        parts = np.stack(
            [
                model.contribution(table, placement)
                for placement in every_placement(table, topology.num_hosts, topology.ranks_per_host)
            ]
        )
        totals = (totals[:, None] + parts[None]).reshape(-1, *totals.shape[1:])
    fits = totals[..., Metric.MEMORY_BYTES].max(axis=-1) <= topology.memory_bytes
    steps = model.part_seconds(totals).sum(axis=-1)
    return float(np.where(fits, steps, np.inf).min())


def random_tables(rng: np.random.Generator, count: int) -> list[TableShape]:
    return [
        TableShape(
            name=f"t{index}",
            rows=int(10 ** rng.uniform(1, 7)),
            dim=int(rng.choice([4, 16, 48, 128])),
            lookups_per_example=float(rng.choice([0.5, 1, 10, 50])),
            zipf=float(rng.choice([0.0, 0.8, 1.1])),
        )
        for index in range(count)
    ]


def cluster(hosts: int, per_host: int, memory: int = 1 << 40, **rates: float) -> Topology:
    base: dict[str, float] = {
        "local_latency": 30e-6,
        "local_bandwidth": 20e9,
        "host_latency": 60e-6,
        "host_bandwidth": 3e9,
        "id_seconds": 5e-9,
        "row_seconds": 5e-9,
        "row_bandwidth": 30e9,
        "window_seconds": 5e-9,
        "window_bandwidth": 30e9,
        "sum_seconds": 5e-9,
        "sum_bandwidth": 30e9,
        "update_seconds": 5e-9,
        "update_bandwidth": 30e9,
        "copy_bandwidth": 40e9,
        "table_seconds": 2e-6,
        "workers": per_host,
    }
    return Topology(
        name="test",
        source="preset",
        num_hosts=hosts,
        ranks_per_host=per_host,
        memory_bytes=memory,
        **{**base, **rates},
    )


@pytest.mark.parametrize(("hosts", "per_host"), [(1, 2), (1, 3), (2, 2), (3, 1)])
@pytest.mark.parametrize("exchange", ["rows", "pooled"])
@pytest.mark.parametrize("seed", range(4))
def test_within_a_tenth_of_the_best(hosts: int, per_host: int, exchange: str, seed: int) -> None:
    rng = np.random.default_rng(20_261_122 + seed)
    tables = random_tables(rng, 3 if hosts * per_host < 4 else 2 + seed % 2)
    needed = sum(table.part_bytes(table.rows, table.dim) for table in tables)
    # From memory for everything everywhere down to little more than all ranks need together.
    memory = int(needed * (1.5, 0.75, 1.2 / (hosts * per_host) + 0.3, 4)[seed]) + (64 << 20)
    topology = cluster(hosts, per_host, memory, workers=per_host / (1 + seed % 2))
    workload = Workload(
        batch_per_rank=(64, 512, 4096, 1024)[seed],
        window=1 + seed,
        exchange="rows" if exchange == "rows" else "pooled",
    )
    best = shortest_step(tables, topology, workload)
    planned = plan_tables(tables, topology, workload, seed=seed)
    got = predict(planned.plan, topology, workload)
    np.testing.assert_allclose(got.step_seconds, planned.prediction.step_seconds, rtol=1e-9)
    assert got.memory_bytes.max() <= memory
    assert got.step_seconds <= 1.1 * best


def test_two_tables_use_six_workers_by_columns() -> None:
    tables = [
        TableShape(name=name, rows=10_000_000, dim=96, lookups_per_example=20)
        for name in ("members", "items")
    ]
    topology = preset("a100", num_hosts=1, ranks_per_host=6)
    work = Workload(batch_per_rank=4096)
    planned = plan_tables(tables, topology, work, kinds=("table", "column"))
    assert [placement.kind for placement in planned.plan.placements] == ["column"] * 2
    assert [len(placement.ranks) for placement in planned.plan.placements] == [3, 3]
    assert all(len(planned.plan.of_rank(rank)) == 1 for rank in range(6))
    assert planned.prediction.imbalance < 0.01
    whole = plan_tables(tables, topology, work, kinds=("table",))
    assert planned.prediction.step_seconds < whole.prediction.step_seconds


@pytest.mark.parametrize("seed", range(3))
def test_balanced_within_a_tenth_where_tables_allow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = [
        TableShape(
            name=f"t{index}",
            rows=int(rng.integers(1_000_000, 5_000_000)),
            dim=64,
            lookups_per_example=float(rng.uniform(1, 20)),
        )
        for index in range(30)
    ]
    planned = plan_tables(tables, cluster(1, 4), Workload(batch_per_rank=1024), seed=seed)
    assert planned.prediction.imbalance <= 0.1


def test_the_same_arguments_give_the_same_plan() -> None:
    tables = random_tables(np.random.default_rng(7), 8)
    topology, work = cluster(2, 2), Workload(batch_per_rank=256)
    first = plan_tables(tables, topology, work, seed=3)
    assert plan_tables(tables, topology, work, seed=3).plan.to_json() == first.plan.to_json()


def test_a_table_larger_than_a_rank_is_divided() -> None:
    table = TableShape(name="members", rows=1_000_000, dim=64)
    topology = cluster(1, 4, memory=table.weight_bytes // 2)
    planned = plan_tables([table], topology, Workload(batch_per_rank=64))
    assert len(planned.plan.placement("members").ranks) >= 3
    assert planned.prediction.memory_bytes.max() <= topology.memory_bytes


def test_what_does_not_fit_is_named() -> None:
    tables = [
        TableShape(name="small", rows=1000, dim=8),
        TableShape(name="members", rows=1_000_000, dim=64),
    ]
    topology = cluster(1, 2, memory=100_000_000)
    with pytest.raises(ValueError, match=r"rank \d needs .* are missing; table 'members' has"):
        plan_tables(tables, topology, Workload(batch_per_rank=64))


def test_arguments_are_checked() -> None:
    table = TableShape(name="t", rows=10, dim=4)
    work = Workload(batch_per_rank=1)
    with pytest.raises(ValueError, match="kinds must be some of"):
        plan_tables([table], cluster(1, 2), work, kinds=())
    with pytest.raises(ValueError, match="'t': none of row_column is possible on 1 hosts"):
        plan_tables([table], cluster(1, 2), work, kinds=("row_column",))
    with pytest.raises(ValueError, match="seed must be >= 0; got -1"):
        plan_tables([table], cluster(1, 2), work, seed=-1)
    searched: list[str] = []
    with pytest.raises(ValueError, match="'t' is there twice"):
        plan_tables(
            [table, table], cluster(1, 2), work, report=lambda stage, *_: searched.append(stage)
        )
    assert not searched
    plan = ShardingPlan(
        num_ranks=2, ranks_per_host=2, tables=(table,), placements=(table_wise(table, 0),)
    )
    with pytest.raises(ValueError, match="the plan is for 1 hosts of 2 ranks"):
        predict(plan, cluster(2, 2), work)


def test_alternatives_say_why_not() -> None:
    tables = [
        TableShape(name="members", rows=40_000_000, dim=64, lookups_per_example=30),
        TableShape(name="country", rows=200, dim=8),
    ]
    topology = cluster(2, 2, memory=8 << 30)
    planned = plan_tables(tables, topology, Workload(batch_per_rank=512))
    for table in tables:
        chosen, *others = planned.alternatives[table.name]
        assert chosen.kind == planned.plan.placement(table.name).kind
        np.testing.assert_allclose(chosen.step_seconds, planned.prediction.step_seconds)
        for other in others:
            assert other.missing_bytes or other.step_seconds >= chosen.step_seconds * (1 - 1e-6)
    by_kind = {other.kind: other for other in planned.alternatives["members"]}
    assert by_kind["data_parallel"].missing_bytes > 0
    assert set(by_kind) == {"data_parallel", "table", "column", "row", "row_column"}


def test_frequent_rows_stay_everywhere_when_that_pays() -> None:
    table = TableShape(
        name="hashtags",
        rows=5_000_000,
        dim=64,
        lookups_per_example=50,
        zipf=1.3,
        order="frequency",
    )
    topology = cluster(2, 2, host_bandwidth=5e8)
    work = Workload(batch_per_rank=256, window=8)
    planned = plan_tables([table], topology, work)
    cold = plan_tables(
        [TableShape(name="hashtags", rows=5_000_000, dim=64, lookups_per_example=50, zipf=1.3)],
        topology,
        work,
    )
    assert planned.plan.placement("hashtags").hot_rows > 0
    assert planned.prediction.step_seconds < cold.prediction.step_seconds


def test_a_model_without_tables_has_a_plan() -> None:
    planned = plan_tables([], cluster(1, 2), Workload(batch_per_rank=8, dense_seconds=0.5))
    assert planned.plan.of_rank(0) == ()
    assert planned.prediction.step_seconds == 0.5
    assert planned.prediction.examples_per_second == 32


@pytest.mark.parametrize("exchange", ["rows", "pooled"])
@pytest.mark.parametrize("order", ["hashed", "frequency"])
def test_a_layout_costs_what_its_placement_does(exchange: Any, order: Any) -> None:
    rng = np.random.default_rng(5)
    model = CostModel(cluster(2, 3), Workload(batch_per_rank=64, window=3, exchange=exchange))
    for rows, dim in ((2, 3), (5, 12), (30_000, 48)):
        table = TableShape(name="t", rows=rows, dim=dim, lookups_per_example=4, order=order)
        options = TableChoices(table, model, kinds=KINDS, min_columns=1)
        choices = [
            options.on_least(layout, PlaceOrder.of(rng.random(6), model.topology))
            for layout in options.layouts
        ]
        got = options.contributions(choices)
        assert {choice.layout.kind for choice in choices} == set(KINDS)
        for choice, contribution in zip(choices, got, strict=True):
            want = model.contribution(table, options.placement(table, choice))
            np.testing.assert_allclose(contribution, want, rtol=1e-12)


def test_a_large_model_is_planned_with_reports_of_its_progress() -> None:
    tables = random_tables(np.random.default_rng(1), 270)
    topology = cluster(4, 8, memory=8 << 30)
    reports: list[tuple[str, int, int]] = []
    planned = plan_tables(
        tables,
        topology,
        Workload(batch_per_rank=256),
        report=lambda *where: reports.append(where),
    )
    assert planned.prediction.memory_bytes.max() <= topology.memory_bytes
    assert planned.prediction.imbalance < 0.2
    assert all(0 <= done < total == 270 for _, done, total in reports)
    assert len({stage for stage, _, _ in reports}) > 5
