"""Keras optimizers whose sparse step touches only the rows of the batch (`fft.optimizers`).

For a gradient that is an `IndexedSlices`, as embedding lookups give it, they sum the slices of each
row and update that row and its states in place, in one pass. A dense gradient follows the same
rule on all rows. A variable of rank 0 or 1 counts as rows of one element.

Moments are lazy: a row that a step does not touch keeps its weights and states, where Keras' Adam
would decay its moments and move it on. Weight decay too counts only the steps that touch a row.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import keras
import tensorflow as tf

from feedfast.tf.growable_variable import GrowableVariable, add_growable, filled
from feedfast.tf.row_update import (
    STATES,
    Clipping,
    RowRule,
    Rule,
    WeightDecayMode,
    assign_rows,
    row_update,
)

_REFUSED = {
    "global_clipnorm": (
        "Keras multiplies every gradient by the norm of all, which makes sparse ones dense; use "
        "clipnorm, clipvalue or row_clipnorm, which clip the summed rows of one table"
    ),
    "gradient_accumulation_steps": (
        "Keras keeps a dense sum of the size of every table; use larger batches, or sum slices "
        "outside and call fft.ops.row_update once"
    ),
    "loss_scale_factor": (
        "Keras cannot divide sparse gradients; use bfloat16, which needs no scaling, or divide "
        "the gradients before apply_gradients"
    ),
    "weight_decay": (
        "Keras shrinks every row of a table in every step; use row_weight_decay, for the rows of "
        "the batch"
    ),
    "use_ema": "Keras averages every row of a table in every step; average the dense variables",
}


class RowOptimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """What the optimizers of this module share; see there.

    Under the policy `mixed_float16` Keras wraps the optimizer in a LossScaleOptimizer, which looks
    for infinities with a bool for every element of every table; prefer `mixed_bfloat16`.

    Args:
        learning_rate: Float, schedule or callable, as in Keras.
        clipnorm: Largest norm of the gradient of one variable, its touched rows together.
        clipvalue: Largest absolute value of one element of the summed gradient.
        row_clipnorm: Largest norm of one row of the summed gradient.
        row_weight_decay: Weight decay of the touched rows.
        weight_decay_mode: "l2": `g += decay * w`; "decouple": `w -= learning_rate * decay * w`.
        stochastic_rounding: Of float16 and bfloat16 variables: up or down at random, right in the
            mean, so that small updates are not lost. A function of seed, step, row and column.
        seed: Of the stochastic rounding.
        name: Of the optimizer.
        **kwargs: Options of Keras that need no dense gradient.

    Raises:
        ValueError: An option makes Keras turn sparse gradients into dense ones, or clipping is
            asked for in more than one way.
    """

    rule: ClassVar[Rule]

    def __init__(
        self,
        learning_rate: Any,
        *,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        row_clipnorm: float | None = None,
        row_weight_decay: float = 0.0,
        weight_decay_mode: WeightDecayMode = "l2",
        stochastic_rounding: bool = True,
        seed: int = 0,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        for option, reason in _REFUSED.items():
            value = kwargs.get(option)
            # Keras compares with None: a weight_decay of 0.0 walks the table too.
            if value is not None and value is not False:
                raise ValueError(
                    f"{type(self).__name__} does not take {option}={value!r}: {reason}"
                )
        bounds = {"norm": clipnorm, "value": clipvalue, "row_norm": row_clipnorm}
        chosen = {kind: bound for kind, bound in bounds.items() if bound is not None}
        if len(chosen) > 1:
            raise ValueError(
                "at most one of clipnorm, clipvalue and row_clipnorm can be set; got "
                f"{clipnorm}, {clipvalue} and {row_clipnorm}"
            )
        if any(bound <= 0 for bound in chosen.values()):
            raise ValueError(f"a clipping bound must be above 0; got {next(iter(chosen.values()))}")
        if row_weight_decay < 0:
            raise ValueError(f"row_weight_decay must be at least 0; got {row_weight_decay}")
        if weight_decay_mode not in ("l2", "decouple"):
            raise ValueError(
                f"weight_decay_mode must be one of 'l2', 'decouple'; got {weight_decay_mode!r}"
            )
        super().__init__(
            learning_rate=learning_rate,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            name=name,
            **kwargs,
        )
        self.row_clipnorm = row_clipnorm
        self.row_weight_decay = float(row_weight_decay)
        self.weight_decay_mode = weight_decay_mode
        self.stochastic_rounding = bool(stochastic_rounding)
        self.seed = int(seed)
        self._clipping: tuple[Clipping, float] = ("none", 0.0)
        for kind, bound in chosen.items():
            self._clipping = (kind, float(bound))  # type: ignore[assignment]

    def row_rule(self, *, stream: int = 0) -> RowRule:
        """The rule for `row_update`; `stream` sets the random numbers of one table apart."""
        clipping, max_gradient = self._clipping
        return RowRule(
            rule=self.rule,
            weight_decay=self.row_weight_decay,
            weight_decay_mode=self.weight_decay_mode,
            clipping=clipping,
            max_gradient=max_gradient,
            stochastic_rounding=self.stochastic_rounding,
            seed=(self.seed * 1_000_003 + stream) % 2**63,
            **self._rule_options(),
        )

    def _rule_options(self) -> dict[str, float]:
        return {}

    def rate_at(self, step: Any) -> Any:
        """The learning rate after `step` steps, for rates that are schedules or callables."""
        rate = self._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return rate(step)
        return rate() if callable(rate) else rate

    @property
    def initial_state(self) -> float:
        """What states start at."""
        return 0.0

    def build(self, variables: list[Any]) -> None:
        """Creates the states, float32 whatever the dtype of the variables."""
        if self.built:
            return
        super().build(variables)
        self._states: list[list[Any]] = []
        for variable in variables:
            value = variable.value if isinstance(variable, keras.Variable) else variable
            path = getattr(variable, "path", variable.name).replace("/", "_").replace(":", "_")
            add = self.add_variable
            if isinstance(variable, GrowableVariable):
                add = functools.partial(add_growable, self, trainable=False)
            with self._distribution_strategy.extended.colocate_vars_with(value):
                self._states.append(
                    [
                        add(
                            shape=state_shape(variable.shape, rowwise=rowwise),
                            initializer=filled(self.initial_state),
                            dtype="float32",
                            name=f"{path}_{name}",
                        )
                        for name, rowwise in STATES[self.rule]
                    ]
                )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable; sparse gradients touch their rows alone."""
        index = self._get_variable_index(variable)
        if isinstance(gradient, tf.IndexedSlices):
            rows, values = gradient.indices, gradient.values
        else:
            values = tf.convert_to_tensor(gradient)
            rows = tf.range(variable.shape[0] if variable.shape.rank else 1, dtype=tf.int64)
        row_update(
            variable,
            self._states[index],
            rows,
            values,
            rule=self.row_rule(stream=index),
            learning_rate=learning_rate,
            step=tf.cast(self._iterations.value, tf.int64) + 1,
        )

    def _clip_gradients(self, grads: Any) -> Any:
        return grads  # clipped by the op, after the slices of a row are summed

    def grow_states(self, variable: Any, num_rows: int) -> None:
        """Appends rows in their initial states to those of a table of `PooledEmbedding`.

        Args:
            variable: The table, a GrowableVariable that the optimizer was built with.
            num_rows: How many rows there are afterwards.
        """
        for state in self._states[self._get_variable_index(variable.value)]:
            state.grow_to(num_rows, fill=self.initial_state)

    def reset_rows(self, variable: Any, rows: Any) -> None:
        """Gives the states of rows of a variable their initial values, as for new rows.

        Args:
            variable: A variable that the optimizer was built with.
            rows: [n] integer rows.
        """
        if isinstance(variable, keras.Variable):
            variable = variable.value
        states = self._states[self._get_variable_index(variable)]
        reset_states(states, rows, self.initial_state)

    def load_own_variables(self, store: Any) -> None:
        """Loads states from a file of Keras; those of a table that was larger then grow."""
        names = set(store.keys())
        for i, variable in enumerate(self.variables):
            if isinstance(variable, GrowableVariable) and str(i) in names:
                variable.grow_to(len(store[str(i)]), fill=self.initial_state)
        super().load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        """Everything `from_config` needs."""
        return {
            **super().get_config(),
            "row_clipnorm": self.row_clipnorm,
            "row_weight_decay": self.row_weight_decay,
            "weight_decay_mode": self.weight_decay_mode,
            "stochastic_rounding": self.stochastic_rounding,
            "seed": self.seed,
        }


def state_shape(shape: Any, *, rowwise: bool) -> tuple[int, ...]:
    """Shape of a state of a variable of this shape."""
    sizes = tuple(int(size) for size in shape)
    return sizes[:1] if rowwise else sizes


def reset_states(states: list[Any], rows: Any, value: float) -> None:
    """Fills `rows` [n] of states with `value`."""
    rows = tf.convert_to_tensor(rows)
    for state in states:
        assign_rows(state, rows, tf.fill([tf.shape(rows)[0], *state.shape[1:]], value))


@keras.saving.register_keras_serializable(package="feedfast")
class SparseSGD(RowOptimizer):
    """`w -= learning_rate * g` on the rows of the batch.

    Args:
        learning_rate: Float, schedule or callable.
        **kwargs: Of every optimizer here: clipnorm, clipvalue, row_clipnorm, row_weight_decay,
            weight_decay_mode, stochastic_rounding, seed, name.
    """

    rule = "sgd"

    def __init__(self, learning_rate: Any = 0.01, **kwargs: Any) -> None:
        super().__init__(learning_rate, **kwargs)


class _AdagradOptimizer(RowOptimizer):
    def __init__(
        self,
        learning_rate: Any = 0.001,
        *,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        if initial_accumulator_value < 0 or epsilon <= 0:
            raise ValueError(
                "initial_accumulator_value must be at least 0 and epsilon above 0; got "
                f"{initial_accumulator_value} and {epsilon}"
            )
        super().__init__(learning_rate, **kwargs)
        self.initial_accumulator_value = float(initial_accumulator_value)
        self.epsilon = float(epsilon)

    def _rule_options(self) -> dict[str, float]:
        return {"epsilon": self.epsilon}

    @property
    def initial_state(self) -> float:
        return self.initial_accumulator_value

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable(package="feedfast")
class SparseAdagrad(_AdagradOptimizer):
    """`a += g^2; w -= learning_rate * g / (sqrt(a) + epsilon)` on the rows of the batch.

    The rule of `tf.raw_ops.ResourceSparseApplyAdagradV2`; Keras has epsilon beneath the root.

    Args:
        learning_rate: Float, schedule or callable.
        initial_accumulator_value: What `a` starts at.
        epsilon: Added to the root.
        **kwargs: As for `SparseSGD`.
    """

    rule = "adagrad"


@keras.saving.register_keras_serializable(package="feedfast")
class RowwiseAdagrad(_AdagradOptimizer):
    """Adagrad with one accumulator a row: `a += mean(g^2)`; EXACT_ROWWISE_ADAGRAD of FBGEMM.

    The state is 1 / dim of the table. Args: as for `SparseAdagrad`.
    """

    rule = "rowwise_adagrad"


class _AdamOptimizer(RowOptimizer):
    def __init__(
        self,
        learning_rate: Any = 0.001,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1) or epsilon <= 0:
            raise ValueError(
                "beta_1 and beta_2 must be in [0, 1) and epsilon above 0; got "
                f"{beta_1}, {beta_2} and {epsilon}"
            )
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)

    def _rule_options(self) -> dict[str, float]:
        return {"beta1": self.beta_1, "beta2": self.beta_2, "epsilon": self.epsilon}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable(package="feedfast")
class SparseAdam(_AdamOptimizer):
    """Adam with lazy moments: Keras' `Adam` for the rows of the batch, nothing for the others.

    The bias correction counts the steps of the optimizer, not those of the row. Where every step
    touches every row the two agree.

    Args:
        learning_rate: Float, schedule or callable.
        beta_1, beta_2: Decay of the moments.
        epsilon: Added to the root, as in Keras.
        **kwargs: As for `SparseSGD`.
    """

    rule = "adam"


@keras.saving.register_keras_serializable(package="feedfast")
class RowwiseAdam(_AdamOptimizer):
    """Lazy Adam with one second moment a row, of `mean(g^2)`; PARTIAL_ROWWISE_ADAM of FBGEMM.

    Args: as for `SparseAdam`.
    """

    rule = "rowwise_adam"
