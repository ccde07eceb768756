"""Training steps of GatedDense and CrossLayer beside plain Keras layers of the same maths.

One layer of the widths of a request's towers, batch 2048, float32 and mixed bfloat16: the outputs,
and the gradients of input and weights. Both sides hold the same weights and are compared first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

import feedfast.tf as fft
from feedfast.bench import BenchOptions, BenchRow, compare

WIDTH, RANK = 512, 64


class PlainGated(keras.layers.Layer):
    """relu(x W + b) * sigmoid(gate), the gate from one or two Dense layers."""

    def __init__(self, units: int, rank: int | None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(units, "relu", dtype=self.dtype_policy)
        self.down = (
            None
            if rank is None
            else keras.layers.Dense(rank, use_bias=False, dtype=self.dtype_policy)
        )
        self.gate = keras.layers.Dense(units, "sigmoid", dtype=self.dtype_policy)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        h = self.hidden(x)
        return h * self.gate(h if self.down is None else self.down(h))


class PlainCross(keras.layers.Layer):
    """x0 * (x W + b) + x for x = x0, the product from one or two Dense layers."""

    def __init__(self, units: int, rank: int | None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.down = (
            None
            if rank is None
            else keras.layers.Dense(rank, use_bias=False, dtype=self.dtype_policy)
        )
        self.up = keras.layers.Dense(units, dtype=self.dtype_policy)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return x * self.up(x if self.down is None else self.down(x)) + x


def run(options: BenchOptions) -> Iterator[BenchRow]:
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    batch = 256 if options.quick else 2048
    x = tf.constant(np.random.default_rng(1).standard_normal((batch, WIDTH)), tf.float32)
    for precision, policy in (("fp32", "float32"), ("bf16", "mixed_bfloat16")):
        for name, rank in (("full", None), (f"rank={RANK}", RANK)):
            gated = fft.layers.GatedDense(WIDTH, gate_rank=rank, dtype=policy)
            cross = fft.layers.CrossLayer(rank, dtype=policy)
            for kind, ours, peer in (
                ("gated_dense", gated, PlainGated(WIDTH, rank, dtype=policy)),
                ("cross_layer", cross, PlainCross(WIDTH, rank, dtype=policy)),
            ):
                path = f"gated_dense/{kind}/{name}/precision={precision}/batch={batch}"
                yield _step(f"{path}/threads={options.threads}", ours, peer, x, options)


def _step(
    path: str,
    ours: keras.layers.Layer,
    peer: keras.layers.Layer,
    x: tf.Tensor,
    options: BenchOptions,
) -> BenchRow:
    ours(x), peer(x)
    _copy_weights(ours, peer)
    step, peer_step = _train_step(ours, x), _train_step(peer, x)
    for got, want in zip(sorted(map(_size, step())), sorted(map(_size, peer_step())), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4 if "fp32" in path else 2e-2)
    return compare(
        path,
        step,
        peer_step,
        peer_name=f"keras {keras.__version__}",
        unit="ms",
        target=1.0,
        repeats=3 if options.quick else 15,
    )


def _train_step(layer: keras.layers.Layer, x: tf.Tensor) -> Callable[[], list[np.ndarray]]:
    @tf.function
    def function() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.cast(layer(x, training=True) if _trains(layer) else layer(x), tf.float32)
            loss = tf.reduce_sum(tf.square(y))
        return tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])

    return lambda: [gradient.numpy() for gradient in function()]


def _trains(layer: keras.layers.Layer) -> bool:
    return not isinstance(layer, fft.layers.CrossLayer)


def _copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """By role: both list down before what multiplies it, but hidden and gate by name."""
    if isinstance(source, fft.layers.GatedDense):
        target.hidden.set_weights([source.weight.numpy(), source.bias.numpy()])
        target.gate.set_weights([source.gate_weight.numpy(), source.gate_bias.numpy()])
        down = source.gate_down
    else:
        target.up.set_weights([source.weight.numpy(), source.bias.numpy()])
        down = source.down
    if down is not None:
        target.down.set_weights([down.numpy()])


def _size(gradient: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(gradient, dtype=np.float64)))
