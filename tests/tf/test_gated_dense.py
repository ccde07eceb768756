from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import feedfast as ff
import feedfast.tf as fft

CASES = [
    pytest.param("hidden", None, id="hidden"),
    pytest.param("hidden", 3, id="hidden-rank3"),
    pytest.param("input", None, id="input"),
    pytest.param("input", 2, id="input-rank2"),
    pytest.param(None, None, id="no-gate"),
]


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def op_inputs(
    gate: str | None, rank: int | None, *, batch: int = 5, num_inputs: int = 7, units: int = 6
) -> list[tf.Tensor]:
    """x, weight, bias and the gate's arrays."""
    rng = np.random.default_rng(20_240_601)
    arrays = [
        rng.standard_normal((batch, num_inputs)).astype(np.float32),
        normal(rng, num_inputs, units),
        normal(rng, units),
    ]
    if gate is not None:
        source = units if gate == "hidden" else num_inputs
        if rank is not None:
            arrays.append(normal(rng, source, rank))
            source = rank
        arrays += [normal(rng, source, units), normal(rng, units)]
    return [tf.constant(array) for array in arrays]


def run_op(inputs: list[tf.Tensor], gate: str | None, activation: str = "relu") -> tf.Tensor:
    x, weight, bias, *gate_arrays = inputs
    if not gate_arrays:
        return fft.ops.gated_dense(x, weight, bias, activation=activation)
    *factors, gate_bias = gate_arrays
    gate_weight = tuple(factors) if len(factors) == 2 else factors[0]
    return fft.ops.gated_dense(
        x, weight, bias, gate_weight, gate_bias, gate=gate, activation=activation
    )


def as_gated_layer(inputs: list[tf.Tensor], gate: str | None, activation: str) -> ff.GatedLayer:
    _, weight, bias, *gate_arrays = (array.numpy() for array in inputs)
    if not gate_arrays:
        return ff.GatedLayer(weight, bias, activation=activation)
    *factors, gate_bias = gate_arrays
    gate_weight = tuple(factors) if len(factors) == 2 else factors[0]
    return ff.GatedLayer(weight, bias, gate_weight, gate_bias, gate, activation)


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize(("gate", "rank"), CASES)
@pytest.mark.parametrize("batch", [0, 1, 33, 150])
def test_op_has_the_bits_of_gated_mlp(
    gate: str | None, rank: int | None, activation: str, batch: int
) -> None:
    inputs = op_inputs(gate, rank, batch=batch, num_inputs=33, units=70)
    want = ff.GatedMLP([as_gated_layer(inputs, gate, activation)])(inputs[0].numpy())
    np.testing.assert_array_equal(run_op(inputs, gate, activation), want)


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize(("gate", "rank"), CASES)
def test_gradient_matches_finite_differences(
    gate: str | None, rank: int | None, activation: str
) -> None:
    inputs = op_inputs(gate, rank)
    weights = tf.constant(np.random.default_rng(1).standard_normal((5, 6)), tf.float32)
    theoretical, numeric = tf.test.compute_gradient(
        lambda *arrays: tf.reduce_sum(weights * run_op(list(arrays), gate, activation)),
        inputs,
        delta=1e-2,
    )
    # float32 differences over 2e-2: about 1e-7 / 1e-2 of rounding and 1e-4 of curvature
    for got, want in zip(theoretical, numeric, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-3)


def make_layer(gate: str | None, rank: int | None, units: int = 20) -> fft.layers.GatedDense:
    keras.utils.set_random_seed(3)
    layer = fft.layers.GatedDense(
        units,
        gate=gate,
        gate_rank=rank,
        bias_initializer="random_normal",
        gate_bias_initializer="random_normal",
    )
    layer.build((None, 9))
    return layer


@pytest.mark.parametrize(("gate", "rank"), CASES)
def test_training_and_inference_agree(gate: str | None, rank: int | None) -> None:
    layer = make_layer(gate, rank)
    x = tf.constant(np.random.default_rng(2).standard_normal((64, 9)), tf.float32)
    results = []
    for training in (True, False):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(tf.square(y))
        results.append([y, *tape.gradient(loss, [x, *layer.trainable_variables])])
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(("gate", "rank"), CASES)
def test_layer_hands_its_weights_to_gated_mlp(gate: str | None, rank: int | None) -> None:
    layer = make_layer(gate, rank)
    x = np.random.default_rng(4).standard_normal((10, 9)).astype(np.float32)
    mlp = ff.GatedMLP([layer.gated_layer()])
    np.testing.assert_array_equal(layer(x), mlp(x))


def test_tf_function_keeps_known_shapes() -> None:
    layer = make_layer("hidden", None)

    @tf.function(input_signature=[tf.TensorSpec([None, 9], tf.float32)])
    def run(x: tf.Tensor) -> tf.Tensor:
        y = layer(x)
        assert y.shape.as_list() == [None, 20]
        return y

    x = np.random.default_rng(4).standard_normal((10, 9)).astype(np.float32)
    np.testing.assert_array_equal(run(x), layer(x))


def test_inner_axes_are_batch_axes() -> None:
    layer = make_layer("input", None)
    x = np.random.default_rng(5).standard_normal((4, 3, 9)).astype(np.float32)
    want = np.reshape(layer(x.reshape(12, 9)), (4, 3, 20))
    np.testing.assert_array_equal(layer(x), want)
    assert keras.Sequential([keras.Input((3, 9)), layer]).output_shape == (None, 3, 20)
    np.testing.assert_array_equal(layer(x[0, 0]), want[0, 0])


def test_packed_weights_follow_the_variables() -> None:
    layer = make_layer("hidden", None)
    x = np.random.default_rng(6).standard_normal((8, 9)).astype(np.float32)
    call = tf.function(layer.__call__)
    optimizer = keras.optimizers.SGD(0.5)

    def expect_current() -> None:
        want = ff.GatedMLP([layer.gated_layer()])(x)
        np.testing.assert_array_equal(layer(x), want)
        np.testing.assert_array_equal(call(tf.constant(x)), want)

    expect_current()
    layer.weight.assign(layer.weight + 1.0)
    expect_current()
    layer.gate_weight.value.assign_add(tf.ones_like(layer.gate_weight))
    expect_current()
    layer.weight.value.scatter_nd_update([[0, 0]], [5.0])
    expect_current()
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(tf.constant(x), training=True))
        variables = layer.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        expect_current()


def test_layers_do_not_share_packed_weights() -> None:
    x = np.random.default_rng(7).standard_normal((3, 9)).astype(np.float32)
    layers = []
    for seed in range(12):
        keras.utils.set_random_seed(seed)
        layers.append(fft.layers.GatedDense(5))
    first = [layer(x).numpy() for layer in layers]
    for layer, want in zip(layers, first, strict=True):
        np.testing.assert_array_equal(layer(x), want)
        np.testing.assert_array_equal(ff.GatedMLP([layer.gated_layer()])(x), want)


def small_model() -> keras.Model:
    keras.utils.set_random_seed(8)
    return keras.Sequential(
        [
            keras.Input((6,)),
            fft.layers.GatedDense(16),
            fft.layers.GatedDense(8, gate="input", gate_rank=2, kernel_regularizer="l2"),
            fft.layers.GatedDense(1, gate=None, activation=None),
        ]
    )


# Keras 3.15 asks TensorFlow for arrays in the old way.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_fits_and_saves(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(9)
    x = rng.standard_normal((256, 6)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.float32)
    model = small_model()
    model.compile(
        optimizer=keras.optimizers.Adam(0.02),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=64, epochs=15, verbose=0)
    assert model.evaluate(x, y, verbose=0) < 0.7 * before
    want = model(x).numpy()

    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), want)
    assert [layer.get_config() for layer in again.layers] == [
        layer.get_config() for layer in model.layers
    ]

    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_array_equal(served.serve(tf.constant(x)), want)


@pytest.mark.parametrize("gate", ["hidden", "input", None])
def test_mixed_precision_trains_and_predicts(gate: str | None) -> None:
    layer = fft.layers.GatedDense(4, gate=gate, dtype="mixed_bfloat16")
    x = tf.constant(np.random.default_rng(10).standard_normal((5, 3)), tf.float32)
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(y, tf.float32))
    assert y.dtype == tf.bfloat16
    assert layer.weight.dtype == "float32"
    assert all(g is not None for g in tape.gradient(loss, layer.trainable_variables))
    np.testing.assert_array_equal(
        tf.cast(layer(x), tf.float32), tf.cast(layer(x, training=True), tf.float32)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "units must be at least 1; got 0"),
        ({"gate": "both"}, "gate must be 'hidden', 'input' or None; got 'both'"),
        ({"activation": "gelu"}, "activation must be 'relu', 'linear' or None; got 'gelu'"),
        ({"gate_rank": 0}, "gate_rank must be at least 1; got 0"),
        ({"gate": None, "gate_rank": 2}, "gate_rank needs gate='hidden' or gate='input'"),
    ],
)
def test_layer_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fft.layers.GatedDense(**{"units": 4, **arguments})


def test_layer_needs_a_known_last_axis() -> None:
    with pytest.raises(ValueError, match="the last axis of the input must be known"):
        fft.layers.GatedDense(4).build((None, None))


def test_op_refuses_shapes_that_do_not_fit() -> None:
    x, weight, bias, gate_weight, gate_bias = op_inputs("hidden", None)
    invalid = tf.errors.InvalidArgumentError
    with pytest.raises(invalid, match=r"gate_weight must have shape \[6,6\]; got \[6,5\]"):
        run_op([x, weight, bias, gate_weight[:, :5], gate_bias], "hidden")
    with pytest.raises(invalid, match=r"gate_weight must have shape \[7,6\]; got \[6,6\]"):
        run_op([x, weight, bias, gate_weight, gate_bias], "input")
    with pytest.raises(invalid, match=r"gate_down must have shape \[6,6\]; got \[3,6\]"):
        run_op([x, weight, bias, gate_weight[:3], gate_weight[:3], gate_bias], "hidden")
    with pytest.raises(invalid, match=r"bias must have shape \[6\]; got \[5\]"):
        run_op([x, weight, bias[:5]], None)
    with pytest.raises(invalid, match=r"x must have shape \[batch, 7\]; got \[5,6\]"):
        run_op([x[:, :6], weight, bias], None)
    with pytest.raises(invalid, match=r"weight must have shape \[in, out\]; got \[6\]"):
        run_op([x, bias, bias], None)
    with pytest.raises(invalid, match=r"weight is \[0, 6\]; both sizes must be at least 1"):
        run_op([x[:, :0], weight[:0], bias], None)
    with pytest.raises(ValueError, match="gate_weight and gate_bias are needed with a gate"):
        fft.ops.gated_dense(x, weight, bias, gate="hidden")
    with pytest.raises(ValueError, match="Dimensions must be equal"):
        tf.function(lambda: run_op([x[:, :6], weight, bias], None))()


def test_nan_reaches_its_own_row_alone() -> None:
    layer = make_layer("hidden", None)
    x = np.ones((4, 9), np.float32)
    x[1, 2] = np.nan
    np.testing.assert_array_equal(np.isnan(layer(x)).all(axis=1), [False, True, False, False])
