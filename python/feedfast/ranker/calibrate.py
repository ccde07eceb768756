"""Fits the calibrators of a ranker: from its probabilities to the rates of given impressions."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from feedfast.calibration import Calibrator
from feedfast.metrics import ObjectiveReport, objective_report
from feedfast.ranker.stored import LabelledRequests
from feedfast.ranker_artifact import RankerArtifact, publish_ranker
from feedfast.scorer import Scorer
from feedfast.store import ModelStore

Method = Literal["isotonic", "platt", "none"]
METHODS: tuple[Method, ...] = get_args(Method)

# Platt's map is stored as knots that are even in the logit. Between two of them it is off by at
# most an eighth of the squared step, 1.2e-4 of a small probability.
_LOGIT_STEP = 1 / 32
_LOGITS = (-16.0, 9.0)
_NEWTON_STEPS = 50
# No calibrator says never or always: a log loss would be infinite.
_LEAST = 1e-7
# Labels of the rarer kind in a group of isotonic regression, on average, and most groups.
_RARER_LABELS = 10
_MOST_GROUPS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """One objective before and after, on the rows its calibrator was fitted to.

    Attributes:
        objective: Its name.
        method: How it was fitted.
        before, after: Figures of the probabilities.
    """

    objective: str
    method: Method
    before: ObjectiveReport
    after: ObjectiveReport


def resolve_methods(wanted: Sequence[str], objectives: Sequence[str]) -> dict[str, Method]:
    """The method of every objective: `METHOD` for all, or `OBJECTIVE=METHOD`; the last one counts.

    Raises:
        ValueError: An unknown method or objective.
    """
    methods: dict[str, Method] = dict.fromkeys(objectives, "none")
    # Those of all objectives first, so that the order between both kinds does not matter.
    for text in sorted(wanted, key=lambda text: "=" in text):
        objective, equals, method = text.rpartition("=")
        if method not in METHODS:
            raise ValueError(f"calibrate: {method!r} is no method; allowed: {', '.join(METHODS)}")
        if equals and objective not in methods:
            raise ValueError(
                f"calibrate: {objective!r} is not an objective; allowed: {', '.join(objectives)}"
            )
        for name in (objective,) if equals else objectives:
            methods[name] = method
    return methods


def calibrated(
    artifact: RankerArtifact,
    data: LabelledRequests,
    methods: Mapping[str, Method],
    *,
    threads: int = 1,
) -> tuple[RankerArtifact, list[Calibration]]:
    """The ranker with calibrators fitted to given impressions, in place of those it had.

    Args:
        artifact: The ranker.
        data: Impressions, best later ones than it was trained on.
        methods: By objective; `none` leaves it without a calibrator.
        threads: Threads that score.

    Raises:
        ValueError: The data lack an objective, or labels of both kinds of one to calibrate.
    """
    plain = dataclasses.replace(artifact, calibrators={})
    with tempfile.TemporaryDirectory() as folder:
        publish_ranker(ModelStore(Path(folder)), "plain", plain)
        scorer = Scorer.open(folder, "plain", threads=threads)
        probabilities = scorer.score_batch(data.requests).probabilities
        labels = data.labels_of(scorer)
    calibrators, report = {}, []
    for k, objective in enumerate(scorer.objectives):
        method = methods.get(objective, "none")
        if method == "none":
            continue
        known = ~np.isnan(labels[:, k])
        p, y = probabilities[known, k], labels[known, k]
        if not 0.0 < y.sum() < len(y):
            raise ValueError(
                f"objective {objective!r} has no "
                f"{'positive' if y.sum() == 0.0 else 'negative'} label in the data; "
                "calibration needs both"
            )
        fit = fit_isotonic if method == "isotonic" else fit_platt
        calibrators[objective] = fit(p, y)
        report.append(
            Calibration(
                objective=objective,
                method=method,
                before=objective_report(y, p),
                after=objective_report(y, calibrators[objective](p)),
            )
        )
    return dataclasses.replace(plain, calibrators=calibrators), report


def fit_platt(probabilities: NDArray[np.float32], labels: NDArray[np.float32]) -> Calibrator:
    """sigmoid(a logit(p) + b) of maximal likelihood, as a piecewise-linear map.

    Newton's method on the log loss, with the targets of Platt (1999), "Probabilistic outputs for
    support vector machines", section 2.2, instead of 0 and 1. Where a would be negative, which no
    monotone map can be, the map is constant.

    Args:
        probabilities: [n] in [0, 1].
        labels: [n] 0 or 1; both occur.
    """
    p = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
    x = np.log(p) - np.log1p(-p)
    positives = float(labels.sum())
    negatives = len(labels) - positives
    target = np.where(labels > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    rate = float(target.mean())
    a, b = 0.0, float(np.log(rate) - np.log1p(-rate))
    loss = np.inf
    for _ in range(_NEWTON_STEPS):
        z = a * x + b
        now = float(np.sum(np.logaddexp(0.0, z) - target * z))
        if not now < loss - 1e-12 * abs(now):
            break
        loss = now
        q = 1 / (1 + np.exp(-z))
        error, weight = q - target, np.maximum(q * (1 - q), 1e-12)
        gradient = np.array([error @ x, error.sum()])
        cross = float(weight @ x)
        hessian = np.array([[weight @ (x * x), cross], [cross, weight.sum()]])
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        # The loss is convex: half a step is one down, at the latest after a few halvings.
        for halvings in range(30):
            new_a, new_b = a - step[0] * 0.5**halvings, b - step[1] * 0.5**halvings
            z = new_a * x + new_b
            if float(np.sum(np.logaddexp(0.0, z) - target * z)) <= loss:
                a, b = new_a, new_b
                break
    if a <= 0.0:
        return Calibrator(np.array([0.5], np.float32), np.array([rate], np.float32))
    logits = np.arange(_LOGITS[0], _LOGITS[1] + _LOGIT_STEP, _LOGIT_STEP)
    knots = (1 / (1 + np.exp(-logits))).astype(np.float32)
    values = (1 / (1 + np.exp(-(a * logits + b)))).astype(np.float32)
    return _from_knots(knots, values)


def fit_isotonic(probabilities: NDArray[np.float32], labels: NDArray[np.float32]) -> Calibrator:
    """The monotone map of least squared error: constant in blocks of rows, linear between them.

    Pool adjacent violators (Ayer et al. 1955) over groups of rows with neighbouring probabilities,
    so large that each has ten labels of the rarer kind on average. A block with k positives of n
    rows has the value (k + rate) / (n + 1), with the rate of all rows: a block without positives
    must not say that there will never be one.

    Args:
        probabilities: [n] in [0, 1].
        labels: [n] 0 or 1; both occur.
    """
    order = np.argsort(probabilities, kind="stable")
    p, y = probabilities[order], labels[order].astype(np.float64)
    rarer = min(float(y.sum()), len(y) - float(y.sum()))
    groups = int(np.clip(rarer / _RARER_LABELS, 1, _MOST_GROUPS))
    even = np.linspace(0, len(p), groups, endpoint=False).astype(np.intp)
    starts = np.unique(np.searchsorted(p, p[even]))  # equal probabilities are in one group
    positives = np.add.reduceat(y, starts)
    # Blocks as (first row, end, positives).
    blocks: list[tuple[int, int, float]] = []
    for block in zip(starts.tolist(), [*starts[1:].tolist(), len(p)], positives, strict=True):
        blocks.append(block)
        while len(blocks) > 1 and _rate(blocks[-2]) >= _rate(blocks[-1]):
            last, before = blocks.pop(), blocks.pop()
            blocks.append((before[0], last[1], before[2] + last[2]))
    first, end, positives = np.array(blocks).T
    values = np.maximum.accumulate((positives + y.mean()) / (end - first + 1))
    ends = np.stack([first, end - 1], axis=1).astype(np.intp).reshape(-1)
    return _from_knots(p[ends], np.repeat(values, 2))


def _rate(block: tuple[int, int, float]) -> float:
    first, end, positives = block
    return positives / (end - first)


def _from_knots(x: NDArray[np.float32], y: NDArray[np.floating]) -> Calibrator:
    """A calibrator of the first of knots that are equal in float32."""
    x, first = np.unique(np.clip(x, _LEAST, 1), return_index=True)
    return Calibrator(x, np.clip(y[first], _LEAST, 1 - _LEAST).astype(np.float32))
