from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedfast.quantize import QuantizedTable
from feedfast.ranker_artifact import RankerArtifact, publish_ranker
from feedfast.request import Request, RequestBatch, Result
from feedfast.scorer import Scorer
from feedfast.store import ModelStore
from reference import ranker as reference
from synthetic_ranker import OBJECTIVES, random_request, synthetic_ranker

SEED = 20_261_121


@pytest.fixture(scope="module")
def artifact() -> RankerArtifact:
    return synthetic_ranker(SEED, calibrated=True, with_effects=True)


@pytest.fixture(scope="module")
def path(artifact: RankerArtifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    publish_ranker(ModelStore(folder), "feed", artifact)
    publish_ranker(ModelStore(folder), "small", artifact, precision="int8")
    return folder


def assert_same_bits(got: Result, want: Result) -> None:
    np.testing.assert_array_equal(
        got.probabilities.view(np.int32), want.probabilities.view(np.int32)
    )
    np.testing.assert_array_equal(got.score.view(np.int32), want.score.view(np.int32))
    np.testing.assert_array_equal(got.order, want.order)


def one_candidate(request: Request, c: int) -> Request:
    keys: Any = request
    assert request.hashtags is not None
    tags: Any = request.hashtags[0]
    offsets = np.asarray(request.hashtags[1])
    bag = tags[offsets[c] : offsets[c + 1]]
    return dataclasses.replace(
        request,
        item=[keys.item[c]],
        actor=[keys.actor[c]],
        root_actor=[keys.root_actor[c]],
        hashtags=(bag, [0, len(bag)]),
        dense=np.asarray(request.dense)[c : c + 1],
    )


def concatenated(requests: list[Request]) -> RequestBatch:
    """The requests as columns."""

    def offsets(lengths: list[int]) -> list[int]:
        return [0, *np.cumsum(lengths).tolist()]

    parts: list[Any] = requests
    return RequestBatch(
        candidate_offsets=offsets([len(r.item) for r in parts]),
        viewer=[r.viewer for r in parts],
        history_members=(
            [key for r in parts for key in r.history_members],
            offsets([len(r.history_members) for r in parts]),
        ),
        history_hashtags=(
            [key for r in parts for key in r.history_hashtags],
            offsets([len(r.history_hashtags) for r in parts]),
        ),
        shared=np.stack([r.shared for r in parts]),
        item=[key for r in parts for key in r.item],
        actor=[key for r in parts for key in r.actor],
        root_actor=[key for r in parts for key in r.root_actor],
        hashtags=(
            [key for r in parts for key in r.hashtags[0]],
            offsets([length for r in parts for length in np.diff(r.hashtags[1])]),
        ),
        dense=np.concatenate([r.dense for r in parts]),
    )


@pytest.mark.parametrize(
    ("calibrated", "with_effects", "gates"),
    [
        (False, False, {"passive": None, "active": "low_rank"}),
        (True, True, {"passive": "hidden", "active": "input"}),
    ],
)
def test_scores_match_the_reference(
    tmp_path: Path, cpu_target: str, calibrated: bool, with_effects: bool, gates: dict[str, Any]
) -> None:
    artifact = synthetic_ranker(SEED, calibrated=calibrated, with_effects=with_effects, gates=gates)
    publish_ranker(ModelStore(tmp_path), "feed", artifact)
    scorer = Scorer.open(tmp_path, verify="full")
    rng = np.random.default_rng(SEED)
    for candidates in (0, 1, 2, 40):
        request = random_request(rng, artifact, candidates)
        result = scorer.score(request)
        want = reference.probabilities(artifact, request)
        # float32 sums of at most 71 terms; calibrators here rise by up to 30 per unit
        np.testing.assert_allclose(result.probabilities, want, atol=3e-5 if calibrated else 2e-6)
        assert result.objectives == tuple(objective.name for objective in OBJECTIVES)
        np.testing.assert_array_equal(result.score, artifact.utility.score(result.probabilities))
        by_score = sorted(range(candidates), key=lambda i: (-float(result.score[i]), i))
        assert result.order.tolist() == by_score


def test_int8_tables_score_as_their_decoded_rows(path: Path, artifact: RankerArtifact) -> None:
    decoded = {
        name: QuantizedTable.quantize(getattr(artifact, name)).dequantize()
        for name in ("member_table", "hashtag_table", "leaf_table")
    }
    want = dataclasses.replace(artifact, **decoded)
    scorer = Scorer.open(path, "small", verify="full")
    request = random_request(np.random.default_rng(SEED), artifact, 40)
    np.testing.assert_allclose(
        scorer.score(request).probabilities, reference.probabilities(want, request), atol=3e-5
    )
    sizes = {
        model: {s.name: s.num_bytes for s in ModelStore(path).open(model).section_sizes()}
        for model in ("feed", "small")
    }
    assert sizes["small"]["member_table"] < 0.6 * sizes["feed"]["member_table"]


def test_bits_do_not_depend_on_batch_split_or_threads(path: Path, artifact: RankerArtifact) -> None:
    """1,000 random requests: alone, split, over threads, candidate by candidate, and offline."""
    rng = np.random.default_rng(SEED)
    scorer = Scorer.open(path)
    others = [
        Scorer.open(path, threads=threads, mini_batch=mini_batch)
        for threads, mini_batch in ((1, 1), (1, 7), (2, 16), (3, 4096))
    ]
    requests, results = [], []
    for number in range(1000):
        request = random_request(rng, artifact, int(rng.integers(0, 12)))
        result = scorer.score(request)
        assert_same_bits(others[number % len(others)].score(request), result)
        if number % 10 == 0:
            for other in others:
                assert_same_bits(other.score(request), result)
            for c in range(len(result.score)):
                alone = scorer.score(one_candidate(request, c))
                assert alone.score[0].tobytes() == result.score[c].tobytes()
                assert alone.probabilities[0].tobytes() == result.probabilities[c].tobytes()
        requests.append(request)
        results.append(result)
    for other in (scorer, *others):
        batch = other.score_batch(concatenated(requests))
        assert batch.probabilities.tobytes() == b"".join(r.probabilities.tobytes() for r in results)
        assert batch.score.tobytes() == b"".join(r.score.tobytes() for r in results)
        assert batch.order.tobytes() == b"".join(r.order.tobytes() for r in results)
    rank = batch.rank()
    for result, begin in zip(results, batch.candidate_offsets, strict=False):
        np.testing.assert_array_equal(rank[begin + result.order], np.arange(len(result.order)))


@pytest.mark.parametrize("cpu", ["scalar", "avx2"])
def test_large_requests_split_on_other_targets(
    path: Path, artifact: RankerArtifact, cpu: str
) -> None:
    from feedfast import runtime

    if cpu not in runtime.supported_cpu_targets():
        pytest.skip(f"this machine lacks {cpu}")
    before = runtime.cpu_target()
    runtime.force_cpu_target(cpu)
    try:
        request = random_request(np.random.default_rng(SEED), artifact, 500)
        want = Scorer.open(path).score(request)
        for threads, mini_batch in ((1, 33), (2, 64), (4, 500)):
            got = Scorer.open(path, threads=threads, mini_batch=mini_batch).score(request)
            assert_same_bits(got, want)
    finally:
        runtime.force_cpu_target(before)


def test_concurrent_calls(path: Path, artifact: RankerArtifact) -> None:
    rng = np.random.default_rng(SEED)
    requests = [random_request(rng, artifact, 5 * i) for i in range(12)]
    scorer = Scorer.open(path, threads=2, mini_batch=8)
    want = [scorer.score(request) for request in requests]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            for got, expected in zip(pool.map(scorer.score, requests), want, strict=True):
                assert_same_bits(got, expected)


def test_pickle_keeps_path_and_version(path: Path, artifact: RankerArtifact) -> None:
    scorer = Scorer.open(path, threads=2)
    request = random_request(np.random.default_rng(SEED), artifact, 9)
    want = scorer.score(request)
    pickled = pickle.dumps(scorer)
    assert len(pickled) < 1000
    publish_ranker(ModelStore(path), "feed", synthetic_ranker(1))
    copy = pickle.loads(pickled)
    assert copy.version == scorer.version == "000001"
    assert_same_bits(copy.score(request), want)


def test_utility_is_chosen_per_request(path: Path, artifact: RankerArtifact) -> None:
    scorer = Scorer.open(path, version=1)
    request = random_request(np.random.default_rng(SEED), artifact, 20)
    default = scorer.score(request)
    utility = artifact.utility
    for change in ({"alpha": 0.0}, {"alpha": 1.0}, {"lambda_": 0.0}, {"lambda_": 5.5}):
        result = scorer.score(request, **change)  # type: ignore[arg-type]
        assert result.probabilities.tobytes() == default.probabilities.tobytes()
        fields = {"other_weight" if k == "lambda_" else k: v for k, v in change.items()}
        want = dataclasses.replace(utility, **fields).score(default.probabilities)
        np.testing.assert_array_equal(result.score, want)
    weights = [0.0, 0.0, 1.0, 0.0, 0.0]
    only_dwell = scorer.score(request, alpha=1.0, weights=weights)
    np.testing.assert_array_equal(only_dwell.score, default.probabilities[:, 2])
    # Two segments of members, two lists.
    passive, active = scorer.score(request, alpha=1.0), scorer.score(request, alpha=0.0)
    assert passive.order.tolist() != active.order.tolist()


def test_top_k_is_the_head_of_the_order(path: Path, artifact: RankerArtifact) -> None:
    scorer = Scorer.open(path, version=1)
    request = random_request(np.random.default_rng(SEED), artifact, 20)
    whole = scorer.score(request)
    for top_k in (0, 1, 7, 20, 100):
        result = scorer.score(request, top_k=top_k)
        np.testing.assert_array_equal(result.order, whole.order[:top_k])
        assert result.score.tobytes() == whole.score.tobytes()


def test_defaults_of_what_is_missing(path: Path, artifact: RankerArtifact) -> None:
    scorer = Scorer.open(path, version=1)
    item = ["item:1", "item:2", "item:3"]
    unknown = ["nobody"] * 3
    want = scorer.score(
        Request(
            viewer="nobody",
            history_members=[],
            history_hashtags=[],
            shared=[np.nan] * 3,
            item=item,
            actor=unknown,
            root_actor=unknown,
            hashtags=([], [0, 0, 0, 0]),
            dense=np.full((3, 7), np.nan),
        )
    )
    assert_same_bits(scorer.score(Request(None, None, None, None, item)), want)
    actor = ["member:1", "member:2", "nobody"]
    assert_same_bits(
        scorer.score(Request(None, None, None, None, item, actor)),
        scorer.score(Request(None, None, None, None, item, actor, actor)),
    )


def test_features_by_name(path: Path, artifact: RankerArtifact) -> None:
    scorer = Scorer.open(path, version=1)
    request = random_request(np.random.default_rng(SEED), artifact, 4)
    shared, dense = np.array(request.shared), np.array(request.dense)
    shared[1] = np.nan
    dense[:, 2] = np.nan
    named = dataclasses.replace(
        request,
        shared={"s0": float(shared[0]), "s2": float(shared[2])},
        dense={name: dense[:, i] for i, name in enumerate(scorer.dense_names) if i != 2},
    )
    assert_same_bits(
        scorer.score(named),
        scorer.score(dataclasses.replace(request, shared=shared, dense=dense)),
    )
    with pytest.raises(ValueError, match="shared: 'age' is not a feature; allowed: s0, s1, s2"):
        scorer.score(dataclasses.replace(request, shared={"age": 3.0}))
    with pytest.raises(ValueError, match=r"dense\['d1'\] has shape \(3,\); expected \(4,\)"):
        scorer.score(dataclasses.replace(request, dense={"d1": [1.0, 2.0, 3.0]}))


def test_errors_name_argument_position_value_and_limit(
    path: Path, artifact: RankerArtifact
) -> None:
    scorer = Scorer.open(path, version=1)
    request = random_request(np.random.default_rng(SEED), artifact, 4)
    for change, message in (
        ({"actor": ["member:1"]}, "actor has 1 keys; there are 4 candidates"),
        ({"root_actor": ["a"] * 5}, "root_actor has 5 keys; there are 4 candidates"),
        ({"hashtags": (["tag:1"], [0, 1, 1, 1, 2])}, r"hashtag_offsets\[4\] = 2; hashtags has 1"),
        ({"hashtags": (["tag:1"], [0, 1, 0, 1, 1])}, r"hashtag_offsets\[2\] = 0 is below"),
        ({"hashtags": (["tag:1"], [0, 1])}, "hashtag_offsets has 2 values; needs 5"),
        ({"shared": [1.0]}, r"shared has shape \(1, 1\); expected \(1, 3\)"),
        ({"dense": np.zeros((4, 6))}, r"dense has shape \(4, 6\); expected \(4, 7\)"),
        ({"item": ["a", "b", None, "d"]}, "item"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            scorer.score(dataclasses.replace(request, **change))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="item must be keys with a length; got int"):
        scorer.score(dataclasses.replace(request, item=3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"alpha = 1\.5; allowed: 0 to 1"):
        scorer.score(request, alpha=1.5)
    with pytest.raises(ValueError, match="lambda = nan; must be finite and >= 0"):
        scorer.score(request, lambda_=float("nan"))
    with pytest.raises(ValueError, match="weights has 1 values; the model has 5 objectives"):
        scorer.score(request, weights=[1.0])
    with pytest.raises(ValueError, match="top_k = -1; must be >= 0"):
        scorer.score(request, top_k=-1)
    with pytest.raises(ValueError, match="threads must be >= 1; got 0"):
        Scorer.open(path, threads=0)
    for mini_batch in (0, 4097):
        with pytest.raises(
            ValueError, match=rf"mini_batch must be in \[1, 4096\]; got {mini_batch}"
        ):
            Scorer.open(path, mini_batch=mini_batch)
    with pytest.raises(FileNotFoundError, match="no model 'food'; models: feed, small"):
        Scorer.open(path, "food")


def test_requests_of_another_type_are_refused(path: Path, artifact: RankerArtifact) -> None:
    scorer = Scorer.open(path, version=1)
    request = random_request(np.random.default_rng(SEED), artifact, 4)
    with pytest.raises(TypeError, match="request must be a Request or a mapping; got list"):
        scorer.score([request])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="requests must be a RequestBatch; got Request"):
        scorer.score_batch(request)  # type: ignore[arg-type]
    for change, message in (
        ({"item": "abcd"}, "item must be a column of keys; got one str"),
        ({"history_members": b"abcd"}, "history_members must be a column of keys; got one bytes"),
        ({"shared": ["1", "2", "3"]}, "shared must be a float array; got <U1"),
        ({"shared": {"s1": None}}, r"shared\['s1'\] must be a float array; got object"),
        ({"dense": np.zeros((4, 7), complex)}, "dense must be a float array; got complex128"),
        ({"dense": {"d1": ["1"] * 4}}, r"dense\['d1'\] must be a float array; got <U1"),
    ):
        with pytest.raises(TypeError, match=message):
            scorer.score(dataclasses.replace(request, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([], "candidate_offsets is empty"),
        ([1, 2], r"candidate_offsets\[0\] = 1; must be 0"),
        ([0, -3], r"candidate_offsets\[1\] = -3 is below candidate_offsets\[0\] = 0"),
        ([0, 2, 1, 2], r"candidate_offsets\[2\] = 1 is below candidate_offsets\[1\] = 2"),
        ([0, 2**62], r"candidate_offsets\[1\] = \d+; item has 2 keys"),
        ([[0, 2]], "candidate_offsets must be integers with 1 dimension"),
    ],
)
def test_candidate_offsets_are_checked_first(path: Path, offsets: Any, message: str) -> None:
    batch = RequestBatch(
        candidate_offsets=offsets,
        viewer=None,
        history_members=None,
        history_hashtags=None,
        shared=None,
        item=["a", "b"],
    )
    with pytest.raises(ValueError, match=message):
        Scorer.open(path).score_batch(batch)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    ModelStore(tmp_path).writer("feed").publish({"kind": "poem"})
    with pytest.raises(ValueError, match="kind 'poem' is not 'ranker'"):
        Scorer.open(tmp_path)


def test_objectives_of_one_group_need_one_tower(tmp_path: Path) -> None:
    artifact = synthetic_ranker(SEED, objectives=OBJECTIVES[:1])
    publish_ranker(ModelStore(tmp_path), "feed", artifact)
    request = random_request(np.random.default_rng(SEED), artifact, 3)
    np.testing.assert_allclose(
        Scorer.open(tmp_path).score(request).probabilities,
        reference.probabilities(artifact, request),
        atol=2e-6,
    )


def test_scoring_needs_numpy_alone(path: Path) -> None:
    code = (
        "import sys\n"
        "from feedfast import Request, Scorer\n"
        "scorer = Scorer.open(sys.argv[1])\n"
        "request = Request('member:1', None, None, None, ['item:1'] * 3)\n"
        "print(scorer.score(request).order.tolist())\n"
        "print([m for m in ('tensorflow', 'pyarrow', 'xgboost') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[0, 1, 2]\n[]\n"
