"""Probabilities by TensorFlow: for evaluation, and as the reference of the native scorer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feedfast.data import History, ImpressionLog
from feedfast.ranker.examples import Examples
from feedfast.ranker.model import RankerModel, model_inputs, model_of
from feedfast.ranker.trained import FeedRanker


def predict(
    ranker: FeedRanker, log: ImpressionLog, history: History, *, batch_size: int = 4096
) -> NDArray[np.float32]:
    """Probability of each objective for each impression.

    Args:
        ranker: A trained ranker.
        log: Any impressions with its feature columns.
        history: Of these rows, point in time (`feedfast.data.derive_history`).
        batch_size: Rows that TensorFlow sees at once.

    Returns:
        [n, objectives] float32, objectives in the order of `ranker.objectives`.

    Raises:
        ValueError: Feature columns differ from those of the training log.
    """
    examples = ranker.features.encode(log, history)
    return predict_examples(model_of(ranker), examples, batch_size=batch_size)


def predict_examples(
    model: RankerModel,
    examples: Examples,
    *,
    batch_size: int = 4096,
    most_rows: int = 0,
) -> NDArray[np.float32]:
    """As `predict`, for encoded impressions and a live model.

    Args:
        model: The model.
        examples: n of them.
        batch_size: Rows that TensorFlow sees at once.
        most_rows: Where processes divide the tables, the most rows that any of them predicts:
            all must call the model equally often, with no rows in the end.
    """
    n = len(examples)
    with model.python_errors():
        parts = [
            model.infer(
                model_inputs(examples.take(np.arange(min(first, n), min(first + batch_size, n))))
            )
            for first in range(0, max(n, most_rows), batch_size)
        ]
    if not parts:
        return np.zeros((0, model.num_objectives), dtype=np.float32)
    return np.concatenate([part.numpy() for part in parts])
