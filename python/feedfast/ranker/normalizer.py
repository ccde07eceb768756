"""Scaling of numeric features; numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LIMIT = 8.0
"""Scaled features are clipped to [-LIMIT, LIMIT]: one broken count must not dominate a score."""

# Of values that are scaled again, and then clipped to LIMIT: squares of outliers must not decide a
# variance, which stays far below the square of this over LIMIT.
_STANDARD_LIMIT = 1e3


@dataclass(frozen=True, eq=False, slots=True)
class Normalizer:
    """y = clip((x - mean) * inv_std, -8, 8) per column in float32; a missing x gives y = 0.

    Attributes:
        mean: [columns] float32.
        inv_std: [columns] float32; 0 for a column without spread, which so becomes 0 everywhere.
    """

    mean: NDArray[np.float32]
    inv_std: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32]) -> Normalizer:
        """Mean and deviation of each column over its present values.

        Args:
            features: [rows, columns] float32, NaN where missing, never infinite.
        """
        present = ~np.isnan(features)
        count = np.maximum(present.sum(axis=0), 1)
        x = np.where(present, features, 0.0).astype(np.float64)
        mean = x.sum(axis=0) / count
        variance = np.where(present, np.square(x - mean), 0.0).sum(axis=0) / count
        # Below this the spread is the rounding of a constant float32 column.
        spread = variance > np.square(1e-6 * np.maximum(np.abs(mean), 1e-30))
        inv_std = np.where(spread, 1.0 / np.sqrt(np.where(spread, variance, 1.0)), 0.0)
        return cls(mean.astype(np.float32), inv_std.astype(np.float32))

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """[rows, columns] float32 to the same shape; never NaN."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled: NDArray[np.float32] = np.clip(
                (features - self.mean) * self.inv_std, -LIMIT, LIMIT
            )
        scaled[np.isnan(scaled)] = 0.0
        return scaled

    def standardize(
        self, features: NDArray[np.float32], columns: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(x - mean) * inv_std of some columns, wider and not filled: NaN where missing.

        Args:
            features: [rows, columns of the normalizer].
            columns: [c] int64, the columns wanted.

        Returns:
            [rows, c] float32 in [-1000, 1000], or NaN.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            scaled: NDArray[np.float32] = (
                features[:, columns] - self.mean[columns]
            ) * self.inv_std[columns]
        return np.clip(scaled, -_STANDARD_LIMIT, _STANDARD_LIMIT)
