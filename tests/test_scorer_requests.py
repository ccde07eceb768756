from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feedfast import Request, RequestBatch, Scorer, Tradeoff, Vocabulary
from feedfast.random_effects import RandomEffects
from feedfast.ranker_artifact import RankerArtifact, publish_ranker
from feedfast.scorer_sweep import sweep
from feedfast.store import ModelStore
from synthetic_ranker import random_request, synthetic_ranker

SEED = 5


@pytest.fixture(scope="module")
def artifact() -> RankerArtifact:
    return synthetic_ranker(SEED, calibrated=True, with_effects=True)


@pytest.fixture(scope="module")
def scorer(artifact: RankerArtifact, tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = tmp_path_factory.mktemp("store")
    publish_ranker(ModelStore(folder), "feed", artifact)
    return Scorer.open(folder, mini_batch=8)


def bits(result: Any) -> tuple[bytes, bytes, bytes]:
    return result.probabilities.tobytes(), result.score.tobytes(), result.order.tobytes()


def text(keys: Any) -> list[str]:
    return [key if isinstance(key, str) else "bytes" for key in keys]


def test_requests_come_as_dicts_arrow_and_numpy(scorer: Scorer, artifact: RankerArtifact) -> None:
    request: Any = random_request(np.random.default_rng(SEED), artifact, 20)
    tags, offsets = text(request.hashtags[0]), request.hashtags[1]
    request = dataclasses.replace(
        request,
        **{
            name: text(getattr(request, name))
            for name in ("history_members", "history_hashtags", "item", "actor", "root_actor")
        },
        viewer="member:7",
        hashtags=(tags, offsets),
    )
    want = bits(scorer.score(request))
    fields = {name: getattr(request, name) for name in Request.__dataclass_fields__}
    assert bits(scorer.score(fields)) == want
    lists = [tags[a:b] for a, b in itertools.pairwise(offsets)]
    assert bits(scorer.score(fields | {"hashtags": lists})) == want
    sliced = pa.array([["x"], *lists, None])[1:-1]
    assert bits(scorer.score(fields | {"hashtags": sliced})) == want
    columns = ("history_members", "history_hashtags", "item", "actor", "root_actor")
    arrow = {name: pa.array(fields[name], pa.string()) for name in columns}
    dense = {name: pa.array(fields["dense"][:, i]) for i, name in enumerate(scorer.dense_names)}
    assert bits(scorer.score(fields | arrow | {"hashtags": sliced, "dense": dense})) == want
    numpy = {name: np.array(fields[name], "U") for name in columns}
    assert bits(scorer.score(fields | numpy)) == want
    assert bits(scorer.score({"item": ["a"]})) == bits(
        scorer.score(Request(None, None, None, None, ["a"]))
    )

    with pytest.raises(
        ValueError, match="request: 'viewers' is not a field; allowed: viewer, hist"
    ):
        scorer.score({"item": ["a"], "viewers": "x"})
    with pytest.raises(ValueError, match="request: 'item' is missing"):
        scorer.score({"viewer": "x"})
    with pytest.raises(ValueError, match="hashtag_offsets has 2 values; needs 21"):
        scorer.score(fields | {"hashtags": [["a"]]})
    with pytest.raises(TypeError, match=r"hashtags must be a pair .* got dict"):
        scorer.score(fields | {"hashtags": {"a": 1}})
    with pytest.raises(TypeError, match=r"hashtags\[0\] must be a column of keys; got one str"):
        scorer.score(fields | {"hashtags": ["a"] * 20})


def test_dense_features_in_the_models_order_are_not_copied(scorer: Scorer) -> None:
    from feedfast.request_columns import feature_table

    dense = np.zeros((4, 7), np.float32)
    assert feature_table("dense", dense, scorer.dense_names, 4) is dense


def test_every_segment_has_its_trade_off(scorer: Scorer, artifact: RankerArtifact) -> None:
    rng = np.random.default_rng(SEED)
    requests = [random_request(rng, artifact, 10) for _ in range(6)]
    segments = {
        "consumer": Tradeoff(alpha=1.0),
        "contributor": Tradeoff(alpha=0.0, lambda_=2.0),
        "sharer": Tradeoff(weights={"share": 400.0}),
    }
    of = ["consumer", "contributor", "sharer", "contributor", "consumer", "sharer"]
    alone = [
        scorer.score(request, tradeoff=segments[segment])
        for request, segment in zip(requests, of, strict=True)
    ]
    utility = artifact.utility
    weights = tuple(
        400.0 if objective.name == "share" else weight
        for objective, weight in zip(utility.objectives, utility.weights, strict=True)
    )
    want = {
        "consumer": dataclasses.replace(utility, alpha=1.0),
        "contributor": dataclasses.replace(utility, alpha=0.0, other_weight=2.0),
        "sharer": dataclasses.replace(utility, weights=weights),
    }
    for result, segment in zip(alone, of, strict=True):
        np.testing.assert_array_equal(result.score, want[segment].score(result.probabilities))
    columns: list[Any] = requests
    batch = RequestBatch(
        candidate_offsets=[10 * i for i in range(7)],
        viewer=[r.viewer for r in columns],
        history_members=[list(r.history_members) for r in columns],
        history_hashtags=[list(r.history_hashtags) for r in columns],
        shared=np.stack([r.shared for r in columns]),
        item=[key for r in columns for key in r.item],
        actor=[key for r in columns for key in r.actor],
        root_actor=[key for r in columns for key in r.root_actor],
        hashtags=[
            r.hashtags[0][a:b] for r in columns for a, b in itertools.pairwise(r.hashtags[1])
        ],
        dense=np.concatenate([r.dense for r in columns]),
    )
    together = scorer.score_batch(batch, tradeoff=[segments[segment] for segment in of])
    assert together.score.tobytes() == b"".join(r.score.tobytes() for r in alone)
    assert together.order.tobytes() == b"".join(r.order.tobytes() for r in alone)
    # The same member, two lists.
    assert (
        scorer.score(requests[0], tradeoff=segments["consumer"]).order.tolist()
        != scorer.score(requests[0], tradeoff=segments["contributor"]).order.tolist()
    )

    with pytest.raises(ValueError, match="tradeoff has 1 values; there are 6 requests"):
        scorer.score_batch(batch, tradeoff=[Tradeoff()])
    with pytest.raises(
        ValueError, match="weights: 'buy' is not an objective; allowed: click, like"
    ):
        scorer.score(requests[0], weights={"buy": 1.0})
    with pytest.raises(TypeError, match=r"weights must be numbers .*; got str"):
        scorer.score(requests[0], weights="1" * len(scorer.objectives))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tradeoff is given beside alpha"):
        scorer.score(requests[0], tradeoff=Tradeoff(), alpha=0.5)
    with pytest.raises(TypeError, match="tradeoff must be a Tradeoff; got dict"):
        scorer.score(requests[0], tradeoff={"alpha": 1.0})  # type: ignore[arg-type]


def test_timing_changes_no_bits_and_adds_up(scorer: Scorer, artifact: RankerArtifact) -> None:
    request = random_request(np.random.default_rng(SEED), artifact, 300)
    plain = scorer.score(request)
    assert plain.timing is None
    for threads in (1, 2):
        timed = scorer.with_options(threads=threads).score(request, timing=True)
        assert bits(timed) == bits(plain)
        assert timed.timing is not None
        stages = timed.timing.stages()
        assert list(stages) == ["strings", "trees", "lookups", "dense", "rest"]
        assert all(seconds > 0 for seconds in stages.values())
        if threads == 1:
            assert sum(stages.values()) <= timed.timing.wall * (1 + 1e-9)


def test_options_share_the_opened_model(scorer: Scorer) -> None:
    other = scorer.with_options(threads=3, mini_batch=5)
    assert other._native is scorer._native
    assert "threads=3" in repr(other)
    assert "threads=1" in repr(scorer)
    with pytest.raises(ValueError, match=r"mini_batch must be in \[1, 4096\]; got 0"):
        scorer.with_options(mini_batch=0)


def test_sweep_times_every_combination(scorer: Scorer, artifact: RankerArtifact) -> None:
    rng = np.random.default_rng(SEED)
    requests = [random_request(rng, artifact, count) for count in (3, 30)]
    points = sweep(scorer, requests, mini_batches=(None, 16), threads=(1, 3), repeats=2)
    assert [(p.mini_batch, p.threads) for p in points] == [(None, 1), (16, 1), (None, 3), (16, 3)]
    assert all(0 < p.p50 <= p.p99 for p in points)
    with pytest.raises(ValueError, match="sweep: there is no request"):
        sweep(scorer, [])


def test_explanations_add_up(scorer: Scorer, artifact: RankerArtifact) -> None:
    request: Any = random_request(np.random.default_rng(SEED), artifact, 20)
    result = scorer.score(request, alpha=0.9)
    why = scorer.explain(request, [7, 0, 19], alpha=0.9)
    assert why.candidates.tolist() == [7, 0, 19]
    np.testing.assert_array_equal(why.score, result.score[why.candidates])
    np.testing.assert_array_equal(why.probabilities, result.probabilities[why.candidates])
    total = np.zeros(3, np.float32)
    for k in range(len(why.objectives)):
        total += why.by_objective[:, k]
    np.testing.assert_array_equal(total, why.score)
    np.testing.assert_allclose(
        why.baseline + why.by_group.sum(axis=1) + why.interaction, why.score, rtol=1e-12
    )
    # By leaving out of the request what can be left out of one.
    for group in ("viewer", "history_members", "history_hashtags", "actor", "hashtags"):
        change: Any = {group: None}
        if group == "actor":
            change = {group: ["nobody"] * 20}
        without = scorer.score(dataclasses.replace(request, **change), alpha=0.9)
        column = why.groups.index(group)
        np.testing.assert_array_equal(
            why.by_group[:, column],
            why.score.astype(np.float64) - without.score[why.candidates],
        )
        np.testing.assert_array_equal(
            why.probabilities_by_group[:, column],
            why.probabilities.astype(np.float64) - without.probabilities[why.candidates],
        )
    nothing = scorer.score(Request(None, None, None, None, ["nobody"]), alpha=0.9)
    np.testing.assert_array_equal(why.baseline, np.repeat(nothing.score, 3))
    assert scorer.explain(request).candidates.tolist() == list(range(20))
    assert scorer.explain(request, []).by_group.shape == (0, 10)
    with pytest.raises(ValueError, match=r"candidates\[1\] = 20; the request has 20"):
        scorer.explain(request, [0, 20])
    with pytest.raises(TypeError, match="candidates must be integers; got float64"):
        scorer.explain(request, [0.5])


def test_without_random_effects_items_explain_nothing(tmp_path: Path) -> None:
    artifact = synthetic_ranker(SEED)
    publish_ranker(ModelStore(tmp_path), "feed", artifact)
    scorer = Scorer.open(tmp_path)
    assert scorer.random_effects_version == 0
    assert "item" not in scorer.explain(Request(None, None, None, None, ["a"])).groups


def test_random_effects_can_be_newer_than_the_model(
    scorer: Scorer, artifact: RankerArtifact
) -> None:
    request = random_request(np.random.default_rng(SEED), artifact, 30)
    assert scorer.random_effects_version == 3
    without = scorer.with_random_effects(None)
    assert without.random_effects_version == 0
    assert without._native is not scorer._native
    unknown = dataclasses.replace(request, item=["nobody"] * 30)
    assert bits(without.score(request)) == bits(scorer.score(unknown))

    effects = RandomEffects(
        vocabulary=Vocabulary.build([f"item:{i}" for i in range(5, 60)]),
        coefficients=np.zeros((56, 5), np.float32),
        version=4,
    )
    effects.coefficients[1:] = np.random.default_rng(1).normal(size=(55, 5))
    newer = without.with_random_effects(effects)
    assert newer.random_effects_version == 4
    rows = effects.vocabulary.lookup(request.item)
    calm = scorer.with_random_effects(None).score(request).probabilities
    moved = newer.score(request).probabilities
    known = rows != 0
    assert 0 < known.sum() < 30
    np.testing.assert_array_equal(moved[~known], calm[~known])
    # An objective without a calibrator: its logit moves by the coefficient.
    k = [o.name not in artifact.calibrators for o in artifact.utility.objectives].index(True)
    logit = np.log(moved[:, k] / (1 - moved[:, k])) - np.log(calm[:, k] / (1 - calm[:, k]))
    np.testing.assert_allclose(logit, effects.coefficients[rows, k], atol=1e-4)
    assert bits(pickle.loads(pickle.dumps(newer)).score(request)) == bits(newer.score(request))
    assert bits(newer.with_options(threads=2).score(request)) == bits(newer.score(request))
    assert bits(pickle.loads(pickle.dumps(without)).score(request)) == bits(without.score(request))

    few = RandomEffects(vocabulary=effects.vocabulary, coefficients=np.zeros((56, 4), np.float32))
    with pytest.raises(ValueError, match="random effects have 4 objectives; the model has 5"):
        scorer.with_random_effects(few)
    short = dataclasses.replace(effects, coefficients=effects.coefficients[:-1])
    with pytest.raises(ValueError, match="275 coefficients for 56 rows of 5 objectives"):
        scorer.with_random_effects(short)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "int4"])
def test_bits_do_not_depend_on_the_split_for_any_tables(
    artifact: RankerArtifact, tmp_path: Path, precision: str
) -> None:
    publish_ranker(ModelStore(tmp_path), "feed", artifact, precision=precision)
    scorer = Scorer.open(tmp_path)
    rng = np.random.default_rng(SEED)
    for count in (0, 1, 5, 70):
        request = random_request(rng, artifact, count)
        want = bits(scorer.score(request))
        for threads, mini_batch in ((1, 1), (1, 7), (2, 16), (3, 4096)):
            other = scorer.with_options(threads=threads, mini_batch=mini_batch)
            assert bits(other.score(request)) == want


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_children_score(scorer: Scorer, artifact: RankerArtifact) -> None:
    """Forked while other threads are inside calls, ten times."""
    from concurrent.futures import ThreadPoolExecutor

    request = random_request(np.random.default_rng(SEED), artifact, 40)
    scorer = scorer.with_options(threads=2)
    want = bits(scorer.score(request))
    stop = False

    def busy() -> None:
        while not stop:
            scorer.score(request)

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(busy) for _ in range(2)]
        try:
            for _ in range(10):
                child = os.fork()
                if child == 0:
                    status = 1
                    try:
                        status = 0 if bits(scorer.score(request)) == want else 2
                    finally:
                        os._exit(status)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            stop = True
        for done in running:
            done.result()
