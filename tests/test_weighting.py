"""Rate-ratio and inverse-propensity weights against hand-computed tables and a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from feedfast.weighting import RateRatioTable, effective_sample_size, ips_weights

Log = tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.float32]]


def log_of(cells: dict[tuple[int, bool], tuple[int, int]]) -> Log:
    """Rows from {(position, random): (positives, rows)} for one objective."""
    position, random, labels = [], [], []
    for (at, is_random), (positives, rows) in cells.items():
        position += [at] * rows
        random += [is_random] * rows
        labels += [1.0] * positives + [0.0] * (rows - positives)
    return (
        np.array(position, dtype=np.int32),
        np.array(random),
        np.array(labels, dtype=np.float32)[:, None],
    )


def test_table_computed_by_hand() -> None:
    position, random, labels = log_of(
        {
            (0, True): (2, 10),  # 0.2
            (0, False): (8, 16),  # 0.5
            (1, True): (1, 10),  # 0.1
            (1, False): (4, 20),  # 0.2
        }
    )
    table = RateRatioTable.fit(position, random, labels, smoothing=0.0)
    want = [[[0.8 / 0.5, 0.2 / 0.5]], [[0.9 / 0.8, 0.1 / 0.2]]]
    np.testing.assert_allclose(table.weights, want, rtol=1e-6)
    assert table.num_clipped == 0
    # Interval of the ratio 0.4: exp(1.96 sqrt(1/2 - 1/10 + 1/8 - 1/16)).
    spread = math.exp(1.959964 * math.sqrt(0.4 + 0.0625))
    np.testing.assert_allclose(table.high[0, 0, 1], 0.4 * spread, rtol=1e-5)
    np.testing.assert_allclose(table.low[0, 0, 1], 0.4 / spread, rtol=1e-5)


def test_smoothing_pulls_to_the_rate_of_the_policy() -> None:
    position, random, labels = log_of(
        {(0, True): (2, 10), (0, False): (8, 16), (1, True): (1, 10), (1, False): (4, 20)}
    )
    table = RateRatioTable.fit(position, random, labels, smoothing=10.0)
    overall_random, overall_model = 3 / 20, 12 / 36
    want = ((2 + 10 * overall_random) / 20) / ((8 + 10 * overall_model) / 26)
    assert table.weights[0, 0, 1] == pytest.approx(want, rel=1e-6)


def test_clipping_and_cells_without_evidence() -> None:
    position, random, labels = log_of(
        {(0, True): (1, 1000), (0, False): (900, 1000), (1, False): (3, 5), (2, True): (0, 4)}
    )
    table = RateRatioTable.fit(position, random, labels, smoothing=0.0, clip=4.0)
    assert table.weights[0, 0, 1] == 0.25
    assert table.weights[0, 0, 0] == 4.0
    np.testing.assert_array_equal(table.weights[1:, 0, 1], 1.0)
    assert table.num_clipped == 2


def test_rows_get_their_cell_random_rows_one_undefined_rows_zero() -> None:
    position, random, labels = log_of({(0, True): (2, 10), (0, False): (8, 16)})
    table = RateRatioTable.fit(position, random, labels, smoothing=0.0)
    weights = table.row_weights(
        np.array([0, 0, 7, 0, 0], dtype=np.int32),
        np.array([False, False, False, True, False]),
        np.array([[1], [0], [1], [1], [math.nan]], dtype=np.float32),
    )
    np.testing.assert_allclose(weights[:, 0], [0.4, 1.6, 0.4, 1.0, 0.0], rtol=1e-6)


def test_weighted_position_curve_is_the_random_curve() -> None:
    """Known truth: attention falls with position; the model shows what is liked at the top."""
    rng = np.random.default_rng(20_240_601)
    n, num_positions = 200_000, 8
    position = rng.integers(num_positions, size=n).astype(np.int32)
    random = rng.random(n) < 0.3
    attention = 1.0 / (1.0 + 0.4 * position)
    appeal = np.where(random, rng.beta(2, 6, n), rng.beta(2 + 4 / (1 + position), 6, n))
    labels = (rng.random(n) < attention * appeal).astype(np.float32)[:, None]

    table = RateRatioTable.fit(position, random, labels, smoothing=0.0)
    weights = table.row_weights(position, random, labels)[:, 0]
    truth = 0.25 / (1.0 + 0.4 * np.arange(num_positions))  # mean of beta(2, 6) is 0.25
    for at in range(num_positions):
        rows = ~random & (position == at)
        weighted = np.average(labels[rows, 0], weights=weights[rows])
        plain = labels[rows, 0].mean()
        observed = labels[random & (position == at), 0].mean()
        assert weighted == pytest.approx(observed, rel=1e-5)
        assert weights[rows].sum() == pytest.approx(rows.sum(), rel=1e-5)
        # 7500 random rows: four standard errors of a rate of 0.06 to 0.25.
        assert weighted == pytest.approx(truth[at], abs=4 * math.sqrt(truth[at] / 7500))
        assert plain > weighted
    assert 0.5 < effective_sample_size(weights) / n < 1.0


def test_effective_sample_size_closed_forms() -> None:
    assert effective_sample_size(np.ones(7)) == 7.0
    assert effective_sample_size([1.0, 0.0, 0.0]) == 1.0
    assert effective_sample_size([3.0, 1.0]) == pytest.approx(16 / 10)
    assert effective_sample_size([]) == 0.0


def test_ips_weights() -> None:
    got = ips_weights(np.array([1.0, 0.5, 0.001], dtype=np.float32), floor=0.1)
    np.testing.assert_allclose(got, [1.0, 2.0, 10.0])
    assert got.dtype == np.float32
    for bad in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"propensity\[1\] = .* is not in \(0, 1\]"):
            ips_weights(np.array([0.5, bad], dtype=np.float32))


def test_ips_mean_is_the_uniform_mean() -> None:
    rng = np.random.default_rng(5)
    rates = np.array([0.1, 0.3, 0.6])
    chosen_with = np.array([0.1, 0.2, 0.7])
    item = rng.choice(3, size=100_000, p=chosen_with)
    clicks = rng.random(100_000) < rates[item]
    weights = ips_weights(chosen_with[item].astype(np.float32))
    assert (weights * clicks).mean() / 3 == pytest.approx(rates.mean(), abs=0.01)


def test_fit_errors() -> None:
    position, random, labels = log_of({(0, True): (2, 10)})
    with pytest.raises(ValueError, match="no 'model' row"):
        RateRatioTable.fit(position, random, labels)
    with pytest.raises(ValueError, match=r"position\[0\] = -1 is negative"):
        RateRatioTable.fit(position - 1, random, labels)
    with pytest.raises(ValueError, match=r"\[n\], \[n\] and \[n, objectives\]"):
        RateRatioTable.fit(position, random, labels[:, 0])
