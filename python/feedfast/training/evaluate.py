"""Evaluation: how well a trained run ranks and how calibrated it is on its test rows."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.data import Dataset
from feedfast.data.fingerprint import fingerprint
from feedfast.metrics import ObjectiveReport, objective_report
from feedfast.objectives import Group
from feedfast.ranker import baseline as separate_baseline
from feedfast.ranker.model import model_of
from feedfast.ranker.predict import predict_examples
from feedfast.ranker.rows import history_of, split_rows
from feedfast.ranker.run import TrainedRun
from feedfast.training.progress import Progress, ProgressCallback, silent


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveEvaluation:
    """One objective on the test rows.

    Attributes:
        name: Objective.
        group: Its group.
        train_base_rate: Rate on the training rows; beside `model.base_rate` it shows drift.
        model: Figures of the ranker.
        baseline: Figures of the separate logistic regression; None if it was not asked for.
        oracle: Figures of the true probabilities; None where they are unknown.
    """

    name: str
    group: Group
    train_base_rate: float
    model: ObjectiveReport
    baseline: ObjectiveReport | None
    oracle: ObjectiveReport | None

    @property
    def oracle_share(self) -> float:
        """Share of the oracle's drop in normalised entropy that the ranker reaches; NaN without."""
        if self.oracle is None:
            return math.nan
        possible = 1.0 - self.oracle.normalized_entropy
        return (1.0 - self.model.normalized_entropy) / possible if possible > 0.0 else math.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationReport:
    """Figures of a run on its test rows.

    Attributes:
        dataset: Name of the dataset.
        split: Kind of split.
        num_train_rows, num_test_rows: Rows of each side.
        baseline_note: What the baseline is; empty without one.
        objectives: One per objective, in the dataset's order.
    """

    dataset: str
    split: str
    num_train_rows: int
    num_test_rows: int
    baseline_note: str
    objectives: tuple[ObjectiveEvaluation, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a figure without a value is None."""
        document = dataclasses.asdict(self)
        for entry, objective in zip(document["objectives"], self.objectives, strict=True):
            entry["oracle_share"] = objective.oracle_share
        plain: dict[str, Any] = _plain(document)
        return plain

    def to_json(self) -> str:
        """`to_dict` as readable JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"


def evaluate(
    run: TrainedRun,
    dataset: Dataset,
    *,
    baseline: bool = True,
    true_probabilities: NDArray[np.float32] | None = None,
    progress: ProgressCallback | None = None,
) -> EvaluationReport:
    """Predicts the test rows of a run and measures the result.

    Args:
        run: A complete run.
        dataset: The dataset it was trained on, from which it takes its test rows.
        baseline: Whether to train the baseline too, on the run's training rows.
        true_probabilities: [rows of the dataset, objectives], for simulated data.
        progress: Told about each part.

    Raises:
        ValueError: The dataset is not the one of the run, or the probabilities have another shape.
    """
    tell = progress or silent
    if fingerprint(dataset) != run.dataset_fingerprint:
        raise ValueError(
            f"dataset {dataset.name!r} is not the one that {run.directory} was trained on; "
            "its test rows would not be held out"
        )
    if true_probabilities is not None and true_probabilities.shape != dataset.log.labels.shape:
        raise ValueError(
            f"true_probabilities: shape {true_probabilities.shape}; "
            f"labels have {dataset.log.labels.shape}"
        )
    rows = split_rows(dataset.log, run.config)
    history = history_of(dataset, run.config)
    encode = run.ranker.features.encode
    tell(Progress(stage="evaluate", message=f"{len(rows.test):,} test rows"))
    test = encode(dataset.log.take(rows.test), history.take(rows.test))
    predicted = predict_examples(model_of(run.ranker), test)
    base = None
    if baseline:
        tell(Progress(stage="baseline", message="separate logistic regressions"))
        train = encode(dataset.log.take(rows.train), history.take(rows.train))
        base = separate_baseline.baseline_probabilities(
            train,
            dataset.log.labels[rows.train],
            test,
            num_leaves=run.ranker.features.sizes.num_leaves,
        )
    oracle = None if true_probabilities is None else true_probabilities[rows.test]
    labels = dataset.log.labels[rows.test]
    train_labels = dataset.log.labels[rows.train]
    return EvaluationReport(
        dataset=dataset.name,
        split=run.config.split.kind,
        num_train_rows=len(rows.train),
        num_test_rows=len(rows.test),
        baseline_note=separate_baseline.DESCRIPTION if baseline else "",
        objectives=tuple(
            ObjectiveEvaluation(
                name=objective.name,
                group=objective.group,
                train_base_rate=float(np.nanmean(train_labels[:, k])),
                model=objective_report(labels[:, k], predicted[:, k]),
                baseline=None if base is None else objective_report(labels[:, k], base[:, k]),
                oracle=None if oracle is None else objective_report(labels[:, k], oracle[:, k]),
            )
            for k, objective in enumerate(dataset.objectives)
        ),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
