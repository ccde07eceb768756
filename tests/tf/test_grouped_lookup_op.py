from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import feedfast.tf as fft
from feedfast.bags import Bags
from feedfast.tf.ops import PooledFeature

NUM_BAGS = 6


def random_features(*, seed: int = 5) -> list[PooledFeature]:
    """Three tables of two dtypes, one read twice; int32 and int64; weights and none; no ids."""
    rng = np.random.default_rng(seed)

    def table(num_rows: int, dim: int, dtype: Any = tf.float32) -> tf.Variable:
        return tf.Variable(tf.cast(rng.standard_normal((num_rows, dim)), dtype))

    def bags(num_rows: int, mean: float) -> Bags:
        lengths = rng.poisson(mean, NUM_BAGS)
        ids = rng.integers(0, num_rows, lengths.sum())
        return Bags.from_lengths(ids, lengths, rng.uniform(0.5, 2.0, ids.size))

    members, tags, posts = table(30, 5), table(9, 8, tf.bfloat16), table(12, 3)
    a, b, c, d = bags(30, 3), bags(9, 8), bags(30, 1), bags(12, 0)
    return [
        PooledFeature(members, a.values, a.offsets, a.weights, "mean"),
        PooledFeature(tags, tf.cast(b.values, tf.int32), b.offsets, None, "sqrtn"),
        PooledFeature(members, c.values, tf.cast(c.offsets, tf.int32), c.weights),
        PooledFeature(posts, d.values, d.offsets, None, "mean", column=20),
    ]


def one_by_one(features: list[PooledFeature]) -> tf.Tensor:
    parts = [
        fft.ops.pooled_lookup(f.table, f.values, f.offsets, f.weights, pooling=f.pooling)
        for f in features
    ]
    return tf.concat([*parts[:3], tf.zeros([NUM_BAGS, 2]), parts[3]], 1)


@pytest.mark.parametrize("graph", [False, True])
def test_bits_and_gradients_of_one_op_per_feature(graph: bool) -> None:
    features = random_features()
    variables = [features[0].table, features[1].table, features[3].table]
    weights = [tf.constant(features[f].weights) for f in (0, 2)]

    def with_weights() -> list[PooledFeature]:
        return [
            PooledFeature(f.table, f.values, f.offsets, w, f.pooling, f.column)
            for f, w in zip(features, [weights[0], None, weights[1], None], strict=True)
        ]

    def gradients(lookup: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            pooled = lookup(with_weights())
            loss = tf.reduce_sum(pooled * pooled)
        return pooled, tape.gradient(loss, [*variables, *weights])

    run = tf.function(gradients) if graph else gradients
    ours, our_gradients = run(fft.ops.pooled_lookup_grouped)
    want, want_gradients = run(one_by_one)
    assert ours.shape == (NUM_BAGS, 23)
    assert ours.numpy().tobytes() == want.numpy().tobytes()
    for our, their in zip(our_gradients, want_gradients, strict=True):
        assert type(our) is type(their)
        our, their = tf.convert_to_tensor(our), tf.convert_to_tensor(their)
        assert our.dtype == their.dtype
        np.testing.assert_allclose(
            tf.cast(our, tf.float32), tf.cast(their, tf.float32), rtol=1e-5, atol=1e-5
        )


def test_reads_follow_updates_and_shapes_are_static() -> None:
    variable = tf.Variable(tf.zeros([3, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def step(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        feature = PooledFeature(variable, ids, tf.constant([0, 1]))
        before = fft.ops.pooled_lookup_grouped([feature])
        assert before.shape == (1, 2)
        variable.scatter_add(tf.IndexedSlices(tf.ones([1, 2]), [1]))
        return before, fft.ops.pooled_lookup_grouped([feature, feature])

    before, after = step([1])
    assert before.numpy().tolist() == [[0, 0]]
    assert after.numpy().tolist() == [[1, 1, 1, 1]]


def test_reads_the_tables_of_the_replica() -> None:
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with strategy.scope():
        table = tf.Variable(tf.reshape(tf.range(8.0), [4, 2]))

    @tf.function
    def lookup() -> tf.Tensor:
        return fft.ops.pooled_lookup_grouped([PooledFeature(table, [1, 3], [0, 1, 2])])

    np.testing.assert_array_equal(strategy.run(lookup), [[2, 3], [6, 7]])
    with strategy.scope():  # of no replica
        np.testing.assert_array_equal(lookup(), [[2, 3], [6, 7]])


def test_bad_input_reads_as_in_numpy() -> None:
    table = tf.Variable(tf.ones([4, 2]))
    good = PooledFeature(table, [0], [0, 1])
    for bad, message in (
        (PooledFeature(table, [1, 4], [0, 2]), "features[1].values[1] = 4 is not a row of a table"),
        (PooledFeature(table, [1], [0, 2]), "features[1].offsets[1] = 2 must equal the number of"),
        (PooledFeature(table, [1], [0, 1, 1]), "features[1] has 2 bags; all must have as many as"),
        (PooledFeature(table, [1], [0, 1], column=1), "features[1].column = 1 lies in the columns"),
        (PooledFeature(table, [1], [0, 1], [np.nan]), "features[1].weights[0] = nan is not finite"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(message)):
            fft.ops.pooled_lookup_grouped([good, bad])
    with pytest.raises(TypeError, match=re.escape("features[1].table must be a variable")):
        fft.ops.pooled_lookup_grouped([good, PooledFeature(tf.ones([4, 2]), [1], [0, 1])])
    with pytest.raises(ValueError, match="features must hold at least one feature"):
        fft.ops.pooled_lookup_grouped([])
    with pytest.raises(TypeError, match="values must be an integer tensor that fits int64; got fl"):
        fft.ops.pooled_lookup_grouped([PooledFeature(table, [0.5], [0, 1])])
