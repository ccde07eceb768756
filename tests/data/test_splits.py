from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from impression_tables import impression_table

from feedfast.data import ImpressionLog, Split, split_by_time, split_random


def log_of(viewers: list[str], times: list[int]) -> ImpressionLog:
    stamps = pa.array(times, pa.timestamp("ms"))
    viewer = pa.array(viewers, pa.string())
    return ImpressionLog.from_table(impression_table(len(times), viewer=viewer, timestamp=stamps))


def assert_partition(split: Split, num_rows: int) -> None:
    assert (np.diff(split.train) > 0).all()
    assert (np.diff(split.test) > 0).all()
    np.testing.assert_array_equal(np.sort(np.r_[split.train, split.test]), np.arange(num_rows))


def test_last_fifth_of_each_viewer() -> None:
    log = log_of(["a", "b"] * 10, [3 * ((7 * i) % 20) for i in range(20)])
    split = split_by_time(log)
    assert_partition(split, 20)
    viewers = np.array(log.viewer.to_pylist())
    for viewer in "ab":
        rows = np.flatnonzero(viewers == viewer)
        newest = rows[np.argsort(log.timestamp[rows])[-2:]]
        assert set(newest) == set(split.test) & set(rows)


@pytest.mark.parametrize(
    ("times", "test"),
    [
        ([], []),
        ([1], []),
        ([1, 2], []),
        ([1, 2, 3], [2]),
        ([5, 5, 5, 5, 5], []),
        ([1, 1, 1, 1, 9], [4]),
        ([1, 9, 9, 9, 9], []),
        ([1, 1, 1, 2, 2, 2, 3, 3, 3], [6, 7, 8]),
    ],
)
def test_simultaneous_rows_stay_together(times: list[int], test: list[int]) -> None:
    split = split_by_time(log_of(["v"] * len(times), times))
    assert_partition(split, len(times))
    np.testing.assert_array_equal(split.test, test)


def test_training_is_strictly_earlier_than_test() -> None:
    log = ImpressionLog.from_table(impression_table(500))
    split = split_by_time(log, test_fraction=0.3)
    assert_partition(split, 500)
    viewers = np.array(log.viewer.to_pylist())
    for viewer in np.unique(viewers):
        train = log.timestamp[split.train[viewers[split.train] == viewer]]
        test = log.timestamp[split.test[viewers[split.test] == viewer]]
        assert train.max() < test.min()
    # Whole groups of about five simultaneous rows move together.
    assert len(split.test) == pytest.approx(150, abs=25)


def test_random_split_is_seeded() -> None:
    log = ImpressionLog.from_table(impression_table(101))
    split = split_random(log, seed=5)
    assert_partition(split, 101)
    assert len(split.test) == 20
    np.testing.assert_array_equal(split.test, split_random(log, seed=5).test)
    assert not np.array_equal(split.test, split_random(log, seed=6).test)
    assert_partition(split_random(ImpressionLog.from_table(impression_table(0))), 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    log = ImpressionLog.from_table(impression_table(3))
    with pytest.raises(ValueError, match=r"test_fraction must be in \(0, 1\); got"):
        split_by_time(log, test_fraction=fraction)
    with pytest.raises(ValueError, match=r"test_fraction must be in \(0, 1\); got"):
        split_random(log, test_fraction=fraction)
