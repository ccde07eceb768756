from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from impression_tables import impression_table
from numpy.typing import NDArray

from feedfast.data import ImpressionLog, KeyBags, derive_history


def lists(bags: KeyBags) -> list[list[str]]:
    values = bags.values.to_pylist()
    return [values[a:b] for a, b in zip(bags.offsets[:-1], bags.offsets[1:], strict=True)]


def naive(
    log: ImpressionLog, engaged: NDArray[np.bool_], max_members: int, max_hashtags: int
) -> tuple[list[list[str]], list[list[str]]]:
    """For each row: all earlier engaged rows of the viewer, newest first, each key once."""
    viewers, actors, tags = log.viewer.to_pylist(), log.actor.to_pylist(), lists(log.hashtags)
    times, members_of, tags_of = log.timestamp, [], []
    for row in range(log.num_rows):
        seen = [
            other
            for other in np.flatnonzero(engaged)
            if viewers[other] == viewers[row] and times[other] < times[row]
        ]
        seen.sort(key=lambda other: (times[other], other), reverse=True)
        members_of.append(list(dict.fromkeys(actors[o] for o in seen))[:max_members])
        tags_of.append(list(dict.fromkeys(tag for o in seen for tag in tags[o]))[:max_hashtags])
    return members_of, tags_of


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("max_members", "max_hashtags"), [(50, 20), (2, 3), (1, 1), (0, 0)])
def test_history_matches_the_naive_definition(
    seed: int, max_members: int, max_hashtags: int
) -> None:
    log = ImpressionLog.from_table(impression_table(150, seed=seed))
    engaged = np.random.default_rng(seed).random(150) < [0.5, 1.0, 0.1][seed % 3]
    got = derive_history(log, engaged=engaged, max_members=max_members, max_hashtags=max_hashtags)
    members, hashtags = naive(log, engaged, max_members, max_hashtags)
    assert lists(got.members) == members
    assert lists(got.hashtags) == hashtags


def test_only_strictly_earlier_events_count() -> None:
    table = impression_table(
        4,
        viewer=["v"] * 4,
        timestamp=pa.array([10, 10, 11, 9], pa.timestamp("ms")),
        actor=["a", "b", "c", "d"],
    )
    history = derive_history(ImpressionLog.from_table(table), engaged=np.ones(4, dtype=bool))
    assert lists(history.members) == [["d"], ["d"], ["b", "a", "d"], []]


def test_what_happens_later_does_not_change_earlier_history() -> None:
    log = ImpressionLog.from_table(impression_table(100))
    engaged = np.random.default_rng(1).random(100) < 0.5
    cut = int(np.median(log.timestamp))
    flipped = np.where(log.timestamp >= cut, ~engaged, engaged)
    before, after = (derive_history(log, engaged=e) for e in (engaged, flipped))
    early = np.flatnonzero(log.timestamp <= cut)
    assert lists(before.take(early).members) == lists(after.take(early).members)
    assert lists(before.take(early).hashtags) == lists(after.take(early).hashtags)
    assert lists(before.members) != lists(after.members)


def test_order_of_rows_does_not_matter() -> None:
    table = impression_table(80, timestamp=pa.array(np.arange(80), pa.timestamp("ms")))
    engaged = np.random.default_rng(2).random(80) < 0.6
    order = np.random.default_rng(3).permutation(80)
    log = ImpressionLog.from_table(table)
    straight = derive_history(log, engaged=engaged).take(order)
    shuffled = derive_history(log.take(order), engaged=engaged[order])
    assert lists(straight.members) == lists(shuffled.members)
    assert lists(straight.hashtags) == lists(shuffled.hashtags)


@pytest.mark.parametrize("num_rows", [0, 1])
@pytest.mark.parametrize("is_engaged", [False, True])
def test_logs_without_history(num_rows: int, is_engaged: bool) -> None:
    log = ImpressionLog.from_table(impression_table(num_rows))
    history = derive_history(log, engaged=np.full(num_rows, is_engaged))
    np.testing.assert_array_equal(history.members.offsets, np.zeros(num_rows + 1))
    assert len(history.hashtags.values) == 0


def test_a_viewer_who_repeats_one_key_costs_no_more() -> None:
    """Walking back through the repeats would be 5e9 steps here, and never finish in a test run."""
    n = 100_000
    table = impression_table(
        n,
        viewer=["v"] * n,
        actor=["once"] + ["often"] * (n - 1),
        timestamp=pa.array(np.arange(n), pa.timestamp("ms")),
        hashtags=pa.array([[]] * n, pa.list_(pa.string())),
    )
    log = ImpressionLog.from_table(table)
    history = derive_history(log, engaged=np.ones(n, dtype=bool))
    assert history.members.lengths().max() == 2
    assert lists(history.members.take_bags(np.array([n - 1]))) == [["often", "once"]]


def test_rows_asks_for_each_key_once() -> None:
    log = ImpressionLog.from_table(impression_table(60))
    members = derive_history(log, engaged=np.ones(60, dtype=bool)).members
    asked: list[int] = []

    def lookup(keys: pa.Array) -> NDArray[np.int64]:
        asked.append(len(keys))
        return np.array([int(key.removeprefix("member:")) for key in keys.to_pylist()], np.int64)

    rows = members.rows(lookup)
    assert asked == [5]
    np.testing.assert_array_equal(rows, members.decoded().rows(lookup))


def test_wrong_arguments() -> None:
    log = ImpressionLog.from_table(impression_table(3))
    with pytest.raises(ValueError, match=r"engaged: must be bool of shape \(3,\); got int64"):
        derive_history(log, engaged=np.ones(3, dtype=np.int64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_members must be >= 0; got -1"):
        derive_history(log, engaged=np.ones(3, dtype=bool), max_members=-1)
