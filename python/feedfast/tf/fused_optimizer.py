"""An optimizer inside the backward pass of one table, for `PooledEmbedding(fused_optimizer=...)`.

The layer's output passes through an op whose gradient function updates the table. It runs when a
tape differentiates by the `trigger`, a trainable scalar whose gradient is 0; the table itself is
not trainable in the eyes of Keras, so no gradient of it exists and no other optimizer sees it.
"""

from __future__ import annotations

import zlib
from typing import Any

import keras
import tensorflow as tf

from feedfast.tf.growable_variable import add_growable, filled
from feedfast.tf.optimizers import RowOptimizer, reset_states, state_shape
from feedfast.tf.pooled_lookup import Pooling
from feedfast.tf.row_update import STATES, update_in_backward


class FusedOptimizer:
    """The states of one table and the op that updates it; the layer owns the variables.

    Args:
        optimizer: One of `fft.optimizers`, or its serialised form. It is a description: its own
            iterations do not advance, and one may be given to many layers.

    Raises:
        ValueError: It is another optimizer.
    """

    def __init__(self, optimizer: Any) -> None:
        if isinstance(optimizer, dict):
            optimizer = keras.saving.deserialize_keras_object(optimizer)
        if not isinstance(optimizer, RowOptimizer):
            raise ValueError(
                "fused_optimizer must be one of fft.optimizers; got "
                f"{type(optimizer).__name__}, whose rule is not built into the backward op"
            )
        self.optimizer = optimizer
        # Read here, where the value of the learning rate is at hand: build may run in a trace.
        self._config: dict[str, Any] = keras.saving.serialize_keras_object(optimizer)

    def build(self, layer: Any, shape: tuple[int, int]) -> None:
        """Adds trigger, learning rate, step and states for a table of `shape` to `layer`."""
        refuse_replicas()
        self._rule = self.optimizer.row_rule(stream=zlib.crc32(layer.name.encode()))
        self.trigger = layer.add_weight(
            name="fused_trigger", shape=(), initializer="zeros", dtype="float32", autocast=False
        )
        self.step = layer.add_weight(
            name="fused_step", shape=(), initializer="zeros", dtype="int64", trainable=False
        )
        rate = self._config["config"]["learning_rate"]
        self.learning_rate = None
        if isinstance(rate, float):
            self.learning_rate = layer.add_weight(
                name="fused_learning_rate",
                shape=(),
                initializer=keras.initializers.Constant(rate),
                dtype="float32",
                trainable=False,
                autocast=False,
            )
        self.states = [
            add_growable(
                layer,
                name=f"fused_{name}",
                shape=state_shape(shape, rowwise=rowwise),
                initializer=filled(self.optimizer.initial_state),
                dtype="float32",
                trainable=False,
                autocast=False,
            )
            for name, rowwise in STATES[self.optimizer.rule]
        ]
        for variable in (self.trigger, self.step, self.learning_rate, *self.states):
            if variable is not None:  # checkpoints of TensorFlow follow the attributes of the layer
                setattr(layer, variable.name, variable)

    def attach(
        self,
        pooled: Any,
        table: Any,
        values: Any,
        offsets: Any,
        weights: Any,
        *,
        pooling: Pooling,
        model: Any,
    ) -> tf.Tensor:
        """`pooled` [num_bags, dim], whose gradient updates `table`.

        Raises:
            ValueError: The compiled `model` trains in a way that an update in the backward pass
                cannot follow.
        """
        refuse_replicas()
        refuse_optimizer(getattr(model, "optimizer", None))
        rate = self.learning_rate
        if rate is None:
            rate = self.optimizer.rate_at(self.step)
        return update_in_backward(
            pooled,
            tf.convert_to_tensor(self.trigger.value),
            table,
            self.states,
            values,
            offsets,
            weights,
            pooling=pooling,
            rule=self._rule,
            learning_rate=rate,
            step=self.step,
        )

    def reset_rows(self, rows: Any) -> None:
        """Gives the states of `rows` their initial values."""
        reset_states(self.states, rows, self.optimizer.initial_state)

    def grow_states(self, num_rows: int) -> None:
        """Appends rows in their initial states until there are `num_rows`."""
        for state in self.states:
            state.grow_to(num_rows, fill=self.optimizer.initial_state)

    def get_config(self) -> dict[str, Any]:
        """The serialised optimizer."""
        return self._config


def refuse_replicas() -> None:
    """ValueError under a strategy with more than one replica."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas > 1:
        raise ValueError(
            f"fused_optimizer updates the table of one replica; the strategy has {replicas}, whose "
            "tables would drift apart. Use one of fft.optimizers on the model, whose gradients "
            "are summed over replicas"
        )


def refuse_optimizer(optimizer: Any) -> None:
    """ValueError when the optimizer of the model changes gradients in ways a fused update misses.

    Args:
        optimizer: Of the compiled model, or None where there is none. In a training loop of your
            own call this with the optimizer that applies the dense gradients.
    """
    if optimizer is None:
        return
    reason = None
    if getattr(optimizer, "gradient_accumulation_steps", None):
        reason = (
            f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}: the table would "
            "be updated in every micro-step, with a gradient that is not averaged"
        )
    elif getattr(optimizer, "global_clipnorm", None):
        reason = (
            f"global_clipnorm={optimizer.global_clipnorm}: the norm would miss the table, and the "
            "table the clipping"
        )
    elif isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor:
        reason = "loss scaling: the table would be updated with the scaled gradient"
    if reason is not None:
        raise ValueError(
            f"fused_optimizer cannot follow {reason}. Leave fused_optimizer out and use one of "
            "fft.optimizers on the model, or train without that option"
        )
