"""Example weights that undo the logging policy's choices; numpy only.

Two kinds. `RateRatioTable` holds the rate-ratio weights: the response rate of random sessions over
that of model-ranked sessions, per position and response. `ips_weights` are Horvitz-Thompson weights
from logged propensities. The first is a ratio of rates, not a propensity: it corrects how often
a response occurs at a position, and knows nothing of which item was shown there.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class RateRatioTable:
    """Weights w(position, response) = rate in random sessions / rate in model-ranked sessions.

    "Enhancing homepage feed relevance by harnessing the power of large corpus sparse ID
    embeddings", 2023, section "All session training data". A response is the outcome of one
    objective, so both outcomes have a weight: with R and M the rates of label 1 in random
    and in model-ranked sessions at one position, w(., 1) = R / M and w(., 0) = (1 - R) / (1 - M).
    Weighted by them, the model-ranked rows of a position have rate R (before smoothing and
    clipping), and their weights sum to their number.

    Rates are smoothed towards the policy's rate over all positions: (positives + s * rate) /
    (rows + s) with s = `smoothing` pseudo-rows. Weights are clipped to [1 / clip, clip]. The last
    position holds all later ones too.

    Attributes:
        weights: [positions, objectives, 2] float32, last axis the outcome 0 or 1.
        low, high: Same shape, 95% interval of the unclipped ratio (delta method on its logarithm).
        random_rows, model_rows: [positions, objectives] int64, rows with a defined label.
        random_rate, model_rate: [positions, objectives] float64, smoothed rates of label 1.
        num_clipped: Entries of `weights` that were clipped.
    """

    weights: FloatArray
    low: FloatArray
    high: FloatArray
    random_rows: NDArray[np.int64]
    model_rows: NDArray[np.int64]
    random_rate: NDArray[np.float64]
    model_rate: NDArray[np.float64]
    num_clipped: int

    @classmethod
    def fit(
        cls,
        position: NDArray[np.int32],
        policy_random: NDArray[np.bool_],
        labels: NDArray[np.float32],
        *,
        smoothing: float = 20.0,
        clip: float = 10.0,
        max_positions: int = 50,
    ) -> RateRatioTable:
        """Counts a log.

        Args:
            position: [n], >= 0.
            policy_random: [n], True for rows of random sessions.
            labels: [n, objectives], 0, 1 or NaN.
            smoothing: Pseudo-rows added to each position, >= 0. With 0 a position without rows or
                without one of the outcomes keeps weight 1.
            clip: Largest weight, >= 1; the smallest is 1 / clip.
            max_positions: Most positions kept apart, >= 1.

        Raises:
            ValueError: Shapes differ, a position is negative, an option is outside its range, or
                one of the two policies has no row.
        """
        if smoothing < 0.0:
            raise ValueError(f"smoothing must be >= 0; got {smoothing}")
        if clip < 1.0:
            raise ValueError(f"clip must be >= 1; got {clip}")
        if max_positions < 1:
            raise ValueError(f"max_positions must be >= 1; got {max_positions}")
        _check_rows(position, policy_random, labels)
        for policy, rows in (("random", policy_random), ("model", ~policy_random)):
            if not rows.any():
                raise ValueError(
                    f"rate-ratio weights need rows of both policies; the log has no {policy!r} row"
                )
        num_positions = min(int(position.max()) + 1, max_positions)
        cell = np.minimum(position, num_positions - 1)
        random = _Rates.count(cell[policy_random], labels[policy_random], num_positions, smoothing)
        model = _Rates.count(cell[~policy_random], labels[~policy_random], num_positions, smoothing)

        ratio = np.stack(
            [_ratio(1.0 - random.rate, 1.0 - model.rate), _ratio(random.rate, model.rate)], -1
        )
        z = NormalDist().inv_cdf(0.975)
        spread = np.exp(z * np.sqrt(random.log_variance() + model.log_variance()))
        clipped = np.clip(ratio, 1.0 / clip, clip)
        return cls(
            weights=clipped.astype(np.float32),
            low=(ratio / spread).astype(np.float32),
            high=(ratio * spread).astype(np.float32),
            random_rows=random.rows,
            model_rows=model.rows,
            random_rate=random.rate,
            model_rate=model.rate,
            num_clipped=int(np.count_nonzero(clipped != ratio)),
        )

    def row_weights(
        self,
        position: NDArray[np.int32],
        policy_random: NDArray[np.bool_],
        labels: NDArray[np.float32],
    ) -> FloatArray:
        """Weight of each row for each objective.

        Args:
            position: [n], >= 0.
            policy_random: [n].
            labels: [n, objectives], 0, 1 or NaN.

        Returns:
            [n, objectives] float32: 1 for rows of random sessions, 0 where the label is undefined.

        Raises:
            ValueError: Shapes differ from each other or from the table's objectives, or a position
                is negative.
        """
        _check_rows(position, policy_random, labels)
        num_positions, num_objectives, _ = self.weights.shape
        if labels.shape[1] != num_objectives:
            raise ValueError(
                f"labels: has {labels.shape[1]} objectives; the table has {num_objectives}"
            )
        defined = ~np.isnan(labels)
        outcome = np.where(defined, labels, 0.0).astype(np.int64)
        cell = np.minimum(position, num_positions - 1)[:, None]
        weights: FloatArray = self.weights[cell, np.arange(num_objectives), outcome]
        weights[policy_random] = 1.0
        weights[~defined] = 0.0
        return weights


def ips_weights(propensity: FloatArray, *, floor: float = 0.01) -> FloatArray:
    """Inverse-propensity weights with a floor on the propensity.

    Horvitz and Thompson, JASA 1952.

    Args:
        propensity: [n], probability in (0, 1] with which the item was shown.
        floor: Smallest propensity used, in (0, 1]. Lower means less bias and more variance.

    Returns:
        [n] float32, 1 / max(propensity, floor); not normalised to mean 1.

    Raises:
        ValueError: A propensity is NaN, not positive, or above 1; or `floor` is outside (0, 1].
    """
    if not 0.0 < floor <= 1.0:
        raise ValueError(f"floor must be in (0, 1]; got {floor}")
    bad = np.flatnonzero(~((propensity > 0.0) & (propensity <= 1.0)))
    if len(bad) > 0:
        raise ValueError(f"propensity[{bad[0]}] = {propensity[bad[0]]:g} is not in (0, 1]")
    return (1.0 / np.maximum(propensity, floor)).astype(np.float32)


def effective_sample_size(weights: ArrayLike) -> float:
    """Number of equally weighted rows with the same variance: (sum w)^2 / sum w^2 (Kish 1965).

    Args:
        weights: Any shape, >= 0.

    Returns:
        In [0, number of weights]; 0 when all are 0 or there is none.
    """
    w = np.asarray(weights, dtype=np.float64)
    squares = float(np.square(w).sum())
    return float(w.sum()) ** 2 / squares if squares > 0.0 else 0.0


@dataclass(frozen=True, eq=False, slots=True)
class _Rates:
    """Per position and objective: rows with a defined label and the smoothed rate of label 1."""

    rows: NDArray[np.int64]
    effective_rows: NDArray[np.float64]
    rate: NDArray[np.float64]

    @classmethod
    def count(
        cls,
        cell: NDArray[np.int32],
        labels: NDArray[np.float32],
        num_positions: int,
        smoothing: float,
    ) -> _Rates:
        shape = (num_positions, labels.shape[1])
        rows, positives = np.empty(shape, np.int64), np.empty(shape, np.float64)
        for objective in range(labels.shape[1]):
            defined = ~np.isnan(labels[:, objective])
            at = cell[defined]
            rows[:, objective] = np.bincount(at, minlength=num_positions)
            positives[:, objective] = np.bincount(
                at, weights=labels[defined, objective], minlength=num_positions
            )
        overall = _quotient(positives.sum(axis=0), rows.sum(axis=0).astype(np.float64))
        prior = smoothing * np.nan_to_num(overall)
        effective = rows.astype(np.float64) + smoothing
        return cls(rows, effective, _quotient(positives + prior, effective))

    def log_variance(self) -> NDArray[np.float64]:
        """[positions, objectives, 2]: variance of the log rate of outcome 0 and 1, 1/k - 1/n."""
        outcomes = np.stack([1.0 - self.rate, self.rate], axis=-1)
        hits = outcomes * self.effective_rows[..., None]
        return _quotient(1.0 - outcomes, hits)


def _ratio(random: NDArray[np.float64], model: NDArray[np.float64]) -> NDArray[np.float64]:
    """random / model; 1 where either is 0 or unknown, for nothing was seen to compare."""
    ratio = _quotient(random, model)
    return np.where(np.isfinite(ratio) & (ratio > 0.0), ratio, 1.0)


def _quotient(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64]
) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: NDArray[np.float64] = numerator / denominator
    return quotient


def _check_rows(
    position: NDArray[np.int32], policy_random: NDArray[np.bool_], labels: NDArray[np.float32]
) -> None:
    n = len(position)
    if (
        position.shape != (n,)
        or policy_random.shape != (n,)
        or labels.ndim != 2
        or len(labels) != n
    ):
        raise ValueError(
            "position, policy_random and labels must be [n], [n] and [n, objectives]; got "
            f"{position.shape}, {policy_random.shape}, {labels.shape}"
        )
    bad = np.flatnonzero(position < 0)
    if len(bad) > 0:
        raise ValueError(f"position[{bad[0]}] = {position[bad[0]]} is negative")
