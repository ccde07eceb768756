from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from feedfast import ModelStore
from feedfast.cli.main import main
from feedfast.config import CrossConfig, HistoryConfig, RankerConfig, TowerConfig
from feedfast.latency_plan import LatencyPoint, RequestTimer, plan_latency, scaled_units, widest
from feedfast.ranker_artifact import publish_ranker
from feedfast.synthetic_ranker import RankerShape, random_artifact, random_request, zipf_ranks
from synthetic_ranker import synthetic_ranker


@pytest.fixture
def shape() -> RankerShape:
    config = RankerConfig(passive=TowerConfig(units=(64, 32)), history=HistoryConfig(max_members=3))
    return RankerShape.from_config(
        config, num_members=50, num_hashtags=20, num_shared=2, num_dense=5, num_objectives=3
    )


class Linear:
    """A request takes 10 us per unit of the first layer."""

    def __init__(self) -> None:
        self.measured: list[int] = []

    def __call__(self, units: tuple[int, ...]) -> tuple[int, NDArray[np.float64]]:
        self.measured.append(units[0])
        return units[0], np.full(5, 1e-5 * units[0])


@pytest.mark.parametrize(
    ("budget_ms", "best"), [(0.31, None), (0.32, 32), (1, 96), (5.75, 544), (1000, 2048)]
)
def test_finds_the_widest_net_under_the_budget(
    shape: RankerShape, budget_ms: float, best: int | None
) -> None:
    measure = Linear()
    points = plan_latency(measure, shape, ids=True, budget_ms=budget_ms, largest=2048)
    found = widest(points)
    assert (None if found is None else found.units[0]) == best
    assert [p.units[0] for p in points] == sorted(set(measure.measured))
    assert len(measure.measured) == len(points) <= 14


def test_a_net_that_was_disturbed_is_measured_again(shape: RankerShape) -> None:
    calls = 0

    def measure(units: tuple[int, ...]) -> tuple[int, NDArray[np.float64]]:
        nonlocal calls
        calls += 1
        return 1, np.array([1e-3, 1e-3, 9e-3 if calls < 3 else 2e-3])

    (point,) = plan_latency(measure, shape, ids=True, budget_ms=3.0, largest=32)
    assert calls == 3
    assert point.fits
    assert point.p99_ms == pytest.approx(1.98)


@pytest.mark.parametrize(
    ("budget_ms", "largest", "message"),
    [(0, 64, "p99 must be > 0 ms; got 0"), (1, 31, "largest width must be >= 32; got 31")],
)
def test_bad_limits_are_named(
    shape: RankerShape, budget_ms: float, largest: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_latency(Linear(), shape, ids=True, budget_ms=budget_ms, largest=largest)


def test_layers_scale_in_proportion() -> None:
    assert scaled_units((512, 256, 128), 96) == (96, 48, 32)
    assert scaled_units((64, 32), 32) == (32, 16)


def test_shape_of_a_stored_ranker(tmp_path: Path) -> None:
    artifact = synthetic_ranker(gates={"passive": "low_rank", "active": "input"})
    publish_ranker(ModelStore(tmp_path), "feed", artifact)
    found = RankerShape.from_model(ModelStore(tmp_path).open("feed"))
    assert (found.num_members, found.num_hashtags) == (300, 50)
    assert found.layout == artifact.layout
    assert (found.num_trees, found.depth) == (12, 3)
    assert (found.units, found.gate, found.gate_rank) == ((24, 10), "hidden", 3)
    again = random_artifact(found)
    assert again.layout == artifact.layout
    assert again.forest.num_leaves == artifact.forest.num_leaves
    assert [x.weight.shape for x in again.towers["passive"]] == [
        x.weight.shape for x in artifact.towers["passive"]
    ]
    factors = again.towers["passive"][0].gate_weight
    assert isinstance(factors, tuple)
    assert factors[0].shape == (24, 3)


def test_a_cross_network_counts_as_weights(shape: RankerShape) -> None:
    crossed = dataclasses.replace(shape, cross=CrossConfig(layers=2, rank=3))
    counts = []
    for each in (shape, crossed):
        with RequestTimer(each, candidates=2, rounds=1) as timer:
            counts.append(timer((32,))[0])
    size = shape.layout.num_inputs
    assert counts[1] - counts[0] == 2 * (size + 2 * 3 * size)


def test_model_and_version_need_a_store(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--model=feed", "--version=3"):
        assert main(["plan", "latency", "--p99", "9", option]) == 2
        assert "--model and --version go with --store" in capsys.readouterr().err


def test_requests_without_ids_have_none(shape: RankerShape) -> None:
    request = random_request(np.random.default_rng(0), shape.without_ids(), 4)
    assert request.viewer is request.actor is request.hashtags is request.history_members is None
    assert len(request.item) == 4
    known = random_request(np.random.default_rng(0), shape, 4)
    assert known.history_members is not None
    assert len(known.history_members) == 3


def test_zipf_draws_the_first_ranks_most() -> None:
    ranks = np.array(zipf_ranks(np.random.default_rng(0), 1000, 20_000))
    assert ranks.min() == 1
    assert ranks.max() <= 1000
    assert (ranks == 1).sum() / (ranks == 10).sum() == pytest.approx(10**1.05, rel=0.3)


def test_command_measures_nets_with_and_without_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = synthetic_ranker(num_members=40, gates={"passive": "hidden", "active": "hidden"})
    publish_ranker(ModelStore(tmp_path / "store"), "feed", artifact)
    arguments = ["--p99", "1e9", "--candidates", "3", "--requests", "2", "--largest", "64"]
    store = ["--store", str(tmp_path / "store")]
    assert main(["plan", "latency", "--json", *arguments, *store]) == 0
    document = json.loads(capsys.readouterr().out)
    widths = [(point["ids"], point["units"][0]) for point in document["points"]]
    assert widths == [(True, 32), (True, 64), (False, 32), (False, 64)]
    assert document["widest"]["with_ids"]["units"] == [64, 32]
    assert document["widest"]["with_ids"]["num_weights"] > document["points"][2]["num_weights"]


def test_command_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    config = RankerConfig(passive=TowerConfig(units=(32,)))
    (tmp_path / "config.json").write_text(config.to_json())
    arguments = ["--p99", "1e9", "--candidates", "2", "--requests", "2", "--largest", "32"]
    sizes = ["--members", "30", "--hashtags", "10", "--shared", "1", "--dense", "3"]
    files = ["--config", str(tmp_path / "config.json"), "--plot", str(tmp_path / "plan.svg")]
    assert main(["plan", "latency", *arguments, *sizes, *files]) == 0
    assert "Widest net with ids: 32" in capsys.readouterr().out
    assert (tmp_path / "plan.svg").read_text().startswith("<svg")


def test_points_are_plain_values() -> None:
    point = LatencyPoint(ids=True, units=(32,), num_weights=1, p50_ms=1.0, p99_ms=2.0, fits=False)
    assert dataclasses.asdict(point)["units"] == (32,)
    assert widest([point]) is None
