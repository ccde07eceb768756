"""What is said of one sharded table: its size, its first values, how it is trained."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from feedfast.bags import Pooling
from feedfast.row_optimizers import RowUpdater, Rule
from feedfast.sharded_tables.initializers import Initializer, Uniform
from feedfast.sharded_tables.weight_format import TableDtype


@dataclass(frozen=True, kw_only=True, slots=True)
class RowOptimization:
    """One rule of `feedfast.row_optimizers` with its options.

    Attributes:
        rule: See `RowUpdater`.
        learning_rate: A number, or a function of the number of updates that are done.
        initial_state: What the states start at; Adagrad's accumulator usually at 0.1.
        epsilon: Added to the root.
        beta1, beta2: Decay of Adam's moments.
        weight_decay: Of the touched rows.
        weight_decay_mode: "l2" or "decouple".
        max_value: None, or the bound of every element of a window's gradient.
        stochastic_rounding: Of tables of 16 bits; else to nearest even.
        seed: Of the stochastic rounding, a function of it, table, update, row and column.
    """

    rule: Rule = "rowwise_adagrad"
    learning_rate: float | Callable[[int], float] = 0.01
    initial_state: float = 0.0
    epsilon: float = 1e-7
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    weight_decay_mode: Literal["l2", "decouple"] = "l2"
    max_value: float | None = None
    stochastic_rounding: bool = True
    seed: int = 0

    @property
    def is_rowwise(self) -> bool:
        """Does the rule look at whole rows of the gradient?"""
        return self.rule in ("rowwise_adagrad", "rowwise_adam")

    @property
    def rowwise_states(self) -> tuple[bool, ...]:
        """For each state of the rule: has it one number a row?"""
        return {
            "sgd": (),
            "adagrad": (False,),
            "rowwise_adagrad": (True,),
            "adam": (False, False),
            "rowwise_adam": (False, True),
        }[self.rule]

    def updater(self, table: str) -> RowUpdater:
        """The rule, for the table of this name.

        Raises:
            ValueError: An option is unknown or out of its range.
        """
        return RowUpdater(
            self.rule,
            epsilon=self.epsilon,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=self.weight_decay,
            weight_decay_mode=self.weight_decay_mode,
            clipping="none" if self.max_value is None else "value",
            max_gradient=self.max_value or 0.0,
            stochastic_rounding=self.stochastic_rounding,
            # As `fft.layers.PooledEmbedding` of this name has it.
            seed=(self.seed * 1_000_003 + zlib.crc32(table.encode())) % 2**63,
        )

    def rate_at(self, updates: int) -> float:
        """The learning rate after so many updates."""
        rate = self.learning_rate
        return float(rate(updates) if callable(rate) else rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSpec:
    """One table [rows, dim].

    Attributes:
        name: Unique in its model.
        rows: Logical rows, row 0 (out of vocabulary) included.
        dim: Columns.
        pooling: How a bag of rows becomes one vector; see `feedfast.pooled_lookup`.
        optimizer: A `RowOptimization`; in `fft.distributed.ShardedEmbedding` also one of
            `fft.optimizers`.
        initializer: First values.
        dtype: Of the weights: "float32", or "float16" or "bfloat16", in which they also travel.
            Optimizer states, gradients and pooled sums are float32 in any case.
    """

    name: str
    rows: int
    dim: int
    pooling: Pooling = "sum"
    optimizer: Any = field(default_factory=RowOptimization)
    initializer: Initializer = field(default_factory=Uniform)
    dtype: TableDtype = "float32"

    def __post_init__(self) -> None:
        if not self.name or self.rows < 1 or self.dim < 1:
            raise ValueError(
                "a table needs a name, at least 1 row and 1 column; got "
                f"{self.name!r}, {self.rows} and {self.dim}"
            )
        if self.pooling not in get_args(Pooling):
            raise ValueError(
                f"table {self.name!r}: pooling must be one of {', '.join(get_args(Pooling))}; "
                f"got {self.pooling!r}"
            )
        if self.dtype not in get_args(TableDtype):
            raise ValueError(
                f"table {self.name!r}: dtype must be one of {', '.join(get_args(TableDtype))}; "
                f"got {self.dtype!r}"
            )
