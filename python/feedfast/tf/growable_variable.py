"""Keras variables whose first dimension may grow: tables of embeddings and their optimizer states.

The variable of TensorFlow behind one has an unknown first dimension, so that graphs which were
traced before it grew go on with it afterwards, and checkpoints of any number of rows restore.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from feedfast.tf._handles import handle_of


class GrowableVariable(keras.Variable):  # type: ignore[misc]
    """A Keras variable [rows, ...]; `shape` is that of its present value.

    Args:
        initializer: A callable of shape and dtype.
        **kwargs: As for `keras.Variable`; `shape` is that of the start.
    """

    def _initialize(self, value: Any) -> None:
        # What keras.Variable does, with a shape.
        self._value = tf.Variable(
            value,
            dtype=self._dtype,
            trainable=self.trainable,
            name=self.name,
            aggregation=self._map_aggregation(self.aggregation),
            synchronization=self._map_synchronization(self.synchronization),
            shape=[None, *self._shape[1:]],
        )

    @property
    def shape(self) -> tf.TensorShape:
        """Of the present value."""
        if self._value is None:
            return super().shape
        with tf.init_scope():
            handle = handle_of(self._value)
            # A variable that a traced function creates gets its value after the trace.
            if not tf.executing_eagerly() or not tf.raw_ops.VarIsInitializedOp(resource=handle):
                return super().shape
            return tf.TensorShape(tf.raw_ops.VariableShape(input=handle).numpy())

    def grow_to(self, num_rows: int, *, fill: float = 0.0) -> None:
        """Appends rows of `fill` until there are `num_rows`; those that are there stay.

        While it runs, old and new value are in memory.

        Raises:
            RuntimeError: Inside a `tf.function`, or there are several replicas.
        """
        if not tf.executing_eagerly():
            raise RuntimeError(
                f"variable {self.path!r} cannot grow inside a tf.function: let it grow between "
                "steps, as a callback of `fit` does"
            )
        if len(getattr(self._value, "values", [self._value])) > 1:
            raise RuntimeError(
                f"variable {self.path!r} cannot grow: it has a copy in each replica. Reserve "
                "`capacity` for tables that are trained by several"
            )
        added = num_rows - self.shape[0]
        if added <= 0:
            return
        value = self._value.read_value()
        paddings = [[0, added]] + [[0, 0]] * (self.ndim - 1)
        self._value.assign(tf.pad(value, paddings, constant_values=tf.cast(fill, value.dtype)))


def add_growable(owner: Any, *, name: str, **kwargs: Any) -> GrowableVariable:
    """`add_weight` of a layer or `add_variable` of an optimizer, growable.

    Args:
        owner: The Keras layer or optimizer, in its `build`.
        name: Of the variable.
        **kwargs: As for `GrowableVariable`.
    """
    with keras.name_scope(owner.name, caller=owner):
        variable = GrowableVariable(name=name, **kwargs)
    owner._track_variable(variable)
    return variable


def filled(value: float) -> Callable[..., tf.Tensor]:
    """An initializer; `keras.initializers.Constant` makes a second tensor of that size."""

    def initialize(shape: Any, dtype: Any = None) -> tf.Tensor:
        return tf.fill(shape, tf.cast(value, dtype or "float32"))

    return initialize
