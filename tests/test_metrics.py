"""Metrics against closed forms, brute force and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from feedfast import metrics

SEED = 20_230_823


def sample(n: int, *, levels: int | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(SEED)
    p = rng.beta(1.0, 4.0, n)
    if levels is not None:
        p = np.round(p * levels) / levels
    return (rng.random(n) < p).astype(np.float64), p


def brute_force_auc(labels: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    difference = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


@pytest.mark.parametrize("levels", [None, 7, 1])
def test_auc_is_the_share_of_ordered_pairs(levels: int | None) -> None:
    labels, p = sample(300, levels=levels)
    assert metrics.auc(labels, p) == pytest.approx(brute_force_auc(labels, p), abs=1e-12)


def test_auc_takes_any_finite_score() -> None:
    assert metrics.auc([0, 1, 1, 0], [-5.0, 100.0, 3.0, 3.0]) == pytest.approx(3.5 / 4)


@pytest.mark.parametrize("labels", [[], [1, 1], [0, 0], [math.nan, 1]])
def test_auc_of_one_class_is_nan(labels: list[float]) -> None:
    assert math.isnan(metrics.auc(labels, [0.5] * len(labels)))


def test_figures_equal_scikit_learn() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    labels, p = sample(2000, levels=50)
    p = np.clip(p, 0.01, 0.99)
    assert metrics.auc(labels, p) == pytest.approx(
        sklearn_metrics.roc_auc_score(labels, p), abs=1e-12
    )
    assert metrics.log_loss(labels, p) == pytest.approx(
        sklearn_metrics.log_loss(labels, p), abs=1e-12
    )


def test_log_loss_closed_form_and_finite_at_the_ends() -> None:
    assert metrics.log_loss([1, 0], [0.25, 0.25]) == pytest.approx(
        -(math.log(0.25) + math.log(0.75)) / 2
    )
    assert metrics.log_loss([1, 0], [0.0, 1.0]) == pytest.approx(-math.log(1e-7), rel=1e-6)
    assert math.isnan(metrics.log_loss([], []))


def test_normalized_entropy_of_the_base_rate_is_one() -> None:
    labels = np.array([1, 0, 0, 0, 1.0])
    assert metrics.normalized_entropy(labels, np.full(5, 0.4)) == pytest.approx(1.0)
    assert metrics.normalized_entropy(labels, np.clip(labels, 0.1, 0.9)) < 1.0
    assert math.isnan(metrics.normalized_entropy([1, 1], [0.5, 0.5]))


def test_undefined_labels_are_left_out() -> None:
    labels, p = sample(200)
    masked = np.concatenate([labels, np.full(50, math.nan)])
    padded = np.concatenate([p, np.linspace(0, 1, 50)])
    assert metrics.objective_report(masked, padded) == metrics.objective_report(labels, p)


def test_wilson_interval_closed_forms() -> None:
    # z^2 = 3.8415: no positive of 10 gives z^2 / (n + z^2) above, and the mirror image below.
    low, high = metrics.wilson_interval(0, 10)
    assert (low, high) == pytest.approx((0.0, 3.841459 / 13.841459), abs=1e-6)
    low, high = metrics.wilson_interval(10, 10)
    assert (low, high) == pytest.approx((10 / 13.841459, 1.0), abs=1e-6)
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("base_rate", [0.002, 0.2, 0.9])
def test_oe_interval_covers_one_for_true_probabilities(base_rate: float) -> None:
    rng = np.random.default_rng(SEED)
    covered = 0
    for _ in range(400):
        p = np.clip(rng.normal(base_rate, base_rate * (1 - base_rate) / 4, 2000), 0.0, 1.0)
        _, low, high = metrics.oe_interval(rng.random(2000) < p, p)
        covered += low <= 1.0 <= high
    assert covered >= 0.93 * 400  # nominal 0.95; three standard errors of 400 trials are 0.033


def test_oe_of_nothing_expected_is_nan() -> None:
    assert all(math.isnan(x) for x in metrics.oe_interval([0, 0], [0.0, 0.0]))


def test_report_and_calibration_bins() -> None:
    labels, p = sample(1003)
    report = metrics.objective_report(labels, p)
    assert report.num_rows == 1003
    assert report.num_positives == labels.sum()
    assert report.oe == pytest.approx(report.base_rate / report.mean_prediction)
    assert report.oe_low < report.oe < report.oe_high
    assert len(report.calibration) == 10
    assert sum(b.num_rows for b in report.calibration) == 1003
    means = [b.mean_prediction for b in report.calibration]
    assert means == sorted(means)
    assert all(b.low <= b.observed_rate <= b.high for b in report.calibration)


def test_report_of_no_rows() -> None:
    report = metrics.objective_report([], [])
    assert report.num_rows == 0
    assert math.isnan(report.auc)
    assert report.calibration == ()


@pytest.mark.parametrize("metric", ["auc", "log_loss", "normalized_entropy"])
def test_bootstrap_weights_equal_repeated_rows(metric: metrics.Metric) -> None:
    labels, p = sample(60, levels=9)
    rng = np.random.default_rng(SEED)
    weights = np.bincount(rng.integers(60, size=60), minlength=60)
    repeated = np.repeat(np.arange(60), weights)
    got = metrics._Resampled(labels, p, metric)(weights.astype(np.float64))
    want = getattr(metrics, metric)(labels[repeated], p[repeated])
    assert got == pytest.approx(want, abs=1e-12)


def test_bootstrap_tells_a_better_prediction_from_a_worse_one() -> None:
    labels, p = sample(1500)
    rng = np.random.default_rng(SEED)
    worse = np.clip(p + rng.normal(0, 0.2, len(p)), 0.001, 0.999)
    for metric, sign in (("auc", 1), ("log_loss", -1)):
        result = metrics.paired_bootstrap(
            labels, p, worse, metric=metric, rng=rng, num_resamples=200
        )
        assert sign * result.low > 0
        assert sign * result.high > 0
        assert result.low <= result.difference <= result.high
    same = metrics.paired_bootstrap(labels, p, p, metric="auc", rng=rng, num_resamples=20)
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)


def test_bootstrap_by_group_is_wider_when_rows_of_a_group_are_alike() -> None:
    labels, p = sample(100)
    worse = np.clip(p + np.random.default_rng(1).normal(0, 0.2, 100), 0.001, 0.999)
    labels, p, worse = (np.repeat(x, 20) for x in (labels, p, worse))
    widths = []
    for groups in (None, np.repeat(np.arange(100), 20)):
        rng = np.random.default_rng(SEED)
        r = metrics.paired_bootstrap(
            labels, p, worse, metric="log_loss", rng=rng, groups=groups, num_resamples=200
        )
        widths.append(r.high - r.low)
    assert widths[1] > 3 * widths[0]  # sqrt(20) = 4.5 in the limit


def test_bootstrap_of_no_rows_has_no_value() -> None:
    rng = np.random.default_rng(SEED)
    result = metrics.paired_bootstrap([], [], [], metric="auc", rng=rng, num_resamples=3)
    assert math.isnan(result.difference)
    assert math.isnan(result.low)


def test_errors_name_the_first_bad_value() -> None:
    with pytest.raises(ValueError, match=r"labels\[1\] = 2 is not 0, 1 or NaN"):
        metrics.auc([0, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match=r"predictions\[0\] = 1.5 is not in \[0, 1\]"):
        metrics.log_loss([0, 1], [1.5, 0.2])
    with pytest.raises(ValueError, match=r"predictions\[1\] = nan is not finite"):
        metrics.auc([0, 1], [1.5, math.nan])
    with pytest.raises(ValueError, match="equally long"):
        metrics.auc([0, 1], [0.5])
    rng = np.random.default_rng(SEED)
    with pytest.raises(ValueError, match="metric must be one of"):
        metrics.paired_bootstrap([0], [0.5], [0.5], metric="f1", rng=rng)  # type: ignore[arg-type]
