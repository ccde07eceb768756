"""Updates of the rows of a batch in place, on variables: the ops beneath `fft.optimizers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import keras
import tensorflow as tf

from feedfast.tf import _library
from feedfast.tf._handles import handle_of
from feedfast.tf.pooled_lookup import Pooling

Rule = Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "rowwise_adam"]
Clipping = Literal["none", "value", "row_norm", "norm"]
WeightDecayMode = Literal["l2", "decouple"]

_DTYPES = (tf.float32, tf.float16, tf.bfloat16)

# State variables of each rule: name, and whether there is one number a row instead of a row.
STATES: dict[Rule, tuple[tuple[str, bool], ...]] = {
    "sgd": (),
    "adagrad": (("accumulator", False),),
    "rowwise_adagrad": (("accumulator", True),),
    "adam": (("momentum", False), ("velocity", False)),
    "rowwise_adam": (("momentum", False), ("velocity", True)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRule:
    """How a touched row follows its gradient; cpp/embedding_kernels/row_optimizer.h has formulas.

    Attributes:
        rule: "sgd", "adagrad", "rowwise_adagrad", "adam" or "rowwise_adam".
        epsilon: Added to the root of the accumulated squares; above 0.
        beta1, beta2: Decay of Adam's moments.
        weight_decay: Of the touched rows alone.
        weight_decay_mode: "l2" adds it to the gradient, "decouple" shrinks the weights.
        clipping: Of the summed gradient: "value" of each element, "row_norm" of each row, "norm" of
            all rows together.
        max_gradient: The bound of the clipping.
        stochastic_rounding: Of float16 and bfloat16 tables; else they round to nearest even.
        seed: Of the stochastic rounding.
    """

    rule: Rule
    epsilon: float = 1e-7
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    weight_decay_mode: WeightDecayMode = "l2"
    clipping: Clipping = "none"
    max_gradient: float = 0.0
    stochastic_rounding: bool = True
    seed: int = 0


def row_update(
    table: Any,
    states: Sequence[Any],
    rows: Any,
    values: Any,
    *,
    rule: RowRule,
    learning_rate: Any,
    step: Any,
    name: str | None = None,
) -> Any:
    """Applies `rule` to rows of a variable in place, under its lock and those of its states.

    Rows that repeat are summed first. No other row is read or written, and the variable does not
    enter copy-on-read mode; it is copied only if somebody holds its value.

    Args:
        table: Variable (of TensorFlow or Keras) [num_rows, ...], float32, float16 or bfloat16.
        states: The float32 variables of the rule, `[num_rows, ...]` or, row-wise, `[num_rows]`.
        rows: [n] integer rows.
        values: [n, ...] their gradients.
        rule: The rule and its options.
        learning_rate: Scalar.
        step: Scalar, counts the updates from 1.
        name: Name of the op.

    Returns:
        The operation, or None in eager mode.

    Raises:
        TypeError: The table has another dtype.
        tf.errors.InvalidArgumentError: A row is not one of the table, shapes do not fit or an
            option is out of its range; nothing was written then.
    """
    variable = as_variable(table)
    return _library.ops().feedfast_row_update(
        table=handle_of(variable),
        states=[handle_of(as_variable(state)) for state in states],
        rows=tf.cast(rows, tf.int64),
        values=tf.cast(values, tf.float32),
        learning_rate=tf.cast(learning_rate, tf.float32),
        step=tf.cast(step, tf.int64),
        dtype=variable.dtype,
        name=name,
        **asdict(rule),
    )


def update_in_backward(
    pooled: Any,
    trigger: Any,
    table: Any,
    states: Sequence[Any],
    values: Any,
    offsets: Any,
    weights: Any,
    *,
    pooling: Pooling,
    rule: RowRule,
    learning_rate: Any,
    step: Any,
) -> tf.Tensor:
    """`pooled` as it is; differentiating by `trigger` applies `rule` to the rows of the batch.

    Args:
        pooled: [num_bags, dim], what `pooled_lookup` gave for these bags.
        trigger: Scalar that a tape watches; its gradient is 0.
        table, states: As in `row_update`.
        values, offsets, weights, pooling: As in `pooled_lookup`.
        rule, learning_rate: As in `row_update`.
        step: int64 variable that counts the updates.
    """
    variable = as_variable(table)
    output: tf.Tensor = _library.ops().feedfast_update_in_backward(
        pooled=pooled,
        trigger=trigger,
        table=handle_of(variable),
        states=[handle_of(as_variable(state)) for state in states],
        values=tf.cast(values, tf.int64),
        offsets=tf.cast(offsets, tf.int64),
        weights=[] if weights is None else [tf.cast(weights, tf.float32)],
        learning_rate=tf.cast(learning_rate, tf.float32),
        step=handle_of(step.value if isinstance(step, keras.Variable) else step),
        pooling=pooling,
        dtype=variable.dtype,
        **asdict(rule),
    )
    return output


@tf.RegisterGradient("FeedfastUpdateInBackward")  # type: ignore[untyped-decorator]
def _update_in_backward_grad(op: Any, grad: Any) -> list[Any]:
    num_states = op.get_attr("num_states")
    num_weights = op.get_attr("num_weights")
    pooled, _, table, *rest = op.inputs
    states = rest[:num_states]
    values, offsets, *rest = rest[num_states:]
    weights = rest[:num_weights]
    learning_rate, step = rest[num_weights:]
    grad = tf.convert_to_tensor(grad)
    dtype = op.get_attr("dtype")
    pooling = op.get_attr("pooling")
    by_weights = [
        # Before the update: with the rows that the forward pass read.
        _library.ops().feedfast_pooled_lookup_weights_grad(
            table, values, offsets, weight, pooled, grad, pooling=pooling, dtype=dtype
        )
        for weight in weights
    ]
    with tf.control_dependencies(by_weights):
        trigger_grad = _library.ops().feedfast_pooled_row_update(
            table=table,
            states=states,
            grad=grad,
            values=values,
            offsets=offsets,
            weights=weights,
            learning_rate=learning_rate,
            step=step,
            pooling=pooling,
            dtype=dtype,
            **{name: op.get_attr(name) for name in RowRule.__dataclass_fields__},
        )
    nothing = [None] * (1 + num_states)
    return [None, trigger_grad, *nothing, None, None, *by_weights, None, None]


def assign_rows(variable: Any, rows: Any, values: Any) -> Any:
    """Writes `values` [n, ...] to rows of a variable in place, in the order given.

    Unlike `scatter_update` of TensorFlow it leaves the variable out of copy-on-read mode.

    Raises:
        tf.errors.InvalidArgumentError: A row is not one of the variable, or shapes do not fit.
    """
    if isinstance(variable, keras.Variable):
        variable = variable.value
    return _library.ops().feedfast_assign_rows(
        variable=handle_of(variable),
        rows=tf.cast(rows, tf.int64),
        values=tf.cast(values, variable.dtype),
    )


def as_variable(table: Any) -> Any:
    """The tf.Variable of a trainable table or state."""
    variable = table.value if isinstance(table, keras.Variable) else table
    if not isinstance(variable, tf.Variable) or variable.dtype not in _DTYPES:
        allowed = ", ".join(dtype.name for dtype in _DTYPES)
        raise TypeError(
            f"rows are updated in variables of {allowed}; got {type(table).__name__} of "
            f"{getattr(variable, 'dtype', 'no dtype')}"
        )
    return variable
