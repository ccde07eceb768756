"""Training and evaluation of a feed ranker; needs TensorFlow and XGBoost."""

from __future__ import annotations

from feedfast.ranker.run import TrainedRun
from feedfast.training.evaluate import EvaluationReport, ObjectiveEvaluation, evaluate
from feedfast.training.progress import Progress, ProgressCallback
from feedfast.training.train import train

__all__ = [
    "EvaluationReport",
    "ObjectiveEvaluation",
    "Progress",
    "ProgressCallback",
    "TrainedRun",
    "evaluate",
    "train",
]
