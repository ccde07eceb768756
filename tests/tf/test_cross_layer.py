from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import feedfast.tf as fft

WIDTH = 7


def make_layer(rank: int | None, width: int = WIDTH, **options: object) -> fft.layers.CrossLayer:
    keras.utils.set_random_seed(3)
    layer = fft.layers.CrossLayer(rank, bias_initializer="random_normal", **options)
    layer.build((None, width))
    return layer


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def oracle(layer: fft.layers.CrossLayer, x0: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Double precision, one row at a time."""
    weight, bias = (v.numpy().astype(np.float64) for v in (layer.weight, layer.bias))
    if layer.down is not None:
        weight = layer.down.numpy().astype(np.float64) @ weight
    return np.array([a * (b @ weight + bias) + b for a, b in zip(x0, x, strict=True)])


@pytest.mark.parametrize("rank", [None, 1, 3])
@pytest.mark.parametrize("batch", [0, 1, 33])
def test_layer_is_the_formula(rank: int | None, batch: int) -> None:
    layer = make_layer(rank)
    x0, x = normal(1, batch, WIDTH), normal(2, batch, WIDTH)
    want = oracle(layer, x0, x).reshape(batch, WIDTH)
    np.testing.assert_allclose(layer(x0, x), want, rtol=1e-5, atol=1e-5)
    first = oracle(layer, x0, x0).reshape(batch, WIDTH)
    np.testing.assert_allclose(layer(x0), first, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [None, 2])
def test_gradient_matches_finite_differences(rank: int | None) -> None:
    layer = make_layer(rank)
    weights = tf.constant(normal(4, 5, WIDTH))

    def loss(x0: tf.Tensor, x: tf.Tensor, *variables: tf.Tensor) -> tf.Tensor:
        y, _ = layer.stateless_call(variables, [], x0, x)
        return tf.reduce_sum(weights * y)

    variables = [tf.convert_to_tensor(v) for v in layer.trainable_variables]
    inputs = [tf.constant(normal(5, 5, WIDTH)), tf.constant(normal(6, 5, WIDTH)), *variables]
    theoretical, numeric = tf.test.compute_gradient(loss, inputs, delta=1e-2)
    assert len(numeric) == 4 + (rank is not None)
    # float32 differences over 2e-2: about 1e-7 / 1e-2 of rounding and 1e-4 of curvature
    for got, want in zip(theoretical, numeric, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-3)


def test_inner_axes_are_batch_axes() -> None:
    layer = make_layer(2)
    x0, x = normal(7, 4, 3, WIDTH), normal(8, 4, 3, WIDTH)
    flat = layer(x0.reshape(12, WIDTH), x.reshape(12, WIDTH))
    np.testing.assert_allclose(layer(x0, x), np.reshape(flat, (4, 3, WIDTH)), rtol=1e-6)


def network() -> keras.Model:
    keras.utils.set_random_seed(8)
    x0 = keras.Input((6,))
    x = fft.layers.CrossLayer(kernel_regularizer="l2")(x0)
    x = fft.layers.CrossLayer(2)(x0, x)
    return keras.Model(x0, fft.layers.GatedDense(1, gate=None, activation=None)(x))


# Keras 3.15 asks TensorFlow for arrays in the old way.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_fits_products_and_saves(tmp_path: pathlib.Path) -> None:
    x = normal(9, 512, 6)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.float32)
    model = network()
    model.compile(
        optimizer=keras.optimizers.Adam(0.02),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=64, epochs=15, verbose=0)
    assert model.evaluate(x, y, verbose=0) < 0.6 * before
    want = model(x).numpy()

    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), want)
    assert [layer.get_config() for layer in again.layers] == [
        layer.get_config() for layer in model.layers
    ]

    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(served.serve(tf.constant(x)), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rank", [None, 2])
def test_mixed_precision_trains_and_predicts(rank: int | None) -> None:
    layer = make_layer(rank, dtype="mixed_bfloat16")
    x0, x = normal(10, 5, WIDTH), normal(11, 5, WIDTH)
    with tf.GradientTape() as tape:
        y = layer(x0, x)
        loss = tf.reduce_sum(tf.cast(y, tf.float32))
    assert y.dtype == tf.bfloat16
    assert layer.weight.dtype == "float32"
    gradients = tape.gradient(loss, [v.value for v in layer.trainable_variables])
    assert all(g.dtype == tf.float32 for g in gradients)
    # bfloat16 has 8 bits of mantissa
    np.testing.assert_allclose(tf.cast(y, tf.float32), oracle(layer, x0, x), rtol=0.05, atol=0.05)


def test_refuses() -> None:
    with pytest.raises(ValueError, match="rank must be at least 1; got 0"):
        fft.layers.CrossLayer(0)
    with pytest.raises(ValueError, match="the last axis of the input must be known"):
        fft.layers.CrossLayer().build((None, None))
    layer = make_layer(None)
    with pytest.raises(ValueError, match=r"x0 has shape .* and x .*must be equal"):
        layer(normal(1, 2, WIDTH), normal(1, 2, 1))
