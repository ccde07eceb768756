from __future__ import annotations

import itertools
import re
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import feedfast.tf as fft

NUM_ROWS, DIM = 47, 5
OPTIMIZERS = {
    "sgd": lambda: fft.optimizers.SparseSGD(0.05),
    "adagrad": lambda: fft.optimizers.SparseAdagrad(0.05),
    "rowwise_adagrad": lambda: fft.optimizers.RowwiseAdagrad(0.05),
    "adam": lambda: fft.optimizers.SparseAdam(0.05, row_weight_decay=0.01),
    "rowwise_adam": lambda: fft.optimizers.RowwiseAdam(0.05, clipnorm=1.0),
}


def start() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((NUM_ROWS, DIM)).astype(np.float32)


def batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(2)
    return [(rng.integers(0, NUM_ROWS, (8, 4)), rng.random((8, 1))) for _ in range(count)]


def build(fused: Any, optimizer: Any = "sgd", **compile_options: Any) -> keras.Model:
    inputs = keras.Input((4,), dtype="int64")
    bags = fft.layers.PooledEmbedding(
        NUM_ROWS, DIM, pooling="mean", fused_optimizer=fused, name="bags"
    )
    outputs = keras.layers.Dense(1, kernel_initializer="ones", trainable=False)(bags(inputs))
    model = keras.Model(inputs, outputs)
    bags.embeddings.assign(start())
    model.compile(optimizer, "mse", **compile_options)
    return model


def table_of(model: keras.Model) -> np.ndarray:
    return model.get_layer("bags").embeddings.numpy()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_does_what_the_optimizer_does_outside(name: str) -> None:
    fused = build(OPTIMIZERS[name]())
    outside = build(None, OPTIMIZERS[name]())
    for ids, labels in batches(12):
        fused.train_on_batch(ids, labels)
        outside.train_on_batch(ids, labels)
    np.testing.assert_allclose(table_of(fused), table_of(outside), rtol=1e-5, atol=1e-6)
    assert (table_of(fused) != start()).any()


@pytest.mark.parametrize(
    "options", [{}, {"run_eagerly": True}, {"jit_compile": False}, {"steps_per_execution": 3}]
)
def test_one_update_a_step_in_every_mode_of_fit(options: dict[str, Any]) -> None:
    model = build(fft.optimizers.RowwiseAdagrad(0.05), **options)
    data = tf.data.Dataset.from_tensor_slices(batches(1)[0]).batch(2).repeat(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # shuffle=True on a tf.data.Dataset
        model.fit(data, epochs=2, verbose=0)
    step = next(w for w in model.weights if w.name == "fused_step")
    assert int(step.numpy()) == 24
    before = table_of(model)
    model.evaluate(data, verbose=0)
    model.predict(data, verbose=0)
    np.testing.assert_array_equal(table_of(model), before)


def test_frozen_layer_keeps_its_table() -> None:
    model = build(fft.optimizers.SparseSGD(0.1))
    (ids, labels), *_ = batches(1)
    layer = model.get_layer("bags")
    for trainable, changes in ((False, False), (True, True), (False, False)):
        layer.trainable = trainable
        # Another trainable weight, so that there is something to train.
        model.layers[-1].trainable = True
        model.compile("sgd", "mse")
        before = table_of(model)
        model.train_on_batch(ids, labels)
        assert (table_of(model) != before).any() == changes


def test_weights_of_ids_have_a_gradient_too() -> None:
    layer = fft.layers.PooledEmbedding(NUM_ROWS, DIM, fused_optimizer=fft.optimizers.SparseSGD(1.0))
    plain = fft.layers.PooledEmbedding(NUM_ROWS, DIM)
    ids = tf.ragged.constant([[3, 5], [7]], dtype=tf.int64)
    weights = tf.constant([1.0, 2.0, 3.0])
    gradients = []
    for each in (layer, plain):
        each.build()
        each.embeddings.assign(start())
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_sum(each(ids, weights) ** 2)
        watched = [weights, each.trainable_weights[0].value]
        gradients.append(tape.gradient(loss, watched))
    np.testing.assert_allclose(gradients[0][0], gradients[1][0], rtol=1e-5)
    assert float(gradients[0][1]) == 0.0  # of the trigger
    want = start() - tf.convert_to_tensor(gradients[1][1]).numpy()
    np.testing.assert_allclose(layer.embeddings.numpy(), want, rtol=1e-5)


def test_learning_rates_are_variables_or_schedules() -> None:
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [1.0, 0.0])
    model = build(fft.optimizers.SparseSGD(schedule))
    (ids, labels), *_ = batches(1)
    tables = [start()]
    for _ in range(4):
        model.train_on_batch(ids, labels)
        tables.append(table_of(model))
    changed = [bool((a != b).any()) for a, b in itertools.pairwise(tables)]
    assert changed == [True, True, False, False]  # steps 0 and 1, as Keras counts

    model = build(fft.optimizers.SparseSGD(0.1))
    model.get_layer("bags").learning_rate.assign(0.0)
    model.train_on_batch(ids, labels)
    np.testing.assert_array_equal(table_of(model), start())


def test_refuses_what_it_cannot_follow() -> None:
    ids, labels = batches(1)[0]
    fused = fft.optimizers.SparseSGD(0.1)
    for optimizer, reason in (
        (
            keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
            "gradient_accumulation_steps=2: the table would be updated in every micro-step",
        ),
        (
            keras.optimizers.SGD(0.1, global_clipnorm=1.0),
            "global_clipnorm=1.0: the norm would miss",
        ),
        (keras.optimizers.SGD(0.1, loss_scale_factor=8.0), "loss scaling: the table would be"),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), "loss scaling"),
    ):
        model = build(fused, optimizer)
        with pytest.raises(ValueError, match=re.escape(f"fused_optimizer cannot follow {reason}")):
            model.train_on_batch(ids, labels)
        np.testing.assert_array_equal(table_of(model), start())
    with pytest.raises(ValueError, match="loss scaling that float16 needs"):
        fft.layers.PooledEmbedding(3, 2, fused_optimizer=fused, dtype="mixed_float16")
    with pytest.raises(ValueError, match=r"must be one of fft\.optimizers; got SGD"):
        fft.layers.PooledEmbedding(3, 2, fused_optimizer=keras.optimizers.SGD(0.1))


def test_refuses_replicas_but_runs_under_a_strategy_of_one() -> None:
    ids, labels = batches(1)[0]
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        model = build(fft.optimizers.SparseSGD(0.1))
    model.train_on_batch(ids, labels)
    alone = build(fft.optimizers.SparseSGD(0.1))
    alone.train_on_batch(ids, labels)
    np.testing.assert_allclose(table_of(model), table_of(alone), rtol=1e-6)


def test_more_than_one_replica_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two:
        num_replicas_in_sync = 2

    layer = fft.layers.PooledEmbedding(3, 2, fused_optimizer=fft.optimizers.SparseSGD(0.1))
    monkeypatch.setattr(tf.distribute, "get_strategy", Two)
    with pytest.raises(ValueError, match="updates the table of one replica; the strategy has 2"):
        layer.build()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_training_goes_on_from_a_keras_file_and_serves_from_a_saved_model(tmp_path: Path) -> None:
    whole, half = (build(fft.optimizers.SparseAdam(0.05)) for _ in range(2))
    data = batches(6)
    for ids, labels in data:
        whole.train_on_batch(ids, labels)
    for ids, labels in data[:3]:
        half.train_on_batch(ids, labels)
    half.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for ids, labels in data[3:]:
        loaded.train_on_batch(ids, labels)
    np.testing.assert_allclose(table_of(loaded), table_of(whole), rtol=1e-6)
    assert loaded.get_layer("bags").get_config() == half.get_layer("bags").get_config()

    half.export(str(tmp_path / "saved"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(served.serve(tf.constant(data[0][0])), half(data[0][0]), rtol=1e-6)


@pytest.mark.parametrize("table_dtype", ["float16", "bfloat16"])
def test_16_bit_tables_train(table_dtype: str) -> None:
    layer = fft.layers.PooledEmbedding(
        NUM_ROWS,
        DIM,
        table_dtype=table_dtype,
        fused_optimizer=fft.optimizers.RowwiseAdagrad(0.1),
    )
    model = keras.Sequential([layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    ids, labels = batches(1)[0]
    losses = [float(model.train_on_batch(ids, labels)) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert layer.embeddings.dtype == table_dtype


def test_layers_round_with_random_numbers_of_their_own() -> None:
    optimizer = fft.optimizers.SparseSGD(1e-3)
    tables = []
    for name in ("members", "tags", "members"):
        layer = fft.layers.PooledEmbedding(
            64,
            16,
            embeddings_initializer="ones",
            table_dtype="bfloat16",
            fused_optimizer=optimizer,
            name=name,
        )
        layer.build()
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(tf.range(64)))
        tape.gradient(loss, layer.trainable_weights[0].value)
        tables.append(tf.cast(layer.embeddings.value, tf.float32).numpy())
    assert (tables[0] != tables[1]).any()
    np.testing.assert_array_equal(tables[0], tables[2])


def test_grow_and_reset_rows() -> None:
    layer = fft.layers.PooledEmbedding(
        4,
        3,
        capacity=8,
        new_rows="mean",
        embeddings_initializer="ones",
        fused_optimizer=fft.optimizers.SparseAdagrad(0.1),
    )
    model = keras.Sequential([layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.train_on_batch(np.array([[1], [2]]), np.zeros((2, 1)))
    used = layer.embeddings.numpy()[:4]
    layer.grow(6)
    np.testing.assert_allclose(layer.embeddings.numpy()[4:6], used.mean(0)[None].repeat(2, 0))
    assert layer.num_rows == 6
    assert layer.get_config()["num_rows"] == 6
    model.train_on_batch(np.array([[5], [2]]), np.ones((2, 1)))  # the traced step knows the rows
    accumulator = next(w for w in layer.weights if w.name == "fused_accumulator")
    assert (accumulator.numpy()[5] > 0.1).all()
    layer.reset_rows([2, 5])
    assert (accumulator.numpy()[[2, 5]] == np.float32(0.1)).all()
    with pytest.raises(ValueError, match="num_rows can only grow, it is 6; got 5"):
        layer.grow(5)


def test_reset_rows_clears_the_states_of_an_optimizer_outside() -> None:
    model = build(None, fft.optimizers.SparseAdam(0.1))
    for ids, labels in batches(2):
        model.train_on_batch(ids, labels)
    model.get_layer("bags").reset_rows([3, 4], optimizer=model.optimizer)
    for state in model.optimizer.variables[2:4]:
        assert (state.numpy()[[3, 4]] == 0).all()
        assert (state.numpy() != 0).any()
    assert (table_of(model)[[3, 4]] == 0).all()


def test_hashed_rows_are_a_function_of_the_row() -> None:
    first = fft.layers.PooledEmbedding(10, 64, new_rows="hash")
    second = fft.layers.PooledEmbedding(500, 64, new_rows="hash")
    first.build()
    second.build()
    first.reset_rows([7, 8])
    second.reset_rows(tf.range(500))
    table = second.embeddings.numpy()
    np.testing.assert_array_equal(first.embeddings.numpy()[[7, 8]], table[[7, 8]])
    assert np.abs(table).max() <= np.float32(0.05)
    # 32000 uniform numbers: deviation of the mean 0.05 / sqrt(3) / 179, here 4 of them
    assert abs(table.mean()) < 4 * 0.05 / np.sqrt(3) / 179
    assert table.std() == pytest.approx(0.05 / np.sqrt(3), rel=0.02)
    assert len(np.unique(table)) > 31_000


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="capacity must be at least num_rows = 4; got 3"):
        fft.layers.PooledEmbedding(4, 2, capacity=3)
    with pytest.raises(ValueError, match="new_rows must be one of 'zeros', 'mean', 'hash'; got"):
        fft.layers.PooledEmbedding(4, 2, new_rows="ones")
    with pytest.raises(ValueError, match=r"table_dtype must be one of .* got 'float64'"):
        fft.layers.PooledEmbedding(4, 2, table_dtype="float64")
