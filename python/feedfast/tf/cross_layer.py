"""Cross layer of DCN V2 for Keras."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

__all__ = ["CrossLayer"]


@keras.saving.register_keras_serializable(package="feedfast")
class CrossLayer(keras.layers.Layer):  # type: ignore[misc]
    """One layer of a cross network: `y = x0 * (x @ weight + bias) + x`.

    DCN V2 (arXiv:2008.13535, eq. 1), with a full matrix or, with a `rank`, a product of two factors
    (eq. 2): `y = x0 * (x @ down @ weight + bias) + x`. x0 is the input of the network, x the output
    of the layer before; n layers make products of up to n + 1 inputs. All of x0, x and y have the
    same shape; the last axis is the vector, other axes are batch axes.

    The matrix products are TensorFlow's own, forward and backward: both sides are bound by the same
    multiply-add units, and what is left is a single pass over the output (`feedfast bench mlp`).
    Works under mixed-precision policies.

    Args:
        rank: Columns of `down`; None for a full matrix.
        kernel_initializer: Initializer of `weight`.
        down_initializer: Initializer of `down`.
        bias_initializer: Initializer of `bias`.
        kernel_regularizer: Regularizer of `weight` and `down`.
        **kwargs: As for any Keras layer.

    Raises:
        ValueError: `rank` is below 1.
    """

    def __init__(
        self,
        rank: int | None = None,
        *,
        kernel_initializer: Any = "glorot_uniform",
        down_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if rank is not None and rank < 1:
            raise ValueError(f"rank must be at least 1; got {rank}")
        self.rank = rank
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.down_initializer = keras.initializers.get(down_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.down: Any = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights for vectors of this shape; the last axis must be known."""
        width = input_shape[-1]
        if width is None:
            raise ValueError(f"{self.name}: the last axis of the input must be known")
        source = width
        if self.rank is not None:
            self.down = self.add_weight(
                shape=(width, self.rank),
                initializer=self.down_initializer,
                regularizer=self.kernel_regularizer,
                name="down",
            )
            source = self.rank
        self.weight = self.add_weight(
            shape=(source, width),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            name="weight",
        )
        self.bias = self.add_weight(shape=(width,), initializer=self.bias_initializer, name="bias")

    def call(self, x0: tf.Tensor, x: tf.Tensor | None = None) -> tf.Tensor:
        """Applies the layer.

        Args:
            x0: [..., width], the input of the network.
            x: [..., width], the output of the layer before; None in the first layer: x0.

        Raises:
            ValueError: The two shapes differ.
        """
        x = x0 if x is None else x
        if x0.shape.rank != x.shape.rank or not x0.shape.is_compatible_with(x.shape):
            raise ValueError(f"{self.name}: x0 has shape {x0.shape} and x {x.shape}; must be equal")
        weight, bias = tf.convert_to_tensor(self.weight), tf.convert_to_tensor(self.bias)
        rows = x if x.shape.rank == 2 else tf.reshape(x, [-1, x.shape[-1]])
        if self.down is not None:
            rows = tf.matmul(rows, tf.convert_to_tensor(self.down))
        crossed = tf.nn.bias_add(tf.matmul(rows, weight), bias)
        if x.shape.rank != 2:
            crossed = tf.reshape(crossed, tf.shape(x))
        return x0 * crossed + x

    def compute_output_shape(
        self, x0_shape: tuple[int | None, ...], x_shape: tuple[int | None, ...] | None = None
    ) -> tuple[int | None, ...]:
        """The shape of x0."""
        return x0_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, ready for JSON."""
        return {
            **super().get_config(),
            "rank": self.rank,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "down_initializer": keras.initializers.serialize(self.down_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }
