from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from feedfast import ModelStore, RequestBatch, Scorer, runtime
from feedfast.ranker_artifact import RankerArtifact, publish_ranker

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from synthetic_ranker import random_request, synthetic_ranker


@pytest.fixture(scope="module")
def artifact() -> RankerArtifact:
    return synthetic_ranker(
        num_members=100_000,
        num_hashtags=20_000,
        member_dim=64,
        hashtag_dim=64,
        leaf_dim=16,
        num_shared=16,
        num_dense=48,
        num_trees=100,
        depth=6,
        units=(256, 128),
        gates={"passive": "hidden", "active": "hidden"},
    )


@pytest.mark.benchmark(group="scorer")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("candidates", [1, 50, 500])
def test_scorer_latency(
    benchmark: BenchmarkFixture,
    artifact: RankerArtifact,
    tmp_path: Path,
    candidates: int,
    precision: str,
) -> None:
    publish_ranker(ModelStore(tmp_path), "feed", artifact, precision=precision)  # type: ignore[arg-type]
    scorer = Scorer.open(tmp_path)
    request = random_request(np.random.default_rng(1), artifact, candidates, history=50)
    result = benchmark(scorer.score, request)
    assert sorted(result.order) == list(range(candidates))
    assert result.score[result.order].tolist() == sorted(result.score, reverse=True)
    benchmark.extra_info.update(target=runtime.cpu_target())


@pytest.mark.benchmark(group="scorer")
def test_offline_latency(
    benchmark: BenchmarkFixture, artifact: RankerArtifact, tmp_path: Path
) -> None:
    """1,000 logged requests of one candidate each, in one call."""
    publish_ranker(ModelStore(tmp_path), "feed", artifact)
    scorer = Scorer.open(tmp_path)
    request = random_request(np.random.default_rng(1), artifact, 1000)
    batch = RequestBatch(
        candidate_offsets=np.arange(1001),
        viewer=request.actor,
        history_members=None,
        history_hashtags=None,
        shared=None,
        item=request.item,
        actor=request.actor,
        hashtags=request.hashtags,
        dense=request.dense,
    )
    result = benchmark(scorer.score_batch, batch)
    assert result.probabilities.shape == (1000, len(scorer.objectives))
