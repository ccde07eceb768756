"""What a plan has to know of an embedding table: its size, how it is read, how it is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from feedfast.row_optimizers import Rule

Order = Literal["hashed", "frequency"]

ELEMENT_BYTES = (1, 2, 4)
MAX_ZIPF = 4.0
# Far above any table, and the bytes of one still fit 64 bits.
MAX_ROWS = 1 << 40
MAX_DIM = 1 << 16
_STATE_BYTES = 4
# Numbers of state of each column of a row, and of the row.
_STATES: dict[Rule, tuple[int, int]] = {
    "sgd": (0, 0),
    "adagrad": (1, 0),
    "rowwise_adagrad": (0, 1),
    "adam": (2, 0),
    "rowwise_adam": (1, 1),
}

# One part, or an array of many.
Count = TypeVar("Count", int, NDArray[np.int64])


@dataclass(frozen=True, kw_only=True, slots=True)
class TableShape:
    """One embedding table [rows, dim] and how a batch reads it.

    Attributes:
        name: Unique within a plan.
        rows: Logical rows, row 0 (out of vocabulary) included.
        dim: Columns.
        bytes_per_element: Of a stored weight: 4 (float32), 2 (float16, bfloat16) or 1.
        lookups_per_example: Mean number of ids in a bag; below 1 where many examples have none.
        zipf: Exponent s of the ids' frequencies: the k-th most frequent row is read with a
            probability proportional to k**-s; 0 is uniform.
        order: "hashed": rows are in no order of frequency, as a perfect hash gives them;
            "frequency": the most frequent rows come first. Hot rows need the latter.
        optimizer: Rule of `feedfast.row_optimizers.RowUpdater`, for the bytes of its state.
    """

    name: str
    rows: int
    dim: int
    bytes_per_element: int = 4
    lookups_per_example: float = 1.0
    zipf: float = 1.05
    order: Order = "hashed"
    optimizer: Rule = "rowwise_adagrad"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(
                f"a table's name must be a text of at least 1 letter; got {self.name!r}"
            )
        for what, value, highest in (("rows", self.rows, MAX_ROWS), ("dim", self.dim, MAX_DIM)):
            if not 1 <= value <= highest:
                raise ValueError(
                    f"table {self.name!r}: {what} must be in [1, {highest}]; got {value}"
                )
        if self.bytes_per_element not in ELEMENT_BYTES:
            raise ValueError(
                f"table {self.name!r}: bytes_per_element must be one of {ELEMENT_BYTES}; "
                f"got {self.bytes_per_element}"
            )
        if not (math.isfinite(self.lookups_per_example) and self.lookups_per_example >= 0):
            raise ValueError(
                f"table {self.name!r}: lookups_per_example must be finite and >= 0; "
                f"got {self.lookups_per_example}"
            )
        if not 0 <= self.zipf <= MAX_ZIPF:
            raise ValueError(
                f"table {self.name!r}: zipf must be in [0, {MAX_ZIPF:g}]; got {self.zipf}"
            )
        if self.order not in get_args(Order):
            raise ValueError(
                f"table {self.name!r}: order must be one of {', '.join(get_args(Order))}; "
                f"got {self.order!r}"
            )
        if self.optimizer not in get_args(Rule):
            raise ValueError(
                f"table {self.name!r}: optimizer must be one of {', '.join(get_args(Rule))}; "
                f"got {self.optimizer!r}"
            )

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self.rows * self.dim * self.bytes_per_element

    def state_row_bytes(self, columns: Count) -> Count:
        """Bytes of the optimizer's float32 state of one row of a part with `columns` columns."""
        of_column, of_row = _STATES[self.optimizer]
        return _STATE_BYTES * (of_column * columns + of_row)

    def part_bytes(self, rows: Count, columns: Count) -> Count:
        """Bytes of weights and optimizer state of a part [rows, columns]."""
        return rows * (columns * self.bytes_per_element + self.state_row_bytes(columns))
