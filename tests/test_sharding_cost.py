"""The cost model: counts against whole sums and drawn ids, times against sums by hand."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from feedfast.sharding import (
    PRESETS,
    ShardingPlan,
    TableShape,
    Topology,
    Workload,
    column_wise,
    data_parallel,
    predict,
    preset,
    row_column,
    row_wise,
    table_wise,
)
from feedfast.sharding.skew import distinct_rows, even_boundaries, lookup_share
from feedfast.sharding.step_cost import CostModel, Metric


@pytest.mark.parametrize("rows", [1, 10, 1000, 200_000])
@pytest.mark.parametrize("zipf", [0.0, 0.8, 1.0, 1.05, 2.0])
def test_counts_are_the_whole_sums(rows: int, zipf: float) -> None:
    table = TableShape(name="t", rows=rows, dim=1, zipf=zipf, order="frequency")
    probability = np.arange(1, rows + 1) ** -zipf
    probability /= probability.sum()
    third = rows // 3
    for lookups in (0, 1, 100, 30_000):
        seen = 1.0 - (1.0 - probability) ** lookups
        # 2e-4: bins 2 % wide stand for their middles.
        assert distinct_rows(table, lookups) == pytest.approx(seen.sum(), rel=2e-4)
        assert distinct_rows(table, lookups, third) == pytest.approx(seen[third:].sum(), rel=2e-4)
    assert lookup_share(table, 0, third) == pytest.approx(probability[:third].sum(), rel=2e-4)
    hashed = dataclasses.replace(table, order="hashed")
    seen = 1.0 - (1.0 - probability) ** 100
    want = seen.sum() * (rows - third) / rows
    assert distinct_rows(hashed, 100, third) == pytest.approx(want, rel=2e-4)
    assert lookup_share(hashed, 0, rows) == pytest.approx(1.0)


def test_counts_are_those_of_drawn_ids() -> None:
    rng = np.random.default_rng(1)
    table = TableShape(name="t", rows=5000, dim=1, zipf=1.1)
    probability = np.arange(1, 5001) ** -1.1
    probability /= probability.sum()
    drawn = [np.unique(rng.choice(5000, 2000, p=probability)).size for _ in range(50)]
    assert distinct_rows(table, 2000) == pytest.approx(np.mean(drawn), rel=0.02)  # 50 draws


@pytest.mark.parametrize("order", ["hashed", "frequency"])
def test_even_boundaries_hold_the_same_numbers_of_rows(order: Any) -> None:
    table = TableShape(name="t", rows=100_000, dim=1, zipf=1.0, order=order)
    ends = even_boundaries(table, 5000, 4, 1000)
    assert (ends[0], ends[-1]) == (1000, 100_000)
    held = [distinct_rows(table, 5000, *ends[part : part + 2]) for part in range(4)]
    np.testing.assert_allclose(held, np.mean(held), rtol=0.01)
    assert even_boundaries(table, 0, 2, 0)[1] == 50_000


UNIT = Topology(
    name="unit",
    source="preset",
    num_hosts=2,
    ranks_per_host=2,
    memory_bytes=1 << 40,
    local_latency=0.0,
    local_bandwidth=1.0,
    host_latency=0.0,
    host_bandwidth=0.5,
    id_seconds=1.0,
    row_seconds=1.0,
    row_bandwidth=1e30,
    window_seconds=1.0,
    window_bandwidth=1e30,
    sum_seconds=1.0,
    sum_bandwidth=1e30,
    update_seconds=1.0,
    update_bandwidth=1e30,
    copy_bandwidth=1e30,
    table_seconds=0.0,
    workers=2,
)
# 8 rows, every one read in a batch of 10,000: counts are whole numbers.
TABLE = TableShape(name="t", rows=8, dim=4, zipf=0.0, lookups_per_example=1, optimizer="sgd")
WORK = Workload(batch_per_rank=10_000)


def parts_of(placement: Any, topology: Topology = UNIT, work: Workload = WORK) -> dict[str, float]:
    plan = ShardingPlan(
        num_ranks=topology.num_ranks,
        ranks_per_host=topology.ranks_per_host,
        tables=(TABLE,),
        placements=(placement,),
    )
    return predict(plan, topology, work).part_seconds


def test_exchanges_by_hand() -> None:
    one = parts_of(table_wise(TABLE, 0))
    # 8 ids of 4 bytes from each of 3 others: 32 within the host at 1 byte/s, 64 across at 0.5.
    assert one["id exchange"] == pytest.approx(128)
    # 8 rows of 16 bytes to each: 128 within, 256 across.
    assert one["row exchange"] == pytest.approx(512)
    assert one["gradient exchange"] == pytest.approx(2 * 8 * (4 + 16) / 0.5)
    assert one["lookup"] == pytest.approx(4 * 8)
    assert one["update"] == pytest.approx(4 * 8 + 8)
    # Four ranks with two rows each: every rank sends 2 * 16 * 2 across, and gets as much.
    split = parts_of(row_wise(TABLE, range(4)))
    assert split["row exchange"] == pytest.approx(2 * 16 * 2 / 0.5)
    assert split["lookup"] == pytest.approx(4 * 2)
    columns = parts_of(column_wise(TABLE, range(4)))
    assert columns["row exchange"] == pytest.approx(split["row exchange"])
    assert columns["id exchange"] == pytest.approx(4 * split["id exchange"])
    grid = parts_of(row_column(TABLE, [0, 1], 2))
    assert grid["row exchange"] == pytest.approx(split["row exchange"])
    assert grid["id exchange"] == pytest.approx(2 * split["id exchange"])


def test_replicas_by_hand() -> None:
    both = parts_of(data_parallel(TABLE, 4))
    # 8 rows of 16 bytes: an all-reduce; within the host 2 * 1/2 * 128, across 2 * 1/2 * 128 / 2.
    assert both["replica exchange"] == pytest.approx(128 + 64 / 0.5)
    assert both["row exchange"] == 0.0
    few = dataclasses.replace(TABLE, rows=1_000_000)
    plan = ShardingPlan(
        num_ranks=4, ranks_per_host=2, tables=(few,), placements=(data_parallel(few, 4),)
    )
    seen = distinct_rows(few, 10_000)
    got = predict(plan, UNIT, WORK).part_seconds["replica exchange"]
    assert got == pytest.approx(2 * seen * (4 + 16) / 0.5)  # an all-gather of the rows


def test_pooled_vectors_do_not_depend_on_the_number_of_ids() -> None:
    work = dataclasses.replace(WORK, exchange="pooled")
    pooled = parts_of(table_wise(TABLE, 0), work=work)
    assert pooled["row exchange"] == pytest.approx(2 * 10_000 * 16 / 0.5)
    assert pooled["id exchange"] == pytest.approx(2 * 10_000 * 8 / 0.5)
    # Partial sums: by rows over all ranks four vectors a bag cross, within a host first, two.
    rows = parts_of(row_wise(TABLE, range(4)), work=work)["row exchange"]
    model = CostModel(UNIT, work)
    grid = model.contribution(TABLE, row_column(TABLE, [0], 2))
    assert rows == pytest.approx(pooled["row exchange"])
    assert grid[:2, Metric.ROW_BYTES].sum() == pytest.approx(10_000 * 16)
    assert grid[0, Metric.REDUCE_BYTES] > 0


def test_a_window_shares_what_it_does_once() -> None:
    every = parts_of(table_wise(TABLE, 0))
    fifth = parts_of(table_wise(TABLE, 0), work=dataclasses.replace(WORK, window=5))
    assert fifth["gradient exchange"] == pytest.approx(every["gradient exchange"] / 5)
    assert fifth["row exchange"] == pytest.approx(every["row exchange"])


def test_ranks_that_share_cores_wait_for_one_another() -> None:
    shared = dataclasses.replace(UNIT, num_hosts=1, ranks_per_host=4, workers=2)
    own = dataclasses.replace(shared, workers=4)
    everywhere = row_wise(TABLE, range(4))
    assert parts_of(everywhere, shared)["lookup"] == pytest.approx(2 * 4 * 2)
    assert parts_of(everywhere, own)["lookup"] == pytest.approx(4 * 2)
    # One owner has a core for itself either way.
    assert parts_of(table_wise(TABLE, 0), shared)["lookup"] == pytest.approx(4 * 8)


def test_one_rank_exchanges_nothing() -> None:
    alone = dataclasses.replace(UNIT, num_hosts=1, ranks_per_host=1, workers=1)
    for placement in (table_wise(TABLE, 0), data_parallel(TABLE, 1)):
        parts = parts_of(placement, alone)
        assert not any(parts[part] for part in parts if part.endswith("exchange"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_per_rank": 0}, "batch_per_rank must be >= 1"),
        ({"exchange": "ids"}, "exchange must be 'rows' or 'pooled'"),
        ({"wire_bytes": 3}, "wire_bytes must be 2 or 4"),
        ({"dense_seconds": float("inf")}, "dense_seconds must be finite"),
        ({"dense_bytes": -1}, "dense_bytes must be >= 0"),
    ],
)
def test_a_workload_checks_itself(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(WORK, **changes)


def test_topologies_read_back_and_are_checked() -> None:
    for name in PRESETS:
        topology = preset(name, num_hosts=16, ranks_per_host=8)
        assert topology.num_ranks == 128
        assert topology.source == "preset"
        assert Topology.from_json(topology.to_json()) == topology
    with pytest.raises(ValueError, match="no preset 'v100'; there are: a100, h100"):
        preset("v100", num_hosts=1, ranks_per_host=1)
    good = json.loads(UNIT.to_json())
    for changes, message in (
        ({"format": "plan"}, "not of format"),
        ({"workers": 3}, "workers must be at most ranks_per_host = 2"),
        ({"row_bandwidth": 0}, "row_bandwidth must be finite and positive"),
        ({"num_hosts": 0}, "num_hosts must be >= 1"),
        ({"memory_bytes": 1.5}, "memory_bytes = 1.5 is not allowed"),
        ({"local_bandwidth": 10**400}, "is not allowed"),
        ({"source": "guess"}, "source = 'guess' is not allowed"),
        ({"note": 1}, "member 'note' is unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            Topology.from_json(json.dumps({**good, **changes}))
    del good["workers"]
    for text, message in (
        (json.dumps(good), "member 'workers' is missing"),
        ("[]", "must be an object"),
        ("{", "not JSON"),
    ):
        with pytest.raises(ValueError, match=message):
            Topology.from_json(text)
