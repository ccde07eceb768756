"""A trained ranker in TensorFlow against the exported one in the native scorer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from feedfast import metrics
from feedfast.data import History, ImpressionLog, KeyBags, Simulation, request_of_rows, row_requests
from feedfast.ranker.export import export
from feedfast.ranker.predict import predict
from feedfast.ranker.rows import history_of, split_rows
from feedfast.request import RequestBatch
from feedfast.scorer import Scorer
from feedfast.training import TrainedRun

NUM_REQUESTS = 10_000


@pytest.fixture(scope="module")
def store(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    export(trained.ranker, path)
    export(trained.ranker, path, name="small", precision="int8")
    return path


def random_log(
    source: ImpressionLog, rng: np.random.Generator
) -> tuple[ImpressionLog, History, NDArray[np.int64]]:
    """Random requests of one to five candidates, as rows; also unknown ids and missing features.

    Returns:
        (impressions, their history, candidate offsets).
    """
    sizes = rng.integers(1, 6, NUM_REQUESTS)
    request = np.repeat(np.arange(NUM_REQUESTS), sizes)
    n = len(request)
    members = pa.array(
        [*dict.fromkeys(source.actor.to_pylist()), "stranger", "", "x" * 10_000], pa.large_string()
    )
    tags = pa.array([*dict.fromkeys(source.hashtags.values.to_pylist()), "#new"], pa.large_string())

    def draw(keys: pa.Array, count: int) -> pa.Array:
        return keys.take(pa.array(rng.integers(0, len(keys), count)))

    def bags(keys: pa.Array, count: int, longest: int) -> KeyBags:
        offsets = np.concatenate([[0], np.cumsum(rng.integers(0, longest + 1, count))])
        return KeyBags(draw(keys, int(offsets[-1])), offsets)

    def features(count: int, like: NDArray[np.float32]) -> NDArray[np.float32]:
        values = like[rng.integers(0, len(like), count)].copy()
        values[rng.random(values.shape) < 0.15] = np.nan
        return values

    log = ImpressionLog(
        request_id=pa.array(request).cast(pa.large_string()),
        timestamp=np.zeros(n, np.int64),
        viewer=draw(members, NUM_REQUESTS).take(pa.array(request)),
        item=draw(members, n),
        actor=draw(members, n),
        root_actor=draw(members, n),
        hashtags=bags(tags, n, 4),
        position=np.zeros(n, np.int32),
        policy_random=np.zeros(n, bool),
        propensity=np.full(n, np.nan, np.float32),
        shared=features(NUM_REQUESTS, source.shared)[request],
        shared_names=source.shared_names,
        dense=features(n, source.dense),
        dense_names=source.dense_names,
        labels=np.zeros((n, len(source.objective_names)), np.float32),
        objective_names=source.objective_names,
    )
    per_request = History(bags(members, NUM_REQUESTS, 12), bags(tags, NUM_REQUESTS, 6))
    return log, per_request.take(request), np.concatenate([[0], np.cumsum(sizes)])


def as_batch(log: ImpressionLog, history: History, offsets: NDArray[np.int64]) -> RequestBatch:
    first = offsets[:-1]
    rows, viewer_side = (
        row_requests(log, history),
        row_requests(log.take(first), history.take(first)),
    )
    return RequestBatch(
        candidate_offsets=offsets,
        viewer=viewer_side.viewer,
        history_members=viewer_side.history_members,
        history_hashtags=viewer_side.history_hashtags,
        shared=viewer_side.shared,
        item=rows.item,
        actor=rows.actor,
        root_actor=rows.root_actor,
        hashtags=rows.hashtags,
        dense=rows.dense,
    )


def test_scorer_agrees_with_tensorflow(
    simulation: Simulation, trained: TrainedRun, store: Path
) -> None:
    rng = np.random.default_rng(20_210_603)
    log, history, offsets = random_log(simulation.dataset.log, rng)
    want = predict(trained.ranker, log, history)
    got = Scorer.open(store).score_batch(as_batch(log, history, offsets))
    assert got.objectives == tuple(o.name for o in trained.ranker.objectives)
    # Both accumulate a few dozen float32 products per layer; TensorFlow in another order.
    np.testing.assert_allclose(got.probabilities, want, rtol=0, atol=1e-5)


def test_a_candidate_has_one_score(simulation: Simulation, store: Path) -> None:
    """Alone, among others, in another order, on two threads, in other mini-batches: same bits."""
    rng = np.random.default_rng(7)
    log, history, offsets = random_log(simulation.dataset.log, rng)
    num_requests = 1_000
    n = int(offsets[num_requests])
    log, history = log.take(np.arange(n)), history.take(np.arange(n))
    offsets = offsets[: num_requests + 1]
    want = Scorer.open(store).score_batch(as_batch(log, history, offsets)).probabilities

    alone = Scorer.open(store).score_batch(row_requests(log, history)).probabilities
    np.testing.assert_array_equal(alone, want)
    for threads, mini_batch in ((2, 128), (1, 1), (2, 3)):
        scorer = Scorer.open(store, threads=threads, mini_batch=mini_batch)
        got = scorer.score_batch(as_batch(log, history, offsets)).probabilities
        np.testing.assert_array_equal(got, want)
    scorer = Scorer.open(store, threads=2)
    for r in range(num_requests):
        rows = rng.permutation(np.arange(offsets[r], offsets[r + 1]))
        result = scorer.score(request_of_rows(log, history, rows))
        np.testing.assert_array_equal(result.probabilities, want[rows])
        assert np.all(np.diff(result.score[result.order]) <= 0)


def test_int8_tables_rank_as_well(simulation: Simulation, trained: TrainedRun, store: Path) -> None:
    dataset = simulation.dataset
    rows = split_rows(dataset.log, trained.config).test
    log, history = dataset.log.take(rows), history_of(dataset, trained.config).take(rows)
    batch = row_requests(log, history)
    full = Scorer.open(store).score_batch(batch).probabilities
    small = Scorer.open(store, model="small").score_batch(batch).probabilities
    assert 0 < np.abs(full - small).max() < 0.02
    for k in range(3):
        entropies = [metrics.normalized_entropy(log.labels[:, k], p[:, k]) for p in (full, small)]
        assert entropies[1] == pytest.approx(entropies[0], rel=2e-3)


def test_a_request_needs_a_row(simulation: Simulation, trained: TrainedRun) -> None:
    history = history_of(simulation.dataset, trained.config)
    with pytest.raises(ValueError, match="at least one candidate"):
        request_of_rows(simulation.dataset.log, history, np.zeros(0, np.int64))
