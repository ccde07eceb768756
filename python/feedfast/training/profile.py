"""Profiles of the steps that `train` would take."""

from __future__ import annotations

import itertools

import numpy as np

from feedfast.config import RankerConfig
from feedfast.data import Dataset
from feedfast.objectives import inverse_base_rates
from feedfast.ranker.features import FeatureSpace
from feedfast.ranker.model import RankerModel
from feedfast.ranker.rows import history_of, split_rows
from feedfast.tf.step_profile import StepProfile, profile_steps
from feedfast.training.train import loss_weights
from feedfast.training.trainer import LabelledExamples, Trainer

__all__ = ["profile_training"]

_NUM_BATCHES = 8


def profile_training(
    dataset: Dataset,
    config: RankerConfig,
    *,
    features: FeatureSpace | None = None,
    num_steps: int = 20,
) -> StepProfile:
    """Where the time of a training step goes.

    Args:
        dataset: Any log with labels.
        config: As for `train`; the batch size matters most.
        features: Of a trained run of this dataset; default: fitted now, on the training rows.
        num_steps: Steps that are measured; batches repeat after a few.

    Raises:
        ValueError: The dataset has too few rows, or `num_steps` is below 1.
    """
    rows = split_rows(dataset.log, config).train
    if features is None:
        features = FeatureSpace.fit(dataset, rows, config)
    size = config.training.batch_size
    rows = rows[: _NUM_BATCHES * size]
    log = dataset.log.take(rows)
    base_rates = 1.0 / inverse_base_rates(log.labels, dataset.objectives).astype(np.float64)
    trainer = Trainer(RankerModel(config, features.sizes, dataset.objectives, base_rates), config)
    examples = features.encode(log, history_of(dataset, config).take(rows))
    weights = loss_weights(log, config)
    batches = itertools.cycle(
        [
            LabelledExamples(
                examples.take(np.arange(start, min(start + size, len(rows)))),
                log.labels[start : start + size],
                weights[start : start + size],
            )
            for start in range(0, len(rows), size)
        ]
    )
    return profile_steps(
        lambda: trainer.step(next(batches), config.training.learning_rate), num_steps=num_steps
    )
