"""Gated dense layer for TensorFlow: the op of the native kernel and the Keras layer on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from feedfast.gated_mlp import GatedLayer
from feedfast.tf import _library

__all__ = ["GatedDense", "gated_dense"]

Gate = Literal["hidden", "input"]
Activation = Literal["relu", "linear"]


def _compose(
    x: tf.Tensor,
    weight: tf.Tensor,
    bias: tf.Tensor,
    gate_arrays: Sequence[tf.Tensor],
    gate: str,
    activation: str,
) -> tf.Tensor:
    """The layer from TensorFlow's own ops; shapes and names as in `FeedfastGatedDense`."""
    h = tf.nn.bias_add(tf.matmul(x, weight), bias)
    if activation == "relu":
        h = tf.nn.relu(h)
    if gate == "none":
        return h
    *factors, gate_bias = gate_arrays
    logits = h if gate == "hidden" else x
    for factor in factors:
        logits = tf.matmul(logits, factor)
    return h * tf.sigmoid(tf.nn.bias_add(logits, gate_bias))


def _run_op(
    x: tf.Tensor,
    weight: tf.Tensor,
    bias: tf.Tensor,
    gate_arrays: Sequence[tf.Tensor],
    gate: str,
    activation: str,
    name: str | None = None,
) -> tf.Tensor:
    y: tf.Tensor = _library.ops().feedfast_gated_dense(
        x, weight, bias, gate_arrays, gate=gate, activation=activation, name=name
    )
    return y


@tf.RegisterGradient("FeedfastGatedDense")  # type: ignore[untyped-decorator]
def _gated_dense_grad(op: tf.Operation, dy: tf.Tensor) -> list[tf.Tensor]:
    """Runs the layer again from TensorFlow's own ops and differentiates those."""
    inputs = list(op.inputs)
    gate, activation = (tf.compat.as_str(op.get_attr(name)) for name in ("gate", "activation"))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        x, weight, bias, *gate_arrays = inputs
        y = _compose(x, weight, bias, gate_arrays, gate, activation)
    gradients: list[tf.Tensor] = tape.gradient(y, inputs, output_gradients=dy)
    return gradients


def gated_dense(
    x: tf.Tensor,
    weight: tf.Tensor,
    bias: tf.Tensor,
    gate_weight: tf.Tensor | tuple[tf.Tensor, tf.Tensor] | None = None,
    gate_bias: tf.Tensor | None = None,
    *,
    gate: Gate | None = None,
    activation: Activation = "relu",
    name: str | None = None,
) -> tf.Tensor:
    """One gated dense layer on the native kernel, with the bits of `feedfast.GatedMLP`.

    The formula and the shapes are those of `feedfast.GatedLayer`. A row's bits depend on the row,
    the weights and the CPU target alone. The kernel packs the weights once for each value that a
    variable takes. The gradient keeps no activations: it runs the layer a second time from
    TensorFlow's own ops and differentiates those.

    Args:
        x: [batch, in] float32.
        weight: [in, out] float32.
        bias: [out] float32.
        gate_weight: [out, out] (hidden gate) or [in, out] (input gate), or a pair of factors.
        gate_bias: [out].
        gate: `hidden`, `input` or None.
        activation: `relu` or `linear`.
        name: Name of the op.

    Returns:
        [batch, out] float32.

    Raises:
        ValueError: Gate arrays are given without a gate or are missing with one.
        tf.errors.InvalidArgumentError: Shapes do not fit (ValueError inside a `tf.function`).
    """
    if (gate is None) != (gate_weight is None) or (gate is None) != (gate_bias is None):
        raise ValueError(
            f"gate={gate!r}: gate_weight and gate_bias are needed with a gate, and only then"
        )
    gate_arrays: list[tf.Tensor] = []
    if gate_weight is not None:
        factors = gate_weight if isinstance(gate_weight, tuple) else (gate_weight,)
        gate_arrays = [*factors, gate_bias]
    return _run_op(x, weight, bias, gate_arrays, gate or "none", activation, name)


@keras.saving.register_keras_serializable(package="feedfast")
class GatedDense(keras.layers.Layer):  # type: ignore[misc]
    """Dense layer whose output is multiplied by a sigmoid gate.

    `h = activation(x @ weight + bias)`, `y = h * sigmoid(s @ gate_weight + gate_bias)` with s = h
    (`gate="hidden"`, GateNet, arXiv:2007.03519) or s = x (`gate="input"`, GLU, arXiv:1612.08083);
    `y = h` without a gate. The last axis of the input is x; other axes are batch axes.

    In training (`training=True`) the layer runs TensorFlow's own matrix products, forward and
    backward: in float32 both sides are bound by the same multiply-add units, and TensorFlow can
    keep the activations that the backward pass needs (`feedfast bench mlp` has the figures). Else
    it runs `fft.ops.gated_dense`, whose bits are those of `feedfast.GatedMLP` and the scorer. The
    two agree to 1e-5 relative to the largest output. Under a mixed-precision policy TensorFlow's
    products are used throughout, because the kernel is float32.

    Args:
        units: Outputs.
        gate: `hidden`, `input` or None.
        activation: `relu` or `linear` (None means linear).
        gate_rank: Rank of a factored gate matrix; None for a full one.
        kernel_initializer: Initializer of `weight`.
        bias_initializer: Initializer of `bias`.
        gate_initializer: Initializer of `gate_weight`.
        gate_down_initializer: Initializer of `gate_down`, which a rank makes.
        gate_bias_initializer: Initializer of `gate_bias`.
        kernel_regularizer: Regularizer of `weight`.
        gate_regularizer: Regularizer of `gate_weight` and `gate_down`.
        **kwargs: As for any Keras layer.

    Raises:
        ValueError: `units` or `gate_rank` is below 1, a name is unknown, or `gate_rank` is given
            without a gate.
    """

    def __init__(
        self,
        units: int,
        gate: Gate | None = "hidden",
        activation: Activation | None = "relu",
        *,
        gate_rank: int | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        gate_initializer: Any = "glorot_uniform",
        gate_down_initializer: Any = "glorot_uniform",
        gate_bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        gate_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"units must be at least 1; got {units}")
        if gate not in ("hidden", "input", None):
            raise ValueError(f"gate must be 'hidden', 'input' or None; got {gate!r}")
        if activation not in ("relu", "linear", None):
            raise ValueError(f"activation must be 'relu', 'linear' or None; got {activation!r}")
        if gate_rank is not None and gate is None:
            raise ValueError("gate_rank needs gate='hidden' or gate='input'")
        if gate_rank is not None and gate_rank < 1:
            raise ValueError(f"gate_rank must be at least 1; got {gate_rank}")
        self.units = int(units)
        self.gate: Gate | None = gate
        self.activation: Activation = activation or "linear"
        self.gate_rank = gate_rank
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.gate_initializer = keras.initializers.get(gate_initializer)
        self.gate_down_initializer = keras.initializers.get(gate_down_initializer)
        self.gate_bias_initializer = keras.initializers.get(gate_bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.gate_regularizer = keras.regularizers.get(gate_regularizer)
        self.gate_down: Any = None
        self.gate_weight: Any = None
        self.gate_bias: Any = None
        self.supports_jit = False  # the op has no XLA kernel

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights for inputs of this shape; the last axis must be known."""
        num_inputs = input_shape[-1]
        if num_inputs is None:
            raise ValueError(f"{self.name}: the last axis of the input must be known")
        self.weight = self.add_weight(
            shape=(num_inputs, self.units),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            name="weight",
        )
        self.bias = self.add_weight(
            shape=(self.units,), initializer=self.bias_initializer, name="bias"
        )
        if self.gate is None:
            return
        source = self.units if self.gate == "hidden" else num_inputs
        if self.gate_rank is not None:
            self.gate_down = self.add_weight(
                shape=(source, self.gate_rank),
                initializer=self.gate_down_initializer,
                regularizer=self.gate_regularizer,
                name="gate_down",
            )
            source = self.gate_rank
        self.gate_weight = self.add_weight(
            shape=(source, self.units),
            initializer=self.gate_initializer,
            regularizer=self.gate_regularizer,
            name="gate_weight",
        )
        self.gate_bias = self.add_weight(
            shape=(self.units,), initializer=self.gate_bias_initializer, name="gate_bias"
        )

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Applies the layer: [..., in] to [..., units]."""
        x = inputs if inputs.shape.rank == 2 else tf.reshape(inputs, [-1, inputs.shape[-1]])
        gate_arrays = [
            tf.convert_to_tensor(array)
            for array in (self.gate_down, self.gate_weight, self.gate_bias)
            if array is not None
        ]
        run = _compose if training or self.compute_dtype != "float32" else _run_op
        y = run(
            x,
            tf.convert_to_tensor(self.weight),
            tf.convert_to_tensor(self.bias),
            gate_arrays,
            gate=self.gate or "none",
            activation=self.activation,
        )
        if inputs.shape.rank == 2:
            return y
        return tf.reshape(y, tf.concat([tf.shape(inputs)[:-1], [self.units]], axis=0))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """[..., in] to [..., units]."""
        return (*input_shape[:-1], self.units)

    def gated_layer(self) -> GatedLayer:
        """A copy of the layer's weights for `feedfast.GatedMLP` and the model store."""
        up = None if self.gate_weight is None else self.gate_weight.numpy()
        return GatedLayer(
            self.weight.numpy(),
            self.bias.numpy(),
            up if up is None or self.gate_down is None else (self.gate_down.numpy(), up),
            None if self.gate_bias is None else self.gate_bias.numpy(),
            self.gate,
            self.activation,
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, ready for JSON."""
        return {
            **super().get_config(),
            "units": self.units,
            "gate": self.gate,
            "activation": self.activation,
            "gate_rank": self.gate_rank,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "gate_initializer": keras.initializers.serialize(self.gate_initializer),
            "gate_down_initializer": keras.initializers.serialize(self.gate_down_initializer),
            "gate_bias_initializer": keras.initializers.serialize(self.gate_bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "gate_regularizer": keras.regularizers.serialize(self.gate_regularizer),
        }
