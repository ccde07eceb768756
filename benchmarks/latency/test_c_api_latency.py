"""One request through libfeedfast and through Python, on the same store, and opening it.

The C call comes from ctypes on structs that are there already, which adds about a microsecond.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from feedfast import ModelStore, Scorer, runtime
from feedfast.ranker_artifact import RankerArtifact, publish_ranker

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from c_interface import CRequest, CScorer, library_path, load
from synthetic_ranker import random_request, synthetic_ranker

LIBRARY = library_path()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no preset has built libfeedfast")


@pytest.fixture(scope="module")
def artifact() -> RankerArtifact:
    return synthetic_ranker(
        num_members=10_000, member_dim=64, hashtag_dim=64, leaf_dim=16, units=(256, 128)
    )


@pytest.mark.benchmark(group="c_api")
@pytest.mark.parametrize("candidates", [1, 500])
@pytest.mark.parametrize("interface", ["c", "python"])
def test_c_api_latency(
    benchmark: BenchmarkFixture,
    artifact: RankerArtifact,
    tmp_path: Path,
    candidates: int,
    interface: str,
) -> None:
    publish_ranker(ModelStore(tmp_path), "feed", artifact)
    request = random_request(np.random.default_rng(1), artifact, candidates, history=50)
    scorer = Scorer.open(tmp_path)
    want = scorer.score(request)
    if interface == "python":
        result = benchmark(scorer.score, request)
        assert result.score.tobytes() == want.score.tobytes()
    else:
        assert LIBRARY is not None
        opened = CScorer(load(LIBRARY), tmp_path, "feed")
        given, answer = CRequest(request), opened.answer(candidates)
        answer.columns.stage_nanoseconds = None
        benchmark(opened.score_into, given, answer.columns)
        assert answer.score.tobytes() == want.score.tobytes()
        opened.close()
    benchmark.extra_info.update(target=runtime.cpu_target())


@pytest.mark.benchmark(group="c_api_open")
@pytest.mark.parametrize("interface", ["c", "python"])
def test_c_api_open(
    benchmark: BenchmarkFixture, artifact: RankerArtifact, tmp_path: Path, interface: str
) -> None:
    publish_ranker(ModelStore(tmp_path), "feed", artifact)
    if interface == "python":
        benchmark(Scorer.open, tmp_path)
    else:
        assert LIBRARY is not None
        library = load(LIBRARY)
        benchmark(lambda: CScorer(library, tmp_path, "feed").close())
    benchmark.extra_info.update(target=runtime.cpu_target())
