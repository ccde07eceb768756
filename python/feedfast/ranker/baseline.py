"""The historical setup as a baseline: one logistic regression per objective on tree-derived inputs.

"Homepage feed multi-task learning using TensorFlow", 2021, section "Previous modeling setup":
separate logistic regressions, with XGBoost for derived features. Here each regression sees the
scaled features and the leaves of the ranker's own forest, one-hot; it has no ids and no history.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feedfast.ranker.examples import Examples

DESCRIPTION = (
    "one logistic regression per objective on the scaled features and the one-hot leaves of the "
    "same forest, without ids and history"
)

# Inverse strength of the L2 penalty: on validation rows of MovieLens 100k and of the simulated feed
# 0.003 has a lower loss than 0.01, and far lower than 1.
_INVERSE_PENALTY = 0.003
_MAX_ITERATIONS = 200


def baseline_probabilities(
    train: Examples, labels: NDArray[np.float32], test: Examples, *, num_leaves: int
) -> NDArray[np.float32]:
    """Trains the baseline and predicts with it.

    Args:
        train: Training rows.
        labels: [training rows, objectives], 0, 1 or NaN; undefined rows are left out.
        test: Rows to predict, of the same features.
        num_leaves: Leaves of the forest.

    Returns:
        [test rows, objectives] float32. An objective with one class in training gets that class's
        rate everywhere, one without any defined label NaN.

    Raises:
        ImportError: scikit-learn is not installed; the message says how to install it.
    """
    try:
        from scipy import sparse  # type: ignore[import-untyped]
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError as error:
        raise ImportError(
            "the baseline needs scikit-learn; install it with: pip install 'feedfast[train]'"
        ) from error

    def design(examples: Examples) -> sparse.csr_matrix:
        n, trees = examples.leaves.shape
        ones = np.ones(n * trees, dtype=np.float32)
        starts = np.arange(n + 1, dtype=np.int64) * trees
        leaves = sparse.csr_matrix((ones, examples.leaves.ravel(), starts), shape=(n, num_leaves))
        scaled = np.concatenate([examples.shared, examples.dense], axis=1)
        return sparse.hstack([sparse.csr_matrix(scaled), leaves], format="csr")

    inputs, test_inputs = design(train), design(test)
    predicted = np.full((len(test), labels.shape[1]), np.nan, dtype=np.float32)
    for column in range(labels.shape[1]):
        defined = np.flatnonzero(~np.isnan(labels[:, column]))
        y = labels[defined, column]
        if len(np.unique(y)) < 2:
            predicted[:, column] = y.mean() if len(y) > 0 else np.nan
            continue
        model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MAX_ITERATIONS, tol=1e-3)
        model.fit(inputs[defined] if len(defined) < len(train) else inputs, y)
        predicted[:, column] = model.predict_proba(test_inputs)[:, 1]
    return predicted
