from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import feedfast.tf as fft

NUM_ROWS = 31


def batch(*, seed: int = 1) -> tuple[tf.RaggedTensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, 16)
    values = rng.integers(0, NUM_ROWS, lengths.sum())
    return tf.RaggedTensor.from_row_lengths(values, lengths), rng.standard_normal((16, 1))


def test_every_form_of_ids_gives_the_same() -> None:
    layer = fft.layers.PooledEmbedding(NUM_ROWS, 4, pooling="mean")
    ids = tf.ragged.constant([[3, 30], [7, 7]], dtype=tf.int64)
    want = layer(ids).numpy()
    assert want.shape == (2, 4)
    assert (layer((ids.flat_values, ids.row_splits)).numpy() == want).all()
    assert (layer(ids.to_sparse()).numpy() == want).all()
    assert (layer(ids.to_tensor()).numpy() == want).all()
    assert (layer(tf.cast(ids, tf.int32)).numpy() == want).all()
    assert (layer(tf.constant([3, 30])).numpy() == layer.embeddings.numpy()[[3, 30]]).all()
    assert layer(tf.zeros([0, 3], tf.int64)).shape == (0, 4)
    assert (layer(tf.zeros([2, 0], tf.int64)).numpy() == 0).all()


def test_weights() -> None:
    layer = fft.layers.PooledEmbedding(NUM_ROWS, 4, pooling="mean")
    ids = tf.ragged.constant([[3, 5], [7]], dtype=tf.int64)
    weights = tf.ragged.constant([[1.0, 3.0], [2.0]])
    got = layer(ids, weights)
    table = layer.embeddings.numpy()
    np.testing.assert_allclose(got, [0.25 * table[3] + 0.75 * table[5], table[7]], rtol=1e-5)
    np.testing.assert_array_equal(layer(ids, weights.flat_values), got)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_trains_as_a_dense_gradient_does(optimizer: str, run_eagerly: bool) -> None:
    ids, labels = batch()

    class Plain(keras.layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.embeddings = self.add_weight(shape=(NUM_ROWS, 4), initializer="uniform")

        def call(self, ids: tf.RaggedTensor) -> tf.Tensor:
            # A dense gradient: Keras squares the slices of a sparse one before it sums repeats.
            rows = tf.one_hot(ids.flat_values, NUM_ROWS) @ self.embeddings.value
            return tf.math.unsorted_segment_sum(rows, ids.value_rowids(), ids.nrows())

    class Model(keras.Model):  # type: ignore[misc]
        def __init__(self, layer: keras.layers.Layer) -> None:
            super().__init__()
            self.bags = layer
            self.head = keras.layers.Dense(1, kernel_initializer="ones")

        def call(self, ids: tf.RaggedTensor) -> tf.Tensor:
            return self.head(self.bags(ids))

    def trained(layer: keras.layers.Layer) -> tuple[np.ndarray, float]:
        model = Model(layer)
        model(ids)
        layer.embeddings.assign(np.random.default_rng(2).standard_normal((NUM_ROWS, 4)))
        model.compile(optimizer, "mse", run_eagerly=run_eagerly)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # shuffle=True on a tf.data.Dataset
            data = tf.data.Dataset.from_tensors((ids, labels)).repeat(5)
            history = model.fit(data, epochs=1, verbose=0)
        return layer.embeddings.numpy(), history.history["loss"][-1]

    ours, our_loss = trained(fft.layers.PooledEmbedding(NUM_ROWS, 4))
    theirs, their_loss = trained(Plain())
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert our_loss == pytest.approx(their_loss, rel=1e-4)


def test_calls_share_one_table_whose_gradient_sums_their_gradients() -> None:
    layer = fft.layers.PooledEmbedding(NUM_ROWS, 2)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([3, 5]))) + 2 * tf.reduce_sum(
            layer(tf.ragged.constant([[5], [6, 6]], dtype=tf.int64))
        )
    assert len(layer.trainable_weights) == 1
    gradient = tape.gradient(loss, layer.trainable_weights[0].value)
    assert isinstance(gradient, tf.IndexedSlices)
    dense = tf.convert_to_tensor(gradient).numpy()
    assert dense[[3, 5, 6], 0].tolist() == [1.0, 3.0, 4.0]
    assert np.count_nonzero(dense[:, 0]) == 3


def test_frozen_layer_does_not_train() -> None:
    layer = fft.layers.PooledEmbedding(NUM_ROWS, 2)
    layer.build()
    layer.trainable = False
    model = keras.Sequential([layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    before = layer.embeddings.numpy()
    model.train_on_batch(np.array([3, 4]), np.ones((2, 1)))
    np.testing.assert_array_equal(layer.embeddings.numpy(), before)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_a_float32_table(policy: str) -> None:
    layer = fft.layers.PooledEmbedding(NUM_ROWS, 2, dtype=policy)
    with tf.GradientTape() as tape:
        out = layer(tf.constant([3]))
        loss = tf.reduce_sum(out)
    assert out.dtype == layer.compute_dtype
    assert layer.embeddings.dtype == "float32"
    assert isinstance(tape.gradient(loss, layer.embeddings.value), tf.IndexedSlices)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_saves_and_loads(tmp_path: Path) -> None:
    ids, _ = batch()
    inputs = keras.Input((None,), dtype="int64", ragged=True)
    layer = fft.layers.PooledEmbedding(
        NUM_ROWS, 3, pooling="sqrtn", embeddings_initializer="ones", name="tags"
    )
    model = keras.Model(inputs, layer(inputs))
    layer.embeddings.assign(np.random.default_rng(5).standard_normal((NUM_ROWS, 3)))
    want = model(ids).numpy()

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(ids), want)
    assert loaded.get_layer("tags").get_config() == layer.get_config()

    module = tf.Module()
    module.layer = layer
    module.lookup = tf.function(
        lambda values, splits: layer((values, splits)),
        input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.int64)],
    )
    tf.saved_model.save(module, str(tmp_path / "saved"))
    restored = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_array_equal(restored.lookup(ids.flat_values, ids.row_splits), want)


def test_float_ids_and_weights_keep_their_precision_under_mixed_policies() -> None:
    layer = fft.layers.PooledEmbedding(1000, 4, dtype="mixed_bfloat16")
    table = layer(tf.range(1000)).numpy()
    np.testing.assert_array_equal(layer(tf.constant([257.0, 999.0])), table[[257, 999]])
    splits = tf.constant([0, 1], tf.int64)
    weighted = layer((tf.constant([257]), splits), tf.constant([1.0078125 + 2**-12]))
    want = tf.cast(layer.embeddings.value[257] * (1.0078125 + 2**-12), tf.bfloat16)
    np.testing.assert_array_equal(weighted[0], want)


@pytest.mark.parametrize(
    ("dtype", "capacity"), [("float32", 2**24 + 1), ("float16", 2049), ("bfloat16", 257)]
)
def test_float_ids_that_cannot_name_every_row_are_refused(dtype: str, capacity: int) -> None:
    layer = fft.layers.PooledEmbedding(3, 1, capacity=capacity, embeddings_initializer="zeros")
    message = f"ids of {dtype} cannot tell rows above {capacity - 1} apart"
    with pytest.raises(ValueError, match=message):
        layer(tf.constant([1], dtype))
    assert layer(tf.constant([1])).shape == (1, 1)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="num_rows and dim must be at least 1; got 0 and 4"):
        fft.layers.PooledEmbedding(0, 4)
    with pytest.raises(ValueError, match="pooling must be one of 'sum', 'mean', 'sqrtn'; got 'ma"):
        fft.layers.PooledEmbedding(3, 4, pooling="max")
    layer = fft.layers.PooledEmbedding(NUM_ROWS, 4)
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=re.escape("values[1] = 31 is not a row of a table with 31 rows"),
    ):
        layer(tf.constant([0, NUM_ROWS]))
    with pytest.raises(ValueError, match=re.escape("must have shape [batch] or [batch, n]")):
        layer(tf.zeros([1, 1, 1], tf.int64))
