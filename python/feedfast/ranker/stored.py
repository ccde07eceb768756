"""Exported rankers on labelled impressions: their figures, and what a smaller one costs."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.data import Dataset, derive_history, row_requests
from feedfast.data.fingerprint import fingerprint
from feedfast.metrics import ObjectiveReport, normalized_entropy, objective_report
from feedfast.objectives import Group
from feedfast.precision_search import (
    PrecisionChoice,
    SectionOptions,
    Tell,
    smallest_precisions,
)
from feedfast.ranker.rows import split_rows
from feedfast.ranker.run import TrainedRun
from feedfast.ranker_artifact import RankerEncoder
from feedfast.request import RequestBatch
from feedfast.scorer import Scorer
from feedfast.store import ModelStore, files

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class LabelledRequests:
    """Impressions as an exported ranker sees them, each with the history of its own moment.

    Attributes:
        requests: One per impression.
        labels: [n, objectives] float32: 0, 1, or NaN where undefined.
        objectives: Their names.
    """

    requests: RequestBatch
    labels: FloatArray
    objectives: tuple[str, ...]

    @classmethod
    def of(
        cls, dataset: Dataset, *, run: TrainedRun | None, max_members: int, max_hashtags: int
    ) -> LabelledRequests:
        """All rows of a data set, or the held-out rows of a run that was trained on it.

        Args:
            dataset: Impressions with labels.
            run: A run; of another data set than this one it changes nothing.
            max_members, max_hashtags: Longest histories, as in training.
        """
        history = derive_history(
            dataset.log,
            engaged=dataset.engaged(),
            max_members=max_members,
            max_hashtags=max_hashtags,
        )
        log = dataset.log
        if run is not None and fingerprint(dataset) == run.dataset_fingerprint:
            rows = split_rows(log, run.config).test
            log, history = log.take(rows), history.take(rows)
        return cls(
            requests=row_requests(log, history),
            labels=log.labels,
            objectives=tuple(objective.name for objective in dataset.objectives),
        )

    def labels_of(self, scorer: Scorer) -> FloatArray:
        """[n, objectives of the scorer].

        Raises:
            ValueError: The data lack one of its objectives.
        """
        missing = set(scorer.objectives) - set(self.objectives)
        if missing:
            raise ValueError(
                f"the data have no label of objective {min(missing)!r}; "
                f"they have {', '.join(self.objectives)}"
            )
        return self.labels[:, [self.objectives.index(name) for name in scorer.objectives]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreDelta:
    """Probabilities of one objective against those of another version.

    Attributes:
        normalized_entropy: Relative change of the normalised entropy; positive is worse.
        greatest, mean: Of the absolute differences of the probabilities.
    """

    normalized_entropy: float
    greatest: float
    mean: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObjective:
    """Figures of one objective; `delta` is None without another version."""

    name: str
    group: Group
    report: ObjectiveReport
    delta: ScoreDelta | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredEvaluation:
    """Figures of an exported ranker.

    Attributes:
        model, version: What was measured.
        num_rows: Impressions.
        num_bytes: Of all its sections.
        against: Model, version and bytes of the other one; None without.
        objectives: In the order of the model.
    """

    model: str
    version: str
    num_rows: int
    num_bytes: int
    against: tuple[str, str, int] | None
    objectives: tuple[StoredObjective, ...]

    @property
    def worst_delta(self) -> float:
        """Greatest absolute relative change of a normalised entropy; NaN without another one."""
        deltas = [abs(o.delta.normalized_entropy) for o in self.objectives if o.delta]
        return max((d for d in deltas if not math.isnan(d)), default=math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a figure without a value is None."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                return [plain(item) for item in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        document: dict[str, Any] = plain(dataclasses.asdict(self))
        return document


def evaluate_stored(
    scorer: Scorer,
    data: LabelledRequests,
    *,
    num_bytes: int,
    against: Scorer | None = None,
    against_bytes: int = 0,
) -> StoredEvaluation:
    """Scores impressions and measures the result.

    Args:
        scorer: An exported ranker.
        data: Impressions with its feature columns.
        num_bytes: Of its sections.
        against: Another version of the same objectives.
        against_bytes: Of its sections.

    Raises:
        ValueError: The data lack an objective, or the other version has others.
    """
    labels = data.labels_of(scorer)
    predicted = scorer.score_batch(data.requests).probabilities
    other: FloatArray | None = None
    if against is not None:
        if against.objectives != scorer.objectives:
            raise ValueError(
                f"objectives are {scorer.objectives} and {against.objectives}; must be the same"
            )
        other = against.score_batch(data.requests).probabilities
    objectives = []
    for index, objective in enumerate(scorer.utility.objectives):
        delta = None
        if other is not None:
            off = np.abs(predicted[:, index].astype(np.float64) - other[:, index])
            delta = ScoreDelta(
                normalized_entropy=_relative(
                    labels[:, index], predicted[:, index], other[:, index]
                ),
                greatest=float(off.max(initial=0.0)),
                mean=float(off.mean()) if off.size else 0.0,
            )
        objectives.append(
            StoredObjective(
                name=objective.name,
                group=objective.group,
                report=objective_report(labels[:, index], predicted[:, index]),
                delta=delta,
            )
        )
    return StoredEvaluation(
        model=scorer.model,
        version=scorer.version,
        num_rows=len(labels),
        num_bytes=num_bytes,
        against=None if against is None else (against.model, against.version, against_bytes),
        objectives=tuple(objectives),
    )


def precisions_within_budget(
    encoder: RankerEncoder,
    data: LabelledRequests,
    store_path: str | os.PathLike[str],
    *,
    max_ne_delta: float,
    threads: int = 1,
    tell: Tell | None = None,
) -> PrecisionChoice:
    """The smallest precision of each table and layer that keeps the normalised entropies.

    Every candidate is published to a store of its own inside the folder `store_path` and scored by
    the native scorer, so what is measured is what will be served; the store is removed at the end.

    Args:
        encoder: The ranker.
        data: Impressions to measure on.
        store_path: Folder of the store, made if needed.
        max_ne_delta: Greatest allowed relative change, up or down, of the normalised entropy of any
            objective against the fp32 model.
        threads: Threads that score.
        tell: Called with (measurements done, an upper bound on their number, what was found).

    Raises:
        ValueError: No objective of the data has both labels, or the budget is negative.
    """
    files.make_folders(Path(store_path))
    with tempfile.TemporaryDirectory(dir=store_path, prefix=files.TEMPORARY_PREFIX) as folder:

        def probabilities(precisions: Mapping[str, str]) -> tuple[Scorer, FloatArray]:
            version = encoder.publish(ModelStore(folder), "candidate", precisions)
            scorer = Scorer.open(folder, model="candidate", version=version, threads=threads)
            return scorer, scorer.score_batch(data.requests).probabilities

        scorer, exact = probabilities({})
        labels = data.labels_of(scorer)
        columns = [
            k
            for k in range(labels.shape[1])
            if not math.isnan(normalized_entropy(labels[:, k], exact[:, k]))
        ]
        if not columns:
            raise ValueError("no objective has positive and negative labels in the data")

        def measure(precisions: Mapping[str, str]) -> float:
            try:
                _, predicted = probabilities(precisions)
                return max(
                    abs(_relative(labels[:, k], predicted[:, k], exact[:, k])) for k in columns
                )
            except ValueError:  # a section that this precision cannot hold, or scores of NaN
                return math.inf

        return smallest_precisions(
            section_options(encoder), measure, max_delta=max_ne_delta, tell=tell
        )


def section_options(encoder: RankerEncoder) -> Sequence[SectionOptions]:
    """The precisions that tables and layers may have, with their bytes."""
    return [
        SectionOptions(
            name=section,
            num_bytes={precision: encoder.num_bytes(section, precision) for precision in allowed},
        )
        for section, allowed in encoder.sections.items()
    ]


def _relative(labels: FloatArray, predicted: FloatArray, exact: FloatArray) -> float:
    return normalized_entropy(labels, predicted) / normalized_entropy(labels, exact) - 1.0
