"""Naive double-precision row-wise optimizers, one row after the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class RowOptimizer:
    """A table [num_rows, dim] with its states; formulas as in row_optimizer.h."""

    def __init__(
        self,
        table: npt.NDArray[np.floating],
        rule: str,
        *,
        epsilon: float = 1e-7,
        beta1: float = 0.9,
        beta2: float = 0.999,
        initial: float = 0.0,
    ) -> None:
        self.table = np.array(table, np.float64)
        self.first = np.full_like(self.table, initial)
        self.second = np.zeros_like(self.table)
        self.rule = rule
        self.epsilon = epsilon
        self.beta1 = beta1
        self.beta2 = beta2
        self.step = 0

    def apply(
        self,
        rows: npt.NDArray[np.int64],
        values: npt.NDArray[np.floating],
        learning_rate: float,
        *,
        clipnorm: float | None = None,
        decay: float = 0.0,
    ) -> None:
        """One step with the gradient slices (rows[i], values[i])."""
        self.step += 1
        touched = np.unique(rows)
        sums = {r: np.asarray(values, np.float64)[rows == r].sum(0) for r in touched}
        norm = np.sqrt(sum((g**2).sum() for g in sums.values()))
        for r, summed in sums.items():
            g = summed
            if clipnorm is not None and norm > clipnorm:
                g = g * (clipnorm / norm)
            g = g + decay * self.table[r]
            square = np.mean(g**2) if self.rule.startswith("rowwise") else g**2
            if self.rule == "sgd":
                self.table[r] -= learning_rate * g
            elif self.rule.endswith("adagrad"):
                self.first[r] += square
                self.table[r] -= learning_rate * g / (np.sqrt(self.first[r]) + self.epsilon)
            else:
                self.first[r] = self.beta1 * self.first[r] + (1 - self.beta1) * g
                self.second[r] = self.beta2 * self.second[r] + (1 - self.beta2) * square
                rate = learning_rate * np.sqrt(1 - self.beta2**self.step)
                rate /= 1 - self.beta1**self.step
                self.table[r] -= rate * self.first[r] / (np.sqrt(self.second[r]) + self.epsilon)
