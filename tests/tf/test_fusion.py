from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from feedfast import _core
from feedfast.tf.fusion import fuse, unfuse

SHAPES = [(7, 9), (), (0, 3), (64,), (3, 1, 5), (100_003,)]
ARENAS = {"float32": _core.FusionArenaFloat32, "float64": _core.FusionArenaFloat64}


def tensors(dtype: str) -> list[tf.Tensor]:
    rng = np.random.default_rng(20_240_608)
    return [tf.constant(rng.standard_normal(shape), dtype=dtype) for shape in SHAPES]


@pytest.mark.parametrize("dtype", ARENAS)
def test_fused_vector_is_the_arena_of_one_micro_batch(dtype: str) -> None:
    values = tensors(dtype)
    arena = ARENAS[dtype](SHAPES)
    arena.accumulate([np.asarray(value) for value in values])
    fused = fuse(values)
    np.testing.assert_array_equal(fused, arena.fused)
    for value, back in zip(values, unfuse(fused, SHAPES), strict=True):
        np.testing.assert_array_equal(back, value)


def test_a_vector_that_starts_off_a_cache_line_is_copied() -> None:
    values = tensors("float32")
    fused = fuse(values)
    shifted = tf.concat([[0.0], fused], axis=0)[1:]
    for value, back in zip(values, unfuse(shifted, SHAPES), strict=True):
        np.testing.assert_array_equal(back, value)


def test_shapes_are_static_where_they_are_known() -> None:
    @tf.function(input_signature=[tf.TensorSpec([5]), tf.TensorSpec([None, 2])])
    def roundtrip(known: tf.Tensor, unknown: tf.Tensor) -> list[tf.Tensor]:
        assert fuse([known, known]).shape.as_list() == [32]
        fused = fuse([known, unknown])
        assert fused.shape.as_list() == [None]
        back = unfuse(fused, [[5], tf.shape(unknown)])
        assert back[0].shape.as_list() == [5]
        assert back[1].shape.as_list() == [None, 2]
        return back

    first, second = roundtrip(tf.range(5.0), tf.ones([3, 2]))
    np.testing.assert_array_equal(first, np.arange(5))
    np.testing.assert_array_equal(second, np.ones((3, 2)))


def test_gradients_equal_numeric_ones() -> None:
    first, second = (
        tf.random.stateless_normal([2, 3], [1, 2]),
        tf.random.stateless_normal([], [3, 4]),
    )

    def through_both(*values: tf.Tensor) -> tf.Tensor:
        fused = fuse(values)
        weighted = fused * tf.range(1.0, 1.0 + tf.cast(tf.size(fused), tf.float32))
        back = unfuse(weighted**2, [[2, 3], []])
        return tf.reduce_sum(back[0]) * back[1]

    theory, numeric = tf.test.compute_gradient(through_both, [first, second], delta=1e-2)
    for got, want in zip(theory, numeric, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-2, atol=1e-2 * np.abs(want).max())


def test_a_tensor_that_is_not_used_has_gradient_zero() -> None:
    values = [tf.ones([3]), tf.ones([4])]
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = tf.reduce_sum(unfuse(fuse(values), [[3], [4]])[1] * 2)
    first, second = tape.gradient(loss, values)
    np.testing.assert_array_equal(first, np.zeros(3))
    np.testing.assert_array_equal(second, np.full(4, 2))


@pytest.mark.parametrize(
    ("fused", "shapes", "message"),
    [
        (tf.zeros([31]), [[5], [3]], "the 2 shapes need a vector of 32 elements"),
        (tf.zeros([16, 2]), [[5], [3]], "must be rank 1|the 2 shapes need a vector of 32"),
        (tf.zeros([16]), [[-1]], r"-1"),
    ],
)
def test_wrong_vectors_are_named(fused: tf.Tensor, shapes: Any, message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        unfuse(fused, shapes)


def test_nothing_to_fuse_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one tensor; got none"):
        fuse([])
    with pytest.raises(ValueError, match="at least one shape; got none"):
        unfuse(tf.zeros([0]), [])
