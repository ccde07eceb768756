"""How good and how calibrated predicted probabilities are, per objective; numpy only.

Everywhere: labels are 0, 1 or NaN, and rows whose label is NaN (undefined) are left out. A figure
that has no value (AUC of one class, O/E of nothing expected) is NaN, never an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Metric = Literal["auc", "log_loss", "normalized_entropy"]

# Predictions are moved this far from 0 and 1 before the logarithm; float32 sigmoids reach both.
_EPSILON = 1e-7


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBin:
    """Rows of similar prediction: what was promised and what happened.

    Attributes:
        num_rows: Rows in the bin.
        mean_prediction: Mean predicted probability.
        observed_rate: Share of positive labels.
        low, high: 95% Wilson interval of the observed rate.
    """

    num_rows: int
    mean_prediction: float
    observed_rate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveReport:
    """Figures of one objective on one set of rows.

    Attributes:
        num_rows: Rows with a defined label.
        num_positives: Rows with label 1.
        base_rate: Share of positives.
        mean_prediction: Mean predicted probability.
        auc: Area under the ROC curve, ties counted half.
        log_loss: Mean cross entropy in nats.
        normalized_entropy: Log loss over that of the base rate; below 1 is better.
        oe: Observed over expected positives; 1 is calibrated.
        oe_low, oe_high: 95% interval of `oe`, see `oe_interval`.
        calibration: Bins of equal numbers of rows, by ascending prediction.
    """

    num_rows: int
    num_positives: int
    base_rate: float
    mean_prediction: float
    auc: float
    log_loss: float
    normalized_entropy: float
    oe: float
    oe_low: float
    oe_high: float
    calibration: tuple[CalibrationBin, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapDifference:
    """Metric of the first minus metric of the second prediction, with a percentile interval."""

    metric: Metric
    difference: float
    low: float
    high: float
    num_resamples: int


def auc(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Probability that a random positive is predicted above a random negative, ties half.

    Args:
        labels: [n], 0, 1 or NaN.
        predictions: [n], any finite scores.

    Returns:
        In [0, 1]; NaN without a positive or without a negative.

    Raises:
        ValueError: Shapes differ, a label is not 0, 1 or NaN, or a prediction is not finite.
    """
    defined, scores = _checked(labels, predictions, probabilities=False)
    return _auc(defined, _TieGroups.of(scores), np.ones(len(defined)))


def log_loss(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Mean cross entropy -(y log p + (1 - y) log(1 - p)) in nats, p kept within [1e-7, 1 - 1e-7].

    Args:
        labels: [n], 0, 1 or NaN.
        predictions: [n], in [0, 1].

    Returns:
        NaN when no label is defined.

    Raises:
        ValueError: As for `auc`, or a prediction is outside [0, 1].
    """
    defined, p = _checked(labels, predictions)
    return _mean(_cross_entropy(defined, p), np.ones(len(defined)))


def normalized_entropy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Log loss divided by the entropy of the labels' own base rate.

    He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014, eq. 1.

    Args:
        labels: [n], 0, 1 or NaN.
        predictions: [n], in [0, 1].

    Returns:
        1 for a model that predicts the base rate, less for a better one; NaN with one class only.

    Raises:
        ValueError: As for `log_loss`.
    """
    defined, p = _checked(labels, predictions)
    return _normalized_entropy(defined, _cross_entropy(defined, p), np.ones(len(defined)))


def oe_interval(
    labels: ArrayLike, predictions: ArrayLike, *, level: float = 0.95
) -> tuple[float, float, float]:
    """Observed positives over expected positives, with an interval.

    The interval is Wilson's score interval of the observed rate, times n over the sum of the
    predictions, which count as given. Wilson's binomial variance n p (1 - p) is at least the
    Poisson-binomial variance of rows with unequal probabilities, so the interval errs on the wide
    side; for rare positives it approaches the exact Poisson one.

    Args:
        labels: [n], 0, 1 or NaN.
        predictions: [n], in [0, 1].
        level: Share of repetitions whose interval covers the true ratio, in (0, 1).

    Returns:
        (ratio, low, high); all NaN when nothing is expected.

    Raises:
        ValueError: As for `log_loss`, or `level` is outside (0, 1).
    """
    defined, p = _checked(labels, predictions)
    expected = float(p.sum())
    if expected <= 0.0:
        return math.nan, math.nan, math.nan
    positives = float(defined.sum())
    low, high = wilson_interval(positives, len(defined), level=level)
    return positives / expected, low * len(defined) / expected, high * len(defined) / expected


def wilson_interval(
    num_positives: float, num_rows: int, *, level: float = 0.95
) -> tuple[float, float]:
    """Score interval of a share (Wilson, JASA 1927), right also for few rows and rates near 0 or 1.

    Args:
        num_positives: In [0, num_rows].
        num_rows: Rows; with 0 the interval is (0, 1).
        level: Coverage, in (0, 1).

    Raises:
        ValueError: `num_positives` is outside [0, num_rows] or `level` is outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1); got {level}")
    if not 0 <= num_positives <= num_rows:
        raise ValueError(f"num_positives must be in [0, {num_rows}]; got {num_positives}")
    if num_rows == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    rate = num_positives / num_rows
    center = rate + z * z / (2 * num_rows)
    spread = z * math.sqrt(rate * (1.0 - rate) / num_rows + (z / (2 * num_rows)) ** 2)
    scale = 1.0 + z * z / num_rows
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def objective_report(
    labels: ArrayLike, predictions: ArrayLike, *, num_bins: int = 10
) -> ObjectiveReport:
    """All figures of one objective.

    Args:
        labels: [n], 0, 1 or NaN.
        predictions: [n], in [0, 1].
        num_bins: Most calibration bins; fewer when there are fewer rows.

    Raises:
        ValueError: As for `log_loss`, or `num_bins` is below 1.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be >= 1; got {num_bins}")
    defined, p = _checked(labels, predictions)
    ones = np.ones(len(defined))
    cross_entropy = _cross_entropy(defined, p)
    oe, oe_low, oe_high = oe_interval(defined, p)
    return ObjectiveReport(
        num_rows=len(defined),
        num_positives=int(defined.sum()),
        base_rate=_mean(defined, ones),
        mean_prediction=_mean(p, ones),
        auc=_auc(defined, _TieGroups.of(p), ones),
        log_loss=_mean(cross_entropy, ones),
        normalized_entropy=_normalized_entropy(defined, cross_entropy, ones),
        oe=oe,
        oe_low=oe_low,
        oe_high=oe_high,
        calibration=_calibration_bins(defined, p, num_bins),
    )


def paired_bootstrap(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    metric: Metric,
    rng: np.random.Generator,
    groups: ArrayLike | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> BootstrapDifference:
    """Difference of a metric between two predictions of the same rows, with a bootstrap interval.

    Both predictions see the same resample each time. With `groups` whole groups are drawn (all rows
    of a viewer together), which is right when rows of one group are alike. A resample in which the
    metric has no value is left out. O(num_resamples * n) after one sort.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3 (percentile).

    Args:
        labels: [n], 0, 1 or NaN.
        first, second: [n], in [0, 1].
        metric: What is compared; for log_loss and normalized_entropy negative favours `first`.
        rng: Source of the resamples.
        groups: [n] keys of the unit that is drawn; every row its own by default.
        num_resamples: >= 1.
        level: Coverage, in (0, 1).

    Raises:
        ValueError: As for `log_loss`, or an option is outside its range.
    """
    if metric not in get_args(Metric):
        raise ValueError(f"metric must be one of {', '.join(get_args(Metric))}; got {metric!r}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be >= 1; got {num_resamples}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1); got {level}")
    raw_labels = np.asarray(labels, dtype=np.float64)
    kept = ~np.isnan(raw_labels)
    defined, p_first = _checked(labels, first)
    _, p_second = _checked(labels, second)
    n = len(defined)
    if groups is None:
        num_groups, group_of_row = n, np.arange(n)
    else:
        keys = np.asarray(groups)
        if keys.shape != raw_labels.shape:
            raise ValueError(f"groups: has shape {keys.shape}; labels have {raw_labels.shape}")
        _, group_of_row = np.unique(keys[kept], return_inverse=True)
        num_groups = int(group_of_row.max(initial=-1)) + 1

    scores = [_Resampled(defined, p, metric) for p in (p_first, p_second)]
    ones = np.ones(n)
    difference = scores[0](ones) - scores[1](ones)
    drawn = np.full(num_resamples, np.nan)
    if num_groups > 0:
        for index in range(num_resamples):
            draws = rng.integers(num_groups, size=num_groups)
            weights = np.bincount(draws, minlength=num_groups)[group_of_row].astype(np.float64)
            drawn[index] = scores[0](weights) - scores[1](weights)
    drawn = drawn[~np.isnan(drawn)]
    tail = 100.0 * (1.0 - level) / 2.0
    low, high = np.percentile(drawn, [tail, 100.0 - tail]) if len(drawn) else (math.nan, math.nan)
    return BootstrapDifference(
        metric=metric,
        difference=difference,
        low=float(low),
        high=float(high),
        num_resamples=num_resamples,
    )


@dataclass(frozen=True, slots=True)
class _TieGroups:
    """Rows sorted by score; `starts` are the sorted places where the score changes."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, scores: FloatArray) -> _TieGroups:
        order = np.argsort(scores, kind="stable")
        in_order = scores[order]
        starts = np.flatnonzero(np.diff(in_order, prepend=in_order[:1] - 1.0) > 0)
        return cls(order, starts)


class _Resampled:
    """One metric of one prediction as a function of row weights; all sorting is done once."""

    def __init__(self, labels: FloatArray, p: FloatArray, metric: Metric) -> None:
        self._labels = labels
        self._metric = metric
        self._ties = _TieGroups.of(p)
        self._cross_entropy = _cross_entropy(labels, p)

    def __call__(self, weights: FloatArray) -> float:
        if self._metric == "auc":
            return _auc(self._labels, self._ties, weights)
        if self._metric == "log_loss":
            return _mean(self._cross_entropy, weights)
        return _normalized_entropy(self._labels, self._cross_entropy, weights)


def _checked(
    labels: ArrayLike, predictions: ArrayLike, *, probabilities: bool = True
) -> tuple[FloatArray, FloatArray]:
    """The rows with a defined label, as float64."""
    y = np.asarray(labels, dtype=np.float64)
    p = np.asarray(predictions, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape:
        raise ValueError(
            f"labels and predictions must be [n] and equally long; got {y.shape}, {p.shape}"
        )
    bad = np.flatnonzero(~((y == 0.0) | (y == 1.0) | np.isnan(y)))
    if len(bad) > 0:
        raise ValueError(f"labels[{bad[0]}] = {y[bad[0]]:g} is not 0, 1 or NaN")
    bad = np.flatnonzero(~((p >= 0.0) & (p <= 1.0)) if probabilities else ~np.isfinite(p))
    if len(bad) > 0:
        allowed = "in [0, 1]" if probabilities else "finite"
        raise ValueError(f"predictions[{bad[0]}] = {p[bad[0]]:g} is not {allowed}")
    kept = ~np.isnan(y)
    return y[kept], p[kept]


def _auc(labels: FloatArray, ties: _TieGroups, weights: FloatArray) -> float:
    """Weighted Mann-Whitney statistic: sum over tie groups of P_g (N_below_g + N_g / 2)."""
    if len(labels) == 0:
        return math.nan
    positive = (labels * weights)[ties.order]
    negative = ((1.0 - labels) * weights)[ties.order]
    positives = np.add.reduceat(positive, ties.starts)
    negatives = np.add.reduceat(negative, ties.starts)
    pairs = positives.sum() * negatives.sum()
    if pairs <= 0.0:
        return math.nan
    below = np.cumsum(negatives) - negatives
    return float(positives @ (below + 0.5 * negatives) / pairs)


def _cross_entropy(labels: FloatArray, p: FloatArray) -> FloatArray:
    clipped = np.clip(p, _EPSILON, 1.0 - _EPSILON)
    loss: FloatArray = -(labels * np.log(clipped) + (1.0 - labels) * np.log1p(-clipped))
    return loss


def _normalized_entropy(
    labels: FloatArray, cross_entropy: FloatArray, weights: FloatArray
) -> float:
    rate = _mean(labels, weights)
    if math.isnan(rate) or rate <= 0.0 or rate >= 1.0:
        return math.nan
    entropy = -(rate * math.log(rate) + (1.0 - rate) * math.log1p(-rate))
    return _mean(cross_entropy, weights) / entropy


def _mean(values: FloatArray, weights: FloatArray) -> float:
    total = float(weights.sum())
    return float(weights @ values) / total if total > 0.0 else math.nan


def _calibration_bins(
    labels: FloatArray, p: FloatArray, num_bins: int
) -> tuple[CalibrationBin, ...]:
    order = np.argsort(p, kind="stable")
    bins = []
    for rows in np.array_split(order, min(num_bins, len(order)) or 1):
        if len(rows) == 0:
            continue
        positives = float(labels[rows].sum())
        low, high = wilson_interval(positives, len(rows))
        bins.append(
            CalibrationBin(
                num_rows=len(rows),
                mean_prediction=float(p[rows].mean()),
                observed_rate=positives / len(rows),
                low=low,
                high=high,
            )
        )
    return tuple(bins)
