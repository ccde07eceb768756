"""The model and the requests of `feedfast bench request` are what the workload says they are."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from feedfast import GatedMLP

PEERS = Path(__file__).resolve().parents[1] / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def request_model() -> Iterator[ModuleType]:
    pytest.importorskip("xgboost")
    sys.path.append(str(PEERS))
    yield importlib.import_module("request_model")
    sys.path.remove(str(PEERS))


def test_zipf_draws_the_first_ranks_most(request_model: ModuleType) -> None:
    keys = [str(i) for i in range(1000)]
    drawn = Counter(request_model.zipf(np.random.default_rng(0), keys, 20_000))
    first, tenth = drawn[keys[2_654_435_761 % 1000]], drawn[keys[26_544_357_610 % 1000]]
    assert drawn.total() == 20_000
    assert first / tenth == pytest.approx(10**1.05, rel=0.3)


def test_requests_have_the_sizes_of_the_workload(request_model: ModuleType) -> None:
    model = request_model.build(threads=1, quick=True)
    request = request_model.make_request(np.random.default_rng(0), model, 30)
    assert len(request.history_members) == 50
    assert len(request.history_hashtags) == 20
    assert len(request.item) == len(request.actor) == len(request.root_actor) == 30
    assert np.diff(request.hashtags[1]).max() <= request_model.MAX_HASHTAGS
    assert request.dense.shape == (30, len(model.artifact.dense_names))
    assert model.artifact.forest.num_trees == 100
    assert set(request.actor) <= set(model.members)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("int8", 0.2)])
def test_onnx_runtime_has_the_same_towers(
    request_model: ModuleType, tmp_path: Path, precision: str, tolerance: float
) -> None:
    pytest.importorskip("onnxruntime")
    onnx_peer = pytest.importorskip("request_onnx")
    rng = np.random.default_rng(1)
    utility = request_model.make_utility(request_model.EIGHT_HEADS)
    towers = request_model.make_towers(rng, 40, utility)
    peer = onnx_peer.Towers(onnx_peer.save_towers(towers, tmp_path, precision), 1)
    x = rng.standard_normal((9, 40), dtype=np.float32)
    want = np.concatenate([GatedMLP(layers)(x) for layers in towers.values()], axis=1)
    np.testing.assert_allclose(peer(x), want, atol=tolerance * np.std(want))
