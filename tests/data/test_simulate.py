from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from feedfast.data import Simulation, derive_history, simulate
from feedfast.data.keys import key_codes
from feedfast.data.point_in_time import Timeline


def small(seed: int = 1, **changed: Any) -> Simulation:
    arguments = {
        "num_members": 2_000,
        "num_requests": 4_000,
        "num_posts": 4_000,
        "num_hashtags": 200,
        "num_clusters": 10,
        "random_fraction": 0.3,
    }
    return simulate(seed=seed, **(arguments | changed))


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return small()


def test_same_seed_same_log(simulation: Simulation) -> None:
    again, other = small(), small(seed=2)
    assert again.dataset.log.to_table().equals(simulation.dataset.log.to_table())
    np.testing.assert_array_equal(again.probabilities, simulation.probabilities)
    assert not other.dataset.log.to_table().equals(simulation.dataset.log.to_table())


def test_log_is_of_the_schema(simulation: Simulation) -> None:
    log = simulation.dataset.log
    assert type(log).from_table(log.to_table()).report.num_dropped == 0
    assert log.num_rows == 40_000
    assert (np.diff(log.timestamp) >= 0).all()
    assert log.viewer[0].as_py().startswith("member:")
    reshared = log.dense[:, log.dense_names.index("is_reshare")] == 1
    same_actor = np.array(log.actor.to_pylist()) == np.array(log.root_actor.to_pylist())
    np.testing.assert_array_equal(reshared, ~same_actor)
    assert 0.1 < reshared.mean() < 0.4
    assert np.isnan(log.dense).any()
    assert np.isnan(log.shared).any()
    not_poll = log.dense[:, log.dense_names.index("is_poll")] == 0
    np.testing.assert_array_equal(np.isnan(log.label("vote")), not_poll)
    assert not np.isnan(np.delete(log.labels, log.objective_names.index("vote"), axis=1)).any()
    assert {o.group for o in simulation.dataset.objectives} == {"passive", "active", "other"}


def test_requests_hold_distinct_posts_of_the_past(simulation: Simulation) -> None:
    log = simulation.dataset.log
    items = key_codes(log.item).reshape(-1, 10)
    assert (np.diff(np.sort(items, axis=1), axis=1) > 0).all()
    assert log.dense[:, log.dense_names.index("post_age_hours")].min() > 0
    for array in (log.timestamp, key_codes(log.viewer), key_codes(log.request_id)):
        assert (np.ptp(array.reshape(-1, 10), axis=1) == 0).all()
    np.testing.assert_array_equal(log.position.reshape(-1, 10), np.tile(np.arange(10), (4_000, 1)))


def test_labels_happen_with_the_true_probabilities(simulation: Simulation) -> None:
    log, p = simulation.dataset.log, simulation.probabilities
    assert ((p > 0) & (p < 1)).all()
    assert (p <= simulation.relevance).all()
    for column, name in enumerate(log.objective_names):
        label, probability = log.labels[:, column], p[:, column].astype(np.float64)
        defined = ~np.isnan(label)
        # In ten bins of the true probability: observed within 5 standard deviations of expected.
        bins = np.array_split(np.flatnonzero(defined)[np.argsort(probability[defined])], 10)
        for rows in bins:
            spread = np.sqrt((probability[rows] * (1 - probability[rows])).sum())
            error = label[rows].sum() - probability[rows].sum()
            assert abs(error) < 5 * spread + 1, name
    rates = np.nanmean(log.labels, axis=0)
    assert rates.max() / rates.min() > 50


def test_examination_falls_with_the_position(simulation: Simulation) -> None:
    ratio = simulation.probabilities / simulation.relevance
    position = simulation.dataset.log.position
    by_slot = np.stack([ratio[position == slot] for slot in range(10)])
    assert np.ptp(by_slot, axis=1).max() < 1e-5  # float32 quotient of one constant per slot
    assert (by_slot[0] == 1).all()
    assert (np.diff(by_slot[:, 0], axis=0) < 0).all()


def test_propensities_are_those_of_the_policies(simulation: Simulation) -> None:
    log = simulation.dataset.log
    assert 0.2 < log.policy_random.mean() < 0.4
    random, model = log.propensity[log.policy_random], log.propensity[~log.policy_random]
    np.testing.assert_array_equal(random, np.float32(1 / 32))
    assert model.min() >= np.float32(0.1 / 32)
    assert model.max() <= 0.91
    # E[1 / propensity] over what a policy shows at a slot is the number of posts it can show
    # there, 32. The variance is that of rare large weights: 10% of rows near 320.
    assert (1 / model).mean() == pytest.approx(32, rel=0.1)


def test_earlier_engagement_changes_what_happens_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same feed without memory: only later requests differ, for known actors most."""
    with_memory = small()
    module = importlib.import_module("feedfast.data.simulate")
    monkeypatch.setattr(module, "_HISTORY_DECAY", 1.0)
    without = small()
    log = with_memory.dataset.log
    np.testing.assert_array_equal(log.dense, without.dataset.log.dense)

    engaged = with_memory.dataset.engaged()
    has_history = derive_history(log, engaged=engaged).members.lengths() > 0
    same = (with_memory.relevance == without.relevance).all(axis=1)
    np.testing.assert_array_equal(same, ~has_history)

    logits = [np.log(s.relevance / (1 - s.relevance))[:, 0] for s in (with_memory, without)]
    gain = logits[0] - logits[1]
    viewer, actor = key_codes(log.viewer), key_codes(log.actor)
    pair = viewer * (actor.max() + 1) + actor
    known_actor = Timeline.build(pair, log.timestamp).sum_before(engaged.astype(np.float64)) > 0
    assert gain[known_actor].mean() > gain[has_history & ~known_actor].mean() + 0.1


@pytest.mark.parametrize("slots", [1, 32])
@pytest.mark.parametrize("random_fraction", [0.0, 1.0])
def test_extremes(slots: int, random_fraction: float) -> None:
    dataset, probabilities, relevance = simulate(
        num_members=10,
        num_requests=3,
        num_posts=128,
        num_hashtags=2,
        num_clusters=2,
        slots=slots,
        days=1,
        random_fraction=random_fraction,
    )
    assert dataset.log.num_rows == len(probabilities) == len(relevance) == 3 * slots
    assert dataset.log.policy_random.all() == (random_fraction == 1.0)
    assert (dataset.log.dense[:, dataset.log.dense_names.index("post_age_hours")] > 0).all()


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("slots", 33, r"slots must be in \[1, 32\]; got 33"),
        ("num_clusters", 1, r"num_clusters must be in \[2, "),
        ("num_posts", 10, r"num_posts must be in \[640, "),
        ("num_requests", 0, r"num_requests must be in \[1, "),
        ("seed", -1, "seed must be >= 0; got -1"),
        ("random_fraction", 1.5, r"random_fraction must be in \[0, 1\]; got 1\.5"),
    ],
)
def test_wrong_arguments(argument: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**{argument: value})
