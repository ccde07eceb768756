"""What tf.nn documents for its two sparse lookups, case by case, with tf.nn itself beside ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import feedfast.tf as fft

COMBINERS = ["mean", "sqrtn", "sum"]
PAIRS = {
    "embedding_lookup_sparse": (fft.embedding_lookup_sparse, tf.nn.embedding_lookup_sparse),
    "safe_embedding_lookup_sparse": (
        fft.safe_embedding_lookup_sparse,
        tf.nn.safe_embedding_lookup_sparse,
    ),
}
# The documented matrix: rows 0 and 2 of other lengths, an id at column 3.
INDICES = [[0, 0], [0, 1], [1, 0], [2, 3]]
SHAPE = (3, 4)


def table(rows: int = 10, *row_shape: int, dtype: Any = tf.float32) -> tf.Tensor:
    rng = np.random.default_rng(7)
    return tf.cast(rng.standard_normal((rows, *(row_shape or (20,)))), dtype)


def sparse(values: Any, dtype: Any, indices: Any = INDICES, shape: Any = SHAPE) -> tf.SparseTensor:
    return tf.SparseTensor(indices, tf.constant(values, dtype), shape)


def ragged_like(tensor: tf.SparseTensor) -> tf.RaggedTensor:
    rows = tensor.indices[:, 0]
    return tf.RaggedTensor.from_value_rowids(tensor.values, rows, nrows=tensor.dense_shape[0])


def assert_alike(
    name: str, params: tf.Tensor, ids: Any, weights: Any, *, atol: float = 1e-5, **options: Any
) -> tf.Tensor:
    """Same result, dtype, shape and gradient by the table as tf.nn; returns the result."""
    results = []
    for function in PAIRS[name]:
        variable = tf.Variable(params)
        with tf.GradientTape() as tape:
            out = function(variable, ids, weights, **options)
            loss = tf.reduce_sum(tf.cast(out, tf.float32) ** 2)
        gradient = tf.convert_to_tensor(tape.gradient(loss, variable))
        results.append((out, gradient))
    (ours, our_gradient), (theirs, their_gradient) = results
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    for got, want in ((ours, theirs), (our_gradient, their_gradient)):
        np.testing.assert_allclose(
            tf.cast(got, tf.float32), tf.cast(want, tf.float32), rtol=1e-4, atol=atol
        )
    return ours


@pytest.mark.parametrize("kind", ["sparse", "ragged"])
@pytest.mark.parametrize("combiner", [None, *COMBINERS])
@pytest.mark.parametrize("name", PAIRS)
def test_the_documented_formulas(name: str, combiner: Any, kind: str) -> None:
    params = table()
    ids: Any = sparse([1, 3, 0, 1], tf.int64)
    weights: Any = sparse([2.0, 0.5, 1.0, 3.0], tf.float32)
    if kind == "ragged":
        ids, weights = ragged_like(ids), ragged_like(weights)
    assert_alike(name, params, ids, None, combiner=combiner)
    out = assert_alike(name, params, ids, weights, combiner=combiner)
    p = params.numpy()
    divisor = {"sum": 1, "sqrtn": np.sqrt(2.0**2 + 0.5**2)}.get(combiner or "mean", 2.0 + 0.5)
    np.testing.assert_allclose(out[0], (p[1] * 2.0 + p[3] * 0.5) / divisor, rtol=1e-5, atol=1e-6)
    factor = 3.0 if combiner == "sum" else 1.0
    np.testing.assert_allclose(out[2], p[1] * factor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("combiner", COMBINERS)
def test_safe_documented_example_prunes_ids_below_0_and_fills_with_the_default(
    combiner: Any,
) -> None:
    ids = sparse([1, 3, -1, 1], tf.int64)
    weights = sparse([2.0, 0.5, 1.0, 3.0], tf.float32)
    name = "safe_embedding_lookup_sparse"
    params = table()
    out = assert_alike(name, params, ids, weights, combiner=combiner, default_id=0)
    np.testing.assert_allclose(out[1], params[0], rtol=1e-6)
    assert not assert_alike(name, params, ids, weights, combiner=combiner).numpy()[1].any()
    assert not assert_alike(name, params, ids, None, combiner=combiner).numpy()[1].any()


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("kind", ["sparse", "ragged"])
def test_weights_below_0_and_at_0(combiner: Any, kind: str) -> None:
    """embedding_lookup_sparse combines them; the safe one prunes them unless it sums."""
    ids: Any = sparse([1, 3, 0, 1], tf.int64)
    for values in ([-2.0, 0.5, -1.0, 3.0], [0.0, 0.5, 0.0, -3.0], [-0.5, 0.5, 1.0, 1.0]):
        weights: Any = sparse(values, tf.float32)
        pair = (ragged_like(ids), ragged_like(weights)) if kind == "ragged" else (ids, weights)
        # tf.nn's slope of sqrtn is NaN where all weights of a row are 0; nobody needs that.
        if combiner != "sqrtn" or values[2] != 0.0:
            assert_alike("embedding_lookup_sparse", table(), *pair, combiner=combiner)
        for default_id in (None, 4):
            assert_alike(
                "safe_embedding_lookup_sparse",
                table(),
                *pair,
                combiner=combiner,
                default_id=default_id,
            )


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("max_norm", [0.1, 3.0, 100.0])
def test_max_norm_clips_rows_before_they_are_combined(
    name: str, weighted: bool, max_norm: float
) -> None:
    params = table().numpy()
    params[3] = 0.0  # a row without a norm
    ids = sparse([1, 3, 0, 1], tf.int64)
    weights = sparse([2.0, 0.5, 1.0, 3.0], tf.float32) if weighted else None
    for combiner in COMBINERS:
        assert_alike(name, params, ids, weights, combiner=combiner, max_norm=max_norm)
    if name.startswith("safe"):
        missing = sparse([1, 3, -1, 1], tf.int64)
        assert_alike(name, params, missing, weights, default_id=2, max_norm=max_norm)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("allow_fast_lookup", [False, True])
def test_allow_fast_lookup_changes_no_result(name: str, allow_fast_lookup: bool) -> None:
    ids = sparse([1, 3, 0, 1], tf.int64)
    weights = sparse([2.0, 0.5, 1.0, 3.0], tf.float32)
    for sp_weights in (None, weights):
        assert_alike(name, table(), ids, sp_weights, allow_fast_lookup=allow_fast_lookup)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("ids_type", [tf.int32, tf.int64])
@pytest.mark.parametrize("weights_type", [tf.float32, tf.float64])
def test_types_of_ids_and_weights(name: str, ids_type: Any, weights_type: Any) -> None:
    ids = sparse([1, 3, 0, 1], ids_type)
    assert_alike(name, table(), ragged_like(ids), None)
    weights = sparse([2.0, 0.5, 1.0, 3.0], weights_type)
    if name.startswith("safe") and weights_type == tf.float64:  # tf.nn wants the table's type
        want = fft.embedding_lookup_sparse(table(), ids, weights)
        np.testing.assert_array_equal(fft.safe_embedding_lookup_sparse(table(), ids, weights), want)
    else:
        assert_alike(name, table(), ids, weights)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_tables_of_two_bytes(name: str, dtype: Any) -> None:
    ids = sparse([1, 3, 0, 1], tf.int64)
    # The safe one of tf.nn wants weights of the table's type.
    weights = sparse([2.0, 0.5, 1.0, 3.0], dtype if name.startswith("safe") else tf.float32)
    # one rounding to the table's type, or one after each op
    atol = 0.01 if dtype == tf.float16 else 0.1
    assert_alike(name, table(dtype=dtype), ids, weights, atol=atol)


@pytest.mark.parametrize("name", PAIRS)
def test_rows_of_more_dimensions(name: str) -> None:
    ids = sparse([1, 3, 0, 1], tf.int64)
    weights = sparse([2.0, 0.5, 1.0, 3.0], tf.float32)
    for combiner in COMBINERS:
        if name.startswith("safe"):  # documented by tf.nn too, whose mask for empty rows has rank 2
            out = fft.safe_embedding_lookup_sparse(table(10, 2, 3), ids, weights, combiner)
            want = fft.embedding_lookup_sparse(table(10, 2, 3), ids, weights, combiner)
            np.testing.assert_array_equal(out, want)
        else:
            out = assert_alike(name, table(10, 2, 3), ids, weights, combiner=combiner)
        assert out.shape == (3, 2, 3)


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("default_id", [None, 5])
def test_safe_ids_of_any_rank(combiner: Any, default_id: int | None) -> None:
    """[d0, ..., dn] gives [d0, ..., dn-1, p1, ...]; rows without ids at the end count too."""
    indices = [[0, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 2], [1, 0, 1, 0]]
    shape = (2, 2, 2, 3)
    ids = sparse([4, 2, -7, 9], tf.int64, indices, shape)
    weights = sparse([1.0, 2.0, 0.5, 0.25], tf.float32, indices, shape)
    for sp_weights in (None, weights):
        out = assert_alike(
            "safe_embedding_lookup_sparse",
            table(),
            ids,
            sp_weights,
            combiner=combiner,
            default_id=default_id,
        )
        assert out.shape == (2, 2, 2, 20)


@pytest.mark.parametrize("kind", ["sparse", "ragged"])
@pytest.mark.parametrize("default_id", [None, 3])
def test_safe_without_any_id_left(kind: str, default_id: int | None) -> None:
    ids: Any = sparse([-1, -2, -1, -5], tf.int64)
    if kind == "ragged":
        ids = ragged_like(ids)
    assert_alike("safe_embedding_lookup_sparse", table(), ids, None, default_id=default_id)


def test_empty_rows_between_others_are_zeros_as_in_tf_nn() -> None:
    indices = [[0, 0], [3, 0], [3, 1], [4, 2]]
    ids = sparse([1, 3, 0, 1], tf.int64, indices, (5, 4))
    for combiner in COMBINERS:
        out = assert_alike("embedding_lookup_sparse", table(), ids, None, combiner=combiner)
        assert not out.numpy()[1:3].any()


@pytest.mark.parametrize("name", PAIRS)
def test_a_list_of_one_table_and_a_keras_variable(name: str) -> None:
    ours, theirs = PAIRS[name]
    ids = sparse([1, 3, 0, 1], tf.int64)
    want = theirs([table()], ids, None)
    for params in ([table()], (table(),), [tf.Variable(table())], keras.Variable(table())):
        np.testing.assert_allclose(ours(params, ids, None), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_partitioned_tables_are_refused_and_no_table_too(name: str) -> None:
    """tf.nn spreads ids over several tables by its "div" strategy; ours says who does."""
    ours, theirs = PAIRS[name]
    ids = sparse([1, 3, 0, 1], tf.int64)
    with pytest.raises(ValueError, match=re.escape("params must be one table; got 2. Use tf.nn")):
        ours([table(5), table(5)], ids, None)
    for function in (ours, theirs):
        with pytest.raises(ValueError):  # noqa: PT011 (tf.nn's message is its own)
            function([], ids, None)
    with pytest.raises(TypeError, match="table must be one of float32, float16, bfloat16; got flo"):
        ours(table(dtype=tf.float64), ids, None)


def test_documented_errors() -> None:
    ids = sparse([1, 3, 0, 1], tf.int64)
    for function in PAIRS["embedding_lookup_sparse"]:
        for wrong in (tf.constant([[1]]), [1, 2]):
            with pytest.raises(TypeError):
                function(table(), wrong, None)
        with pytest.raises(TypeError):
            function(table(), ids, tf.ones([4]))
        with pytest.raises(TypeError):
            function(table(), ragged_like(ids), sparse([1.0] * 4, tf.float32))
    for pair in PAIRS.values():
        for function in pair:
            with pytest.raises(ValueError, match="combiner must be one of 'mean', 'sqrtn' or 'su"):
                function(table(), ids, None, combiner="max")


@pytest.mark.parametrize("bad_id", [-1, 10])
def test_ids_outside_the_table_are_errors(bad_id: int) -> None:
    ids = sparse([1, 3, bad_id, 1], tf.int64)
    for function in PAIRS["embedding_lookup_sparse"]:
        with pytest.raises(tf.errors.InvalidArgumentError):
            function(tf.Variable(table()), ids, None)
    if bad_id >= 0:
        for function in PAIRS["safe_embedding_lookup_sparse"]:
            with pytest.raises(tf.errors.InvalidArgumentError):
                function(tf.Variable(table()), ids, None)


def test_rows_out_of_order_are_errors() -> None:
    """Both ask for indices in row-major order."""
    ids = sparse([1, 3], tf.int64, [[1, 0], [0, 0]], (2, 1))
    for function in PAIRS["embedding_lookup_sparse"]:
        with pytest.raises(tf.errors.InvalidArgumentError):
            function(tf.Variable(table()), ids, None)
    message = "rows[1] = 0 is below rows[0] = 1; they must ascend"
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(message)):
        fft.embedding_lookup_sparse(table(), ids, None)
    outside = sparse([1, 3], tf.int64, [[0, 0], [2, 0]], (2, 1))
    message = "rows[1] = 2 is not one of 2 rows"
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(message)):
        fft.embedding_lookup_sparse(table(), outside, None)


def test_weights_of_another_length_are_errors() -> None:
    ids = sparse([1, 3, 0, 1], tf.int64)
    weights = sparse([1.0], tf.float32, [[0, 0]])
    for function in PAIRS["embedding_lookup_sparse"]:
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            function(tf.Variable(table()), ids, weights)


@pytest.mark.parametrize("name", PAIRS)
def test_traced_with_unknown_shapes(name: str) -> None:
    ours, theirs = PAIRS[name]
    variable = tf.Variable(table())

    def traced(function: Any) -> Any:
        @tf.function(
            input_signature=[
                tf.SparseTensorSpec([None, None], tf.int64),
                tf.SparseTensorSpec([None, None], tf.float32),
            ]
        )
        def call(ids: Any, weights: Any) -> Any:
            return function(variable, ids, weights)

        return call

    for rows in (3, 4):  # 4: one without ids behind the others, which the safe ones keep
        ids = sparse([1, 3, 0, 1], tf.int64, shape=(rows, 4))
        weights = sparse([2.0, 0.5, 1.0, 3.0], tf.float32, shape=(rows, 4))
        got, want = traced(ours)(ids, weights), traced(theirs)(ids, weights)
        assert got.shape == (rows, 20)
        np.testing.assert_allclose(got[: len(want)], want, rtol=1e-5, atol=1e-6)


def test_static_shape_of_the_result() -> None:
    variable = tf.Variable(table())

    @tf.function
    def call(values: Any) -> Any:
        out = fft.embedding_lookup_sparse(variable, tf.SparseTensor(INDICES, values, SHAPE), None)
        assert out.shape == (3, 20)
        return out

    call(tf.constant([1, 3, 0, 1], tf.int64))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("max_norm", [None, 1.5])
def test_gradients_are_the_numeric_ones(name: str, combiner: Any, max_norm: float | None) -> None:
    ours = PAIRS[name][0]
    params = table(5, 3)
    factors = tf.constant([2.0, 0.5, 1.0, 1.5])
    # The safe one has a row with its only id pruned, and one with no default.
    last = -1 if name.startswith("safe") else 4

    def ids() -> tf.SparseTensor:
        return sparse([1, 3, 1, last], tf.int64)

    def by_params(params: tf.Tensor) -> tf.Tensor:
        weights = tf.SparseTensor(INDICES, factors, SHAPE)
        return ours(params, ids(), weights, combiner=combiner, max_norm=max_norm)

    def by_weights(factors: tf.Tensor) -> tf.Tensor:
        weights = tf.SparseTensor(INDICES, factors, SHAPE)
        return ours(params, ids(), weights, combiner=combiner, max_norm=max_norm)

    cases: list[tuple[Callable[[tf.Tensor], tf.Tensor], tf.Tensor]] = [
        (by_params, params),
        (by_weights, factors),
    ]
    for function, at in cases:
        theoretical, numeric = tf.test.compute_gradient(function, [at], delta=1e-2)
        # float32 differences over 2e-2, and curvature of the norm and of sqrtn
        np.testing.assert_allclose(theoretical[0], numeric[0], atol=3e-3)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("combiner", COMBINERS)
def test_gradients_by_the_weights_are_those_of_tf_nn(name: str, combiner: Any) -> None:
    factors = tf.constant([2.0, 0.5, 1.0, 1.5])
    ids = sparse([1, 3, 1, 4], tf.int64)
    gradients = []
    for function in PAIRS[name]:
        with tf.GradientTape() as tape:
            tape.watch(factors)
            weights = tf.SparseTensor(INDICES, factors, SHAPE)
            loss = tf.reduce_sum(function(table(), ids, weights, combiner=combiner) ** 2)
        gradients.append(tf.convert_to_tensor(tape.gradient(loss, factors)))
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-4)
