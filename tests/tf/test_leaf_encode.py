from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from feedfast.tf.leaf_embedding import leaf_encode
from feedfast.trees import LeafEncoder

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def encoder() -> LeafEncoder:
    return LeafEncoder.open(DATA / "forest_v1.bin")


@pytest.fixture
def smaller(tmp_path: Path) -> LeafEncoder:
    """The last two trees of the same model."""
    model = json.loads((DATA / "forest_v1.json").read_text())
    forest = model["learner"]["gradient_booster"]["model"]
    forest["trees"] = forest["trees"][2:]
    forest["gbtree_model_param"]["num_trees"] = "2"
    path = tmp_path / "smaller.json"
    path.write_text(json.dumps(model))
    return LeafEncoder.from_xgboost(path)


def features(rows: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(20_240_604)
    x = rng.standard_normal((rows, 5), dtype=np.float32)
    x[rng.random(x.shape) < 0.2] = np.nan
    return x


def image(encoder: LeafEncoder) -> tf.Tensor:
    return tf.constant(np.frombuffer(encoder.to_bytes(), np.uint8))


@pytest.mark.parametrize("rows", [0, 1, 9, 5000])
def test_op_equals_the_encoder(encoder: LeafEncoder, rows: int) -> None:
    x = features(rows)
    leaves = leaf_encode(x, encoder)
    assert leaves.dtype == tf.int32
    np.testing.assert_array_equal(leaves, encoder(x))


def test_one_kernel_serves_changing_forests(encoder: LeafEncoder, smaller: LeafEncoder) -> None:
    x = features(20)

    @tf.function(input_signature=[tf.TensorSpec([None, 5]), tf.TensorSpec([None], tf.uint8)])
    def encode(rows: tf.Tensor, forest: tf.Tensor) -> tf.Tensor:
        return leaf_encode(rows, forest)

    for each in (encoder, smaller, smaller, encoder):
        np.testing.assert_array_equal(encode(x, image(each)), each(x))


def test_a_constant_forest_gives_a_static_shape(encoder: LeafEncoder) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 5])])
    def encode(rows: tf.Tensor) -> tf.Tensor:
        leaves = leaf_encode(rows, encoder)
        assert leaves.shape.as_list() == [None, 4]
        return leaves

    np.testing.assert_array_equal(encode(features(3)), encoder(features(3)))


def test_dataset_map_in_parallel(encoder: LeafEncoder) -> None:
    x = features(64)
    batches = tf.data.Dataset.from_tensor_slices(x).batch(8)
    leaves = list(batches.map(lambda rows: leaf_encode(rows, encoder), num_parallel_calls=2))
    np.testing.assert_array_equal(np.concatenate(leaves), encoder(x))


def test_a_saved_model_holds_the_forest(encoder: LeafEncoder, tmp_path: Path) -> None:
    module = tf.Module()
    module.encode = tf.function(
        lambda rows: leaf_encode(rows, encoder), input_signature=[tf.TensorSpec([None, 5])]
    )
    tf.saved_model.save(module, str(tmp_path / "model"))
    code = f"""
import warnings
warnings.simplefilter("ignore")
import numpy as np, tensorflow as tf, feedfast.tf
module = tf.saved_model.load({str(tmp_path / "model")!r})
np.save({str(tmp_path / "leaves.npy")!r}, module.encode(np.load({str(tmp_path / "x.npy")!r})))
"""
    np.save(tmp_path / "x.npy", features(30))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "leaves.npy"), encoder(features(30)))


def test_leaves_have_no_gradient(encoder: LeafEncoder) -> None:
    x = tf.constant(features(4))
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(tf.cast(leaf_encode(x, encoder), tf.float32))
    assert tape.gradient(total, x) is None


def test_wrong_inputs_are_named(encoder: LeafEncoder) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="x has 4 columns; the forest was"):
        leaf_encode(features(2)[:, :4], encoder)
    with pytest.raises(tf.errors.InvalidArgumentError, match="x must have 2 dimensions; got 1"):
        leaf_encode(features(2)[0], encoder)
    altered = bytearray(encoder.to_bytes())
    altered[-1] ^= 1
    with pytest.raises(tf.errors.DataLossError, match="the checksum does not match"):
        leaf_encode(features(2), tf.constant(np.frombuffer(altered, np.uint8)))
    with pytest.raises(ValueError, match="must be rank 2"), tf.Graph().as_default():
        leaf_encode(tf.zeros([3]), encoder)
