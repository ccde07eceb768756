"""Updates of the rows of a batch in numpy tables, without TensorFlow.

The rules, their options and their numerics are those of `fft.optimizers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from feedfast import _core
from feedfast.bags import FloatArray, IntArray, Pooling

Rule = Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "rowwise_adam"]


class RowUpdater:
    """One rule with its options; cpp/embedding_kernels/row_optimizer.h has the formulas.

    Calls of one object take turns, so threads may share it; calls of several objects on one table
    must not overlap.

    Args:
        rule: "sgd", "adagrad", "rowwise_adagrad", "adam" or "rowwise_adam".
        epsilon: Added to the root of the accumulated squares; above 0.
        beta1, beta2: Decay of Adam's moments.
        weight_decay: Of the touched rows.
        weight_decay_mode: "l2" or "decouple".
        clipping: "none", "value", "row_norm" or "norm", of the summed gradient.
        max_gradient: Bound of the clipping.
        stochastic_rounding: Of 16-bit tables; else to nearest even.
        seed: Of the stochastic rounding.
        threads: For one call; bits do not depend on it.

    Raises:
        ValueError: An option is unknown or out of its range.
    """

    def __init__(
        self,
        rule: Rule,
        *,
        epsilon: float = 1e-7,
        beta1: float = 0.9,
        beta2: float = 0.999,
        weight_decay: float = 0.0,
        weight_decay_mode: Literal["l2", "decouple"] = "l2",
        clipping: Literal["none", "value", "row_norm", "norm"] = "none",
        max_gradient: float = 0.0,
        stochastic_rounding: bool = True,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        self._native = _core.RowUpdater(
            rule=rule,
            epsilon=epsilon,
            beta1=beta1,
            beta2=beta2,
            weight_decay=weight_decay,
            weight_decay_mode=weight_decay_mode,
            clipping=clipping,
            max_gradient=max_gradient,
            stochastic_rounding=stochastic_rounding,
            seed=seed,
            threads=threads,
        )

    def states(self, table: npt.NDArray[Any], *, initial: float = 0.0) -> list[FloatArray]:
        """New states for `table` [num_rows, dim]: arrays [num_rows, dim] or, row-wise, [num_rows].

        Args:
            table: The table.
            initial: What they start at.
        """
        num_rows, dim = table.shape
        return [
            np.full((num_rows,) if columns < dim else (num_rows, dim), initial, np.float32)
            for columns in self._native.state_columns(dim)
        ]

    def apply_rows(
        self,
        table: npt.NDArray[Any],
        states: Sequence[FloatArray],
        rows: IntArray,
        values: FloatArray,
        *,
        learning_rate: float,
        step: int,
        row_squares: FloatArray | None = None,
        row_dim: int = 0,
        dtype: Literal["bf16"] | None = None,
        first_row: int = 0,
        first_column: int = 0,
    ) -> None:
        """Updates `rows` [n] by their gradients `values` [n, dim], in place.

        Args:
            table: [num_rows, dim] float32, float16 or ml_dtypes.bfloat16, C-contiguous.
            states: From `states`.
            rows: int64; rows that repeat are summed first.
            values: float32.
            learning_rate: Of this step.
            step: Counts the updates from 1: Adam corrects its bias by it, and the random numbers
                of the rounding follow it.
            row_squares: None, or, where `table` is some columns of a wider one, [n] sums of the
                squares of the whole rows of the gradient, from which row-wise rules take their
                mean; `rows` then ascend strictly, without clipping and "l2" decay.
            row_dim: Columns of the wider table.
            dtype: "bf16" when a uint16 table holds bfloat16.
            first_row, first_column: Where `table` begins in a larger one, whose rows and columns
                the random numbers of the rounding follow.

        Raises:
            IndexError: A row is not one of the table.
            ValueError: Shapes, dtypes or numbers do not fit; nothing was written then.
        """
        self._native.apply_rows(
            _bits(table),
            "bfloat16" if dtype == "bf16" and table.dtype == np.uint16 else table.dtype.name,
            list(states),
            rows,
            values,
            learning_rate=learning_rate,
            step=step,
            row_squares=row_squares,
            row_dim=row_dim,
            first_row=first_row,
            first_column=first_column,
        )

    def apply_bags(
        self,
        table: npt.NDArray[Any],
        states: Sequence[FloatArray],
        values: IntArray,
        offsets: IntArray,
        weights: FloatArray | None,
        grad: FloatArray,
        *,
        pooling: Pooling = "sum",
        learning_rate: float,
        step: int,
    ) -> None:
        """Updates the rows of pooled bags by the gradient `grad` [num_bags, dim] of their vectors.

        Args:
            table, states, learning_rate, step: As in `apply_rows`.
            values: [nnz] int64.
            offsets: [num_bags + 1] int64.
            weights: [nnz] float32 or None.
            grad: float32.
            pooling: "sum", "mean" or "sqrtn", as in the lookup.

        Raises:
            IndexError, ValueError: As `apply_rows` and `feedfast.pooled_lookup`.
        """
        self._native.apply_bags(
            _bits(table),
            table.dtype.name,
            list(states),
            values,
            offsets,
            weights,
            pooling,
            grad,
            learning_rate=learning_rate,
            step=step,
        )


def _bits(table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The table itself, 16-bit floats as uint16: numpy has no buffer format for bfloat16."""
    if not table.dtype.isnative:
        raise ValueError(f"table must be in native byte order; got {table.dtype}")
    return table.view(np.uint16) if table.dtype.itemsize == 2 else table
