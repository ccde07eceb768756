from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from feedfast.tf.layers import LeafEmbedding
from feedfast.tf.ops import leaf_encode
from feedfast.trees import LeafEncoder

POOLINGS = ["sqrtn", "sum", "concat"]
NUM_LEAVES, DIM, NUM_TREES = 37, 5, 6


def layer_with_table(pooling: str) -> tuple[LeafEmbedding, NDArray[np.float32]]:
    layer = LeafEmbedding(NUM_LEAVES, DIM, NUM_TREES, pooling=pooling)
    layer.build((None, NUM_TREES))
    table = np.random.default_rng(1).standard_normal((NUM_LEAVES, DIM), dtype=np.float32)
    layer.set_weights([table])
    return layer, table


def random_leaves(batch: int) -> NDArray[np.int32]:
    leaves = np.random.default_rng(2).integers(0, NUM_LEAVES, (batch, NUM_TREES), dtype=np.int32)
    if batch:
        leaves[0] = NUM_LEAVES - 1  # the last row, repeated
    return leaves


def expected(table: NDArray[np.float32], leaves: NDArray[np.int32], pooling: str) -> NDArray:
    rows = table[leaves].astype(np.float64)
    if pooling == "concat":
        return rows.reshape(len(leaves), NUM_TREES * DIM)
    return rows.sum(axis=1) / (np.sqrt(NUM_TREES) if pooling == "sqrtn" else 1.0)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("batch", [0, 1, 33])
def test_layer_combines_the_rows_of_an_example(pooling: str, batch: int) -> None:
    layer, table = layer_with_table(pooling)
    leaves = random_leaves(batch)
    out = layer(leaves)
    assert out.shape == layer.compute_output_shape((batch, NUM_TREES))
    # float32 sums of six numbers below 4
    np.testing.assert_allclose(out, expected(table, leaves, pooling), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradient_is_sparse_and_equals_the_dense_one(pooling: str) -> None:
    layer, _ = layer_with_table(pooling)
    leaves = random_leaves(9)
    width = layer.compute_output_shape((9, NUM_TREES))[1]
    upstream = np.random.default_rng(3).standard_normal((9, width)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(leaves) * upstream)
    gradient = tape.gradient(loss, layer.embeddings.value)
    assert isinstance(gradient, tf.IndexedSlices)
    want = np.zeros((NUM_LEAVES, DIM))
    by_tree = upstream.reshape(9, -1, DIM).astype(np.float64)
    if pooling == "sqrtn":
        by_tree = by_tree / np.sqrt(NUM_TREES)
    np.add.at(want, leaves, np.broadcast_to(by_tree, (9, NUM_TREES, DIM)))
    np.testing.assert_allclose(tf.convert_to_tensor(gradient), want, rtol=1e-5, atol=1e-5)


def test_wrong_leaves_are_named() -> None:
    layer, _ = layer_with_table("sqrtn")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"values\[5\] = 37"):
        layer(tf.constant([[0, 1, 2, 3, 4, NUM_LEAVES]]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"values\[0\] = -1"):
        layer(tf.constant([[-1, 1, 2, 3, 4, 5]]))
    with pytest.raises(ValueError, match=r"leaves must have shape \[batch, 6\]; got \(1, 5\)"):
        LeafEmbedding(NUM_LEAVES, DIM, NUM_TREES)(tf.zeros([1, 5], tf.int32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_leaves": 5}, "6 trees have at least as many leaves; got 5"),
        ({"dim": 0}, "dim and num_trees must be at least 1; got 0 and 6"),
        ({"pooling": "mean"}, "one of 'sqrtn', 'sum', 'concat'; got 'mean'"),
    ],
)
def test_impossible_layers_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeafEmbedding(**{"num_leaves": 37, "dim": 5, "num_trees": 6, **arguments})


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_model_on_leaves_trains_saves_and_loads(tmp_path: Path) -> None:
    encoder = LeafEncoder.open(Path(__file__).parents[1] / "data" / "forest_v1.bin")
    rng = np.random.default_rng(4)
    x = rng.standard_normal((256, 5), dtype=np.float32)
    leaves = np.asarray(leaf_encode(x, encoder))
    clicked = (leaves[:, 1] % 2).astype(np.float32)
    keras.utils.set_random_seed(20_240_609)
    inputs = keras.Input((encoder.num_trees,), dtype="int32")
    pooled = LeafEmbedding(encoder.num_leaves, 4, encoder.num_trees, name="leaves")(inputs)
    assert pooled.shape == (None, 4)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(pooled))
    model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy")
    history = model.fit(leaves, clicked, epochs=5, batch_size=32, verbose=0).history["loss"]
    assert history[-1] < history[0]
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(
        loaded.predict(leaves, verbose=0), model.predict(leaves, verbose=0)
    )
    assert loaded.get_layer("leaves").get_config() == model.get_layer("leaves").get_config()


def test_mixed_precision_keeps_the_table_in_float32() -> None:
    layer = LeafEmbedding(NUM_LEAVES, DIM, NUM_TREES, dtype="mixed_bfloat16")
    out = layer(random_leaves(3))
    assert out.dtype == tf.bfloat16
    assert layer.embeddings.dtype == "float32"
