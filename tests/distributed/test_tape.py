"""The tape in one process: ways to use it, and how misuse is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tape_model import (
    NUM_WINDOWS,
    OPTIMIZERS,
    Model,
    assert_close,
    draw_batch,
    train_on_all_at_once,
)

from feedfast.comm import NullEngine
from feedfast.tf.distributed import AccumulatingGradientTape, broadcast_variables, equal_steps

K = 3


def eager(tape: AccumulatingGradientTape, model: Model, optimizer: Any) -> Callable[..., Any]:
    def step(*batch: tf.Tensor) -> None:
        with tape:
            loss = model.loss(*batch)
        gradients = tape.gradient(loss, model.variables)
        assert (gradients is not None) == (tape.num_added == 0)
        if gradients is not None:
            optimizer.apply(gradients, model.variables)

    return step


def minimize(tape: AccumulatingGradientTape, model: Model, optimizer: Any) -> Callable[..., Any]:
    def step(*batch: tf.Tensor) -> Any:
        with tape:
            loss = model.loss(*batch)
        return tape.minimize(loss, model.variables, optimizer)

    return step


def in_function(tape: AccumulatingGradientTape, model: Model, optimizer: Any) -> Callable[..., Any]:
    return tf.function(minimize(tape, model, optimizer), reduce_retracing=True)


def training_step(
    tape: AccumulatingGradientTape, model: Model, optimizer: Any
) -> Callable[..., Any]:
    return tape.training_step(model.loss, model.variables, optimizer)


def with_a_callable(
    tape: AccumulatingGradientTape, model: Model, optimizer: Any
) -> Callable[..., Any]:
    optimizer.build(model.variables)
    return tape.training_step(
        model.loss, model.variables, lambda g: optimizer.apply(g, model.variables)
    )


WAYS = [eager, minimize, in_function, training_step, with_a_callable]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["adam", "keras_adam"])
def test_every_way_equals_training_on_all_examples(way: Any, name: str) -> None:
    model, optimizer = Model(), OPTIMIZERS[name]()
    tape = AccumulatingGradientTape(K, engine=NullEngine())
    step = way(tape, model, optimizer)
    for window in range(NUM_WINDOWS):
        for micro_batch in range(K):
            step(*draw_batch(window, micro_batch, 0))
    want = train_on_all_at_once(OPTIMIZERS[name](), k=K, size=1)
    assert_close([variable.numpy() for variable in model.variables], want)
    assert [choice.name for choice in tape.table_choices] == ["many", "few", "bias"]
    assert {choice.form for choice in tape.table_choices} == {"rows"}


def test_minimize_says_when_weights_changed() -> None:
    model = Model()
    tape = AccumulatingGradientTape(2, engine=NullEngine())
    for make in (minimize, in_function):
        step = make(tape, model, OPTIMIZERS["sgd"]())
        assert [bool(step(*draw_batch(0, s, 0))) for s in range(4)] == [False, True] * 2


def test_layers_of_keras_and_half_precision_variables() -> None:
    layer = keras.layers.Embedding(9, 4, dtype="bfloat16")
    dense = keras.layers.Dense(1, dtype="float16")
    ids = tf.constant([[1, 3], [3, 3]])
    dense(tf.cast(layer(ids), tf.float16))
    variables = [*layer.trainable_variables, *dense.trainable_variables]
    variables = [
        tf.Variable(tf.cast(v, dtype))
        for v, dtype in zip(variables, (tf.bfloat16, tf.float16, tf.float16), strict=True)
    ]
    tape = AccumulatingGradientTape(1, engine=NullEngine())
    with tape:
        rows = tf.cast(tf.gather(variables[0], ids), tf.float16)
        loss = tf.reduce_sum(tf.matmul(rows, variables[1][None]) + variables[2])
    gradients = tape.gradient(loss, variables)
    assert gradients is not None
    assert [g.dtype for g in gradients] == [tf.bfloat16, tf.float16, tf.float16]
    np.testing.assert_array_equal(gradients[0].indices, [1, 3])
    np.testing.assert_array_equal(gradients[0].dense_shape, [9, 4])
    np.testing.assert_allclose(
        tf.cast(gradients[0].values[1], tf.float32),
        3 * tf.cast(variables[1][:, 0], tf.float32),
        rtol=0.01,
    )


@pytest.mark.parametrize("way", [minimize, in_function, training_step])
@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "bfloat16"])
def test_gradients_come_back_in_the_dtype_of_the_policy(way: Any, policy: str) -> None:
    """Sums of four micro-batches whose values 16 bits could not add."""
    layer = keras.layers.Dense(2, use_bias=False, dtype=policy, kernel_initializer="ones")
    layer.build((None, 3))
    steps = [1.0, 2.0**-9, 2.0**-9, 2.0**-9]

    class Linear:
        variables = layer.trainable_variables

        def loss(self, x: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(layer(x))

    dtype = tf.float32 if policy == "mixed_float16" else tf.as_dtype(policy)
    received = tf.Variable(tf.zeros([3, 2], dtype))  # takes no other dtype
    tape = AccumulatingGradientTape(4, engine=NullEngine())
    step = way(tape, Linear(), lambda gradients: received.assign(gradients[0]))
    for value in steps * 2:
        step(tf.fill([1, 3], value))
    # Added one by one in bfloat16, the small ones would be lost: 1 + 2**-9 is 1 there.
    mean = np.asarray(sum(steps) / 4).astype(dtype.as_numpy_dtype)
    assert float(mean) > 0.25
    np.testing.assert_array_equal(received.numpy(), np.full((3, 2), mean))


def test_tables_of_keras_that_stand_behind_a_layer() -> None:
    model = keras.Sequential([keras.layers.Embedding(9, 4), keras.layers.Dense(1)])
    model.build((None, 2))
    tape = AccumulatingGradientTape(1, engine=NullEngine())
    with tape:
        loss = tf.reduce_mean(model(tf.constant([[8, 0], [0, 0]])))
    gradients = tape.gradient(loss, model.trainable_variables)
    assert gradients is not None
    np.testing.assert_array_equal(gradients[0].indices, [0, 8])
    model.optimizer = keras.optimizers.Adagrad(0.1)
    model.optimizer.apply(gradients, model.trainable_variables)


def test_a_weight_scales_the_gradient_and_the_mean() -> None:
    variable = tf.Variable([1.0, 2.0])
    tape = AccumulatingGradientTape(2, engine=NullEngine())
    with tape:
        loss = tf.reduce_sum(variable * [3.0, 5.0])
    assert tape.gradient(loss, [variable], weight=3.0) is None
    with tape:
        loss = tf.reduce_sum(variable * [7.0, 9.0])
    gradients = tape.gradient(loss, [variable])
    assert gradients is not None
    np.testing.assert_allclose(gradients[0], [4.0, 6.0])


def test_a_discarded_window_starts_anew() -> None:
    variable = tf.Variable(1.0)
    tape = AccumulatingGradientTape(2, engine=NullEngine())
    tape.discard()
    with tape:
        loss = variable * 100.0
    assert tape.gradient(loss, [variable]) is None
    tape.discard()
    for _ in range(2):
        with tape:
            loss = variable * 2.0
        gradients = tape.gradient(loss, [variable])
    assert gradients is not None
    assert float(gradients[0]) == 2.0


def test_misuse_is_named() -> None:
    first, second = tf.Variable([1.0, 2.0], name="first"), tf.Variable(3.0, name="second")
    tape = AccumulatingGradientTape(4, engine=NullEngine())
    with pytest.raises(RuntimeError, match="compute the loss inside `with tape:`"):
        tape.gradient(tf.constant(1.0), [first])
    with tape:
        loss = tf.reduce_sum(first)
    with pytest.raises(ValueError, match="the loss does not depend on second:0"):
        tape.gradient(loss, [first, second])
    with tape:
        loss = tf.reduce_sum(first)
    assert tape.gradient(loss, [first]) is None
    with tape:
        loss = tf.reduce_sum(first) * second
    with pytest.raises(ValueError, match=r"had the variables \['first:0'\]; this one has"):
        tape.gradient(loss, [first, second])
    with tape:
        loss = tf.reduce_sum(tf.gather(first, [0]))
    with pytest.raises(ValueError, match=r"first:0 was dense \[2\], shared.*now it is rows"):
        tape.gradient(loss, [first])
    with tape:
        loss = tf.reduce_sum(first)
    with pytest.raises(TypeError, match="a Keras or TensorFlow variable is needed; got list"):
        tape.gradient(loss, [[first]])
    assert tape.num_added == 1

    @tf.function
    def step() -> Any:
        with tape:
            loss = tf.reduce_sum(first)
        return tape.gradient(loss, [first])

    with pytest.raises(RuntimeError, match=r"use minimize\(\) there, or training_step\(\)"):
        step()


def test_float64_is_refused() -> None:
    variable = tf.Variable(1.0, dtype=tf.float64, name="wide")
    tape = AccumulatingGradientTape(1, engine=NullEngine())
    with tape:
        loss = variable * 2.0
    with pytest.raises(TypeError, match="the gradient of wide:0 is float64"):
        tape.gradient(loss, [variable])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be at least 1; got 0"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0"),
        ({"wire": "fp8"}, "wire must be one of 'exact', 'bf16'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AccumulatingGradientTape(engine=NullEngine(), **arguments)


def test_local_layers_must_be_layers_that_are_built() -> None:
    tape = AccumulatingGradientTape(engine=NullEngine(), local_layers=[keras.layers.Dense(1)])
    variable = tf.Variable(1.0)
    with tape:
        loss = variable * 1.0
    with pytest.raises(ValueError, match="of local_layers is not built"):
        tape.gradient(loss, [variable])
    with pytest.raises(TypeError, match="holds layers and variables; got int"):
        broadcast_variables([variable], NullEngine(), local_layers=[3])


def test_equal_steps_pads_the_last_window_with_weight_zero() -> None:
    steps = list(equal_steps(iter("abcd"), NullEngine(), k=3))
    assert steps == [("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 1.0), ("d", 0.0), ("d", 0.0)]
    assert list(equal_steps([], NullEngine())) == []
    with pytest.raises(ValueError, match="k must be at least 1"):
        next(equal_steps("a", NullEngine(), k=0))
