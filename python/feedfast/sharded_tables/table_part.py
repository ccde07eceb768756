"""The weights and optimizer states of one piece, on the rank that holds it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.bags import FloatArray, IntArray
from feedfast.sharded_tables.initializers import fill
from feedfast.sharded_tables.layout import Piece
from feedfast.sharded_tables.row_window import RowWindow
from feedfast.sharded_tables.table_spec import RowOptimization, TableSpec
from feedfast.sharded_tables.weight_format import Weights, as_float32, weights_dtype


class TablePart:
    """Weights [rows, columns] and states of a piece, and the gradient of one window.

    Args:
        spec: The table.
        piece: Which part of it.

    Attributes:
        weights: [rows, columns] of the table's dtype, bfloat16 as uint16.
        states: float32 [rows, columns], or [rows] of states with one number a row.
    """

    def __init__(self, spec: TableSpec, piece: Piece) -> None:
        self.piece = piece
        self._spec = spec
        self._updater = self.optimizer.updater(spec.name)
        self.weights: Weights = np.empty((piece.rows, piece.columns), weights_dtype(spec.dtype))
        states = self._updater.states(self.weights, initial=self.optimizer.initial_state)
        self.states = [
            state.reshape(-1) if is_rowwise else state
            for state, is_rowwise in zip(states, self.optimizer.rowwise_states, strict=True)
        ]
        self._window = RowWindow(piece.columns)
        self._rows: IntArray | None = None
        self._gradient: FloatArray = np.empty((0, piece.columns), np.float32)
        self._row_squares: FloatArray | None = None

    @property
    def optimizer(self) -> RowOptimization:
        """How the table is trained."""
        optimizer: RowOptimization = self._spec.optimizer
        return optimizer

    @property
    def shares_row_squares(self) -> bool:
        """Does the rule need the squares of columns that other ranks hold?"""
        return self.optimizer.is_rowwise and self.piece.columns < self._spec.dim

    def initialize(self) -> None:
        """Sets the weights to the first values of the table."""
        fill(
            self.weights,
            self._spec.initializer,
            self._spec.name,
            dtype=self._spec.dtype,
            dim=self._spec.dim,
            row_begin=self.piece.row_begin,
            column_begin=self.piece.column_begin,
        )

    def read(self, rows: NDArray[np.integer[Any]], out: FloatArray) -> None:
        """out[i] = weights[rows[i]], int32 or int64 `rows` counted from the first of the part.

        Raises:
            IndexError: A row is not of this part.
        """
        if self._spec.dtype == "float32":
            self.copy(rows, out)
            return
        found = np.empty(out.shape, self.weights.dtype)
        self.copy(rows, found)
        out[...] = as_float32(found, self._spec.dtype)

    def copy(self, rows: NDArray[np.integer[Any]], out: Weights) -> None:
        """The same in the dtype of the table."""
        _core.gather_rows(self.weights, rows, out)

    def values(self, begin: int, end: int) -> FloatArray:
        """Rows [begin, end) of the part as float32; float32 ones are not copied."""
        return as_float32(self.weights[begin:end], self._spec.dtype)

    def add(self, rows: IntArray, gradient: FloatArray) -> None:
        """Adds what one rank sent: rows [n] from the first of the part, gradient [n, columns].

        Rows ascend, each once; both arrays stay as they are until `take_window`.
        """
        self._window.add(rows, gradient)

    def take_window(self, scale: float) -> float:
        """Sums what was added, times `scale`, for `apply`.

        Returns:
            The sum of the squares of the gradient.
        """
        rows, gradient = self._window.merged(scale)
        self._window.discard()
        return self.set_window(rows, gradient)

    def set_window(self, rows: IntArray, gradient: FloatArray) -> float:
        """The same from a gradient [n, columns] that is there already; `rows` ascend."""
        self._rows = rows
        self._gradient = gradient
        squares = self.row_squares()
        self._row_squares = None
        return float(squares.sum(dtype=np.float64))

    def row_squares(self) -> FloatArray:
        """[n]: sum of the squares of every row of the window's gradient, of these columns."""
        squares: FloatArray = np.einsum("ij,ij->i", self._gradient, self._gradient)
        return squares

    def share_row_squares(self, row_squares: FloatArray) -> None:
        """Takes the sums of squares [n] of whole rows, for `apply`."""
        self._row_squares = row_squares

    def apply(self, multiplier: float, *, updates: int) -> None:
        """Updates the rows of the window, with its gradient times `multiplier`; ends the window.

        Args:
            multiplier: At most 1; below it where gradients are clipped.
            updates: How many updates were made before.
        """
        if self._rows is None:
            return
        rows, self._rows = self._rows, None
        factor = np.float32(multiplier)
        if multiplier != 1.0:
            self._gradient *= factor
            if self._row_squares is not None:
                self._row_squares = self._row_squares * (factor * factor)
        if rows.size:
            self._updater.apply_rows(
                self.weights,
                self.states,
                rows,
                self._gradient,
                learning_rate=self.optimizer.rate_at(updates),
                step=updates + 1,
                row_squares=self._row_squares,
                row_dim=self._spec.dim,
                dtype="bf16" if self._spec.dtype == "bfloat16" else None,
                first_row=self.piece.row_begin,
                first_column=self.piece.column_begin,
            )
        self._gradient = self._gradient[:0]

    def scale(self, share: float) -> None:
        """Multiplies all weights by `share`, rounded to float32.

        Raises:
            ValueError: Weights of 16 bits, in which the small steps of a decay would be lost.
        """
        if self._spec.dtype != "float32":
            raise ValueError(
                f"table {self._spec.name!r} is {self._spec.dtype}: it cannot be scaled"
            )
        np.multiply(self.weights, np.float32(share), out=self.weights)

    def discard_window(self) -> None:
        """Forgets the window."""
        self._window.discard()
        self._rows = None
