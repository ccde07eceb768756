from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import feedfast.tf as fft
from feedfast import LiveVocabulary, Vocabulary

DIM = 3

# Keras 3 hands h5py its variables, whose __array__ takes no `copy`.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def build(way: str, num_rows: int, capacity: int | None = None) -> keras.Model:
    """One table and a head; `way` is "fused" or "optimizer"."""
    rule = fft.optimizers.SparseAdam if way.endswith("adam") else fft.optimizers.SparseAdagrad
    fused = way.startswith("fused")
    inputs = keras.Input((2,), dtype="int64")
    bags = fft.layers.PooledEmbedding(
        num_rows,
        DIM,
        capacity=capacity,
        embeddings_initializer="zeros",
        new_rows="hash",
        fused_optimizer=rule(0.1) if fused else None,
        name="bags",
    )
    head = keras.layers.Dense(1, kernel_initializer="ones")
    model = keras.Model(inputs, head(bags(inputs)))
    model.compile(rule(0.1), "mse")
    return model


def grow(model: keras.Model, num_rows: int) -> None:
    bags = model.get_layer("bags")
    bags.grow(num_rows, optimizer=model.optimizer if bags.trainable_weights[0].shape.rank else None)


def train(model: keras.Model, batches: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for ids, labels in batches:
        model.train_on_batch(ids, labels)


def batches_below(num_rows: int, *, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, num_rows, (8, 2)), rng.random((8, 1))) for _ in range(4)]


def table_of(model: keras.Model) -> np.ndarray:
    bags = model.get_layer("bags")
    table: np.ndarray = bags.embeddings.numpy()[: bags.num_rows]
    return table


WAYS = ["fused", "fused_adam", "optimizer", "optimizer_adam"]


@pytest.mark.parametrize("way", WAYS)
def test_a_table_that_doubles_trains_as_one_with_a_reserve(way: str) -> None:
    tables = []
    for capacity in (None, 40):
        model = build(way, 5, capacity)
        train(model, batches_below(5, seed=1))
        function = model.train_function
        grow(model, 17)
        train(model, batches_below(17, seed=2))
        grow(model, 33)
        train(model, batches_below(33, seed=3))
        assert model.train_function is function  # nothing was traced again
        assert model.get_layer("bags").capacity == 40  # from 5: 10, 20, 40
        tables.append(table_of(model))
    assert tables[0].shape == (33, DIM)
    np.testing.assert_array_equal(tables[0], tables[1])


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("way", ["fused", "optimizer"])
def test_grows_in_a_callback_of_fit(way: str, run_eagerly: bool) -> None:
    def fit(capacity: int | None) -> np.ndarray:
        model = build(way, 4, capacity)
        model.run_eagerly = run_eagerly

        class Grow(keras.callbacks.Callback):  # type: ignore[misc]
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                grow(model, 4 + 4 * batch)

        # Batch i knows 4 i rows; before it the callback made room for them.
        ids = np.concatenate(
            [np.full((8, 2), max(4 * i - 1, 0)) - np.arange(16).reshape(8, 2) % 4 for i in range(6)]
        )
        labels = np.random.default_rng(1).random((len(ids), 1))
        model.fit(
            np.maximum(ids, 0), labels, batch_size=8, shuffle=False, verbose=0, callbacks=[Grow()]
        )
        assert model.get_layer("bags").num_rows == 24
        return table_of(model)

    np.testing.assert_array_equal(fit(None), fit(64))


@pytest.mark.parametrize("way", WAYS)
def test_grown_tables_and_states_come_back(way: str, tmp_path: Path) -> None:
    whole = build(way, 5)
    train(whole, batches_below(5, seed=1))
    grow(whole, 12)
    train(whole, batches_below(12, seed=2))
    checkpoint = tf.train.Checkpoint(model=whole, optimizer=whole.optimizer)
    path = checkpoint.save(str(tmp_path / "checkpoint"))
    whole.save(tmp_path / "model.keras")
    whole.save_weights(tmp_path / "model.weights.h5")
    saved = table_of(whole)
    train(whole, batches_below(12, seed=3))
    want = table_of(whole)
    assert (want != saved).any()

    # Into a model that has not grown.
    restored = build(way, 5)
    restored.optimizer.build(restored.trainable_variables)
    status = tf.train.Checkpoint(model=restored, optimizer=restored.optimizer).restore(path)
    status.assert_consumed()
    for model in (restored, keras.saving.load_model(tmp_path / "model.keras")):
        bags = model.get_layer("bags")
        assert (bags.num_rows, bags.capacity) == (12, 20)
        np.testing.assert_array_equal(table_of(model), saved)
        train(model, batches_below(12, seed=3))
        np.testing.assert_array_equal(table_of(model), want)
        grow(model, 21)  # and goes on growing
        train(model, batches_below(21, seed=4))
        assert model.get_layer("bags").capacity == 40

    loaded = build(way, 5)
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(tmp_path / "model.weights.h5")
    assert loaded.get_layer("bags").num_rows == 12
    np.testing.assert_array_equal(table_of(loaded), saved)
    train(loaded, batches_below(12, seed=3))
    np.testing.assert_array_equal(table_of(loaded), want)


def test_a_checkpoint_restores_into_a_model_that_has_trained(tmp_path: Path) -> None:
    first = build("optimizer", 5)
    train(first, batches_below(5, seed=1))
    path = tf.train.Checkpoint(model=first, optimizer=first.optimizer).save(str(tmp_path / "c"))
    want = table_of(first)
    grow(first, 11)
    train(first, batches_below(11, seed=2))
    tf.train.Checkpoint(model=first, optimizer=first.optimizer).restore(path).assert_consumed()
    np.testing.assert_array_equal(table_of(first), want)  # small again
    train(first, batches_below(5, seed=3))


def test_a_grown_table_serves_from_a_saved_model(tmp_path: Path) -> None:
    model = build("fused", 4)
    grow(model, 9)
    train(model, batches_below(9, seed=1))
    ids = np.array([[8, 1]])
    want = model(ids).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(str(tmp_path / "served"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(tf.constant(ids)), want, rtol=1e-6)


def test_rows_of_a_live_vocabulary_are_born_and_given_back() -> None:
    known = [f"post:{i}" for i in range(20)]
    live = LiveVocabulary(
        Vocabulary.build(known), capacity=100, min_count=1, expire_after=10.0, seed=1
    )
    model = build("optimizer", live.num_rows)
    bags, optimizer = model.get_layer("bags"), model.optimizer
    optimizer.build(model.trainable_variables)
    accumulator = optimizer.variables[2]
    seen: dict[str, int] = {}
    for day in range(12):
        keys = [f"new:{day}:{i}" for i in range(6)]
        rows = live.observe(keys + known[:2], time=5.0 * day)
        evicted = live.take_evicted_rows()
        bags.grow(max(bags.num_rows, live.num_rows), optimizer=optimizer)
        bags.reset_rows(evicted, optimizer=optimizer)
        for row in evicted:
            fresh = fft.layers.PooledEmbedding(bags.capacity, DIM, new_rows="hash")
            fresh.build()
            fresh.reset_rows([row])
            np.testing.assert_array_equal(
                bags.embeddings.numpy()[row], fresh.embeddings.numpy()[row]
            )
            assert (accumulator.numpy()[row] == np.float32(0.1)).all()
        model.train_on_batch(rows.reshape(4, 2), np.ones((4, 1)))
        assert (accumulator.numpy()[rows] > 0.1).all()
        seen.update(zip(keys, rows[:6].tolist(), strict=True))
    # Three days of keys are alive at once; 72 were born.
    assert len(seen) == 72
    assert len(set(seen.values())) <= 24
    assert bags.num_rows == live.num_rows <= 21 + 24


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.get_layer("bags").grow(3), ValueError, "can only grow, it is 5; got 3"),
        (
            lambda m: m.get_layer("bags").grow(9, optimizer=keras.optimizers.Adam()),
            TypeError,
            "states grow with the table only in fft.optimizers; got Adam",
        ),
        (
            lambda m: tf.function(lambda: m.get_layer("bags").grow(9))(),
            RuntimeError,
            "cannot grow inside a tf.function",
        ),
    ],
)
def test_refuses(call: Callable[[keras.Model], Any], error: type[Exception], message: str) -> None:
    model = build("fused", 5)
    train(model, batches_below(5, seed=1))
    before = table_of(model)
    with pytest.raises(error, match=message):
        call(model)
    np.testing.assert_array_equal(table_of(model), before)


def test_refuses_before_there_is_a_table() -> None:
    with pytest.raises(ValueError, match="has no table yet"):
        fft.layers.PooledEmbedding(4, 2).grow(8)


def test_refuses_several_replicas() -> None:
    variable = fft.layers.PooledEmbedding(4, 2)
    variable.build()

    class Mirrored:
        values = (1, 2)

    variable.embeddings._value, kept = Mirrored(), variable.embeddings._value
    with pytest.raises(RuntimeError, match="a copy in each replica"):
        variable.embeddings.grow_to(8)
    variable.embeddings._value = kept


def test_states_that_did_not_grow_are_refused_and_nothing_is_written() -> None:
    model = build("optimizer", 5)
    train(model, batches_below(5, seed=1))
    model.get_layer("bags").grow(9)  # without the optimizer
    before = table_of(model)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"states\[0\] has 15 elements"):
        train(model, batches_below(9, seed=2))
    np.testing.assert_array_equal(table_of(model), before)
    grow(model, 9)
    train(model, batches_below(9, seed=2))
