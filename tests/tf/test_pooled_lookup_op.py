from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import feedfast as ff
import feedfast.tf as fft
from feedfast.bags import Bags

NUM_ROWS = 23
POOLINGS = ["sum", "mean", "sqrtn"]


def random_bags(*, seed: int = 20_240_601) -> Bags:
    """Empty bags at both ends and between, repeated ids, both ends of the table."""
    rng = np.random.default_rng(seed)
    lengths = [0, 3, 1, 0, 40, 2, 3, 0]
    values = rng.integers(0, NUM_ROWS, sum(lengths))
    values[-5:] = [0, NUM_ROWS - 1, 7, 7, 7]
    return Bags.from_lengths(values, lengths, rng.uniform(0.1, 2.0, values.size))


def random_table(dim: int = 5, dtype: Any = tf.float32) -> tf.Tensor:
    rng = np.random.default_rng(1)
    return tf.cast(rng.standard_normal((NUM_ROWS, dim)), dtype)


def ragged(bags: Bags) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    return (
        tf.RaggedTensor.from_row_splits(bags.values, bags.offsets),
        tf.RaggedTensor.from_row_splits(bags.weights, bags.offsets),
    )


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.bfloat16])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("weighted", [False, True])
def test_same_bits_as_numpy_from_variable_and_tensor(
    dtype: Any, pooling: Any, weighted: bool
) -> None:
    bags = random_bags()
    table = random_table(dtype=dtype)
    weights = bags.weights if weighted else None
    want = ff.pooled_lookup(table.numpy(), bags.values, bags.offsets, weights, pooling)
    for source in (table, tf.Variable(table)):
        got = fft.ops.pooled_lookup(source, bags.values, bags.offsets, weights, pooling=pooling)
        assert got.numpy().tobytes() == want.tobytes()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradients_agree_with_numeric_ones(pooling: Any) -> None:
    bags = random_bags()
    table = random_table()

    def by_table(table: tf.Tensor) -> tf.Tensor:
        return fft.ops.pooled_lookup(
            table, bags.values, bags.offsets, bags.weights, pooling=pooling
        )

    def by_weights(weights: tf.Tensor) -> tf.Tensor:
        return fft.ops.pooled_lookup(table, bags.values, bags.offsets, weights, pooling=pooling)

    for function, at in ((by_table, table), (by_weights, tf.constant(bags.weights))):
        theoretical, numeric = tf.test.compute_gradient(function, [at], delta=1e-2)
        # float32 differences over 2e-2, and the curvature of sqrtn
        np.testing.assert_allclose(theoretical[0], numeric[0], atol=2e-3)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("graph", [False, True])
def test_gradients_of_a_variable_are_those_of_gather_and_pool(
    pooling: Any, weighted: bool, graph: bool
) -> None:
    bags = random_bags()
    variable = tf.Variable(random_table())
    weights = tf.constant(bags.weights)
    scale = tf.random.stateless_normal([bags.num_bags, 5], seed=[1, 2])

    def ours() -> tf.Tensor:
        return fft.ops.pooled_lookup(
            variable,
            bags.values,
            bags.offsets,
            weights if weighted else None,
            pooling=pooling,
        )

    def plain() -> tf.Tensor:
        rows = np.repeat(np.arange(bags.num_bags), bags.lengths)
        w = weights if weighted else tf.ones_like(weights)
        total = tf.math.unsorted_segment_sum(
            tf.gather(variable, bags.values) * w[:, None], rows, bags.num_bags
        )
        if pooling == "sum":
            return total
        power = w if pooling == "mean" else w * w
        divisor = tf.math.unsorted_segment_sum(power, rows, bags.num_bags)
        if pooling == "sqrtn":
            # an empty bag has no slope; sqrt has none at 0
            divisor = tf.sqrt(tf.where(divisor == 0, 1.0, divisor))
        return tf.math.divide_no_nan(total, divisor[:, None])

    def gradients(lookup: Callable[[], tf.Tensor]) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_sum(lookup() ** 2 * scale)
        return tuple(tape.gradient(loss, [variable, weights]))

    run = tf.function(gradients) if graph else gradients
    slices, by_weights = run(ours)
    dense, want_by_weights = run(plain)
    assert isinstance(slices, tf.IndexedSlices)
    touched = np.unique(bags.values)
    assert slices.indices.numpy().tolist() == touched.tolist()
    assert slices.dense_shape.numpy().tolist() == [NUM_ROWS, 5]
    np.testing.assert_allclose(
        tf.convert_to_tensor(slices), tf.convert_to_tensor(dense), rtol=1e-4, atol=1e-4
    )
    if weighted:
        np.testing.assert_allclose(by_weights, want_by_weights, rtol=1e-4, atol=1e-3)
    else:
        assert by_weights is None


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_gradient_has_the_dtype_of_the_table(dtype: Any) -> None:
    variable = tf.Variable(random_table(dtype=dtype))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(fft.ops.pooled_lookup(variable, [1, 1], [0, 2]))
    gradient = tape.gradient(loss, variable)
    assert gradient.dtype == dtype
    assert tf.cast(gradient.values, tf.float32).numpy().tolist() == [[2.0] * 5]


@pytest.mark.parametrize("values_type", [tf.int32, tf.int64])
@pytest.mark.parametrize("offsets_type", [tf.int32, tf.int64])
def test_int32_ids_and_offsets(values_type: Any, offsets_type: Any) -> None:
    bags = random_bags()
    values, offsets = tf.cast(bags.values, values_type), tf.cast(bags.offsets, offsets_type)
    want = fft.ops.pooled_lookup(random_table(), bags.values, bags.offsets, bags.weights)
    for table in (random_table(), tf.Variable(random_table())):
        weights = tf.constant(bags.weights)
        with tf.GradientTape() as tape:
            tape.watch([table, weights])
            got = fft.ops.pooled_lookup(table, values, offsets, weights)
        assert got.numpy().tobytes() == want.numpy().tobytes()
        by_table, by_weights = tape.gradient(got, [table, weights])
        assert by_table.indices.dtype == tf.int64
        assert by_weights.shape == weights.shape


def test_ids_that_are_no_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="values must be an integer tensor that fits int64; got fl"):
        fft.ops.pooled_lookup(random_table(), [0.5], [0, 1])
    with pytest.raises(TypeError, match="offsets must be an integer tensor that fits int64; got u"):
        fft.ops.pooled_lookup(random_table(), [0], tf.constant([0, 1], tf.uint64))


def test_large_tables_keep_their_content_in_huge_pages() -> None:
    variable = tf.Variable(tf.random.stateless_normal([1 << 19, 40], [1, 2]))  # 84 MB
    ids = np.random.default_rng(0).integers(0, 1 << 19, 1000)
    got = fft.ops.pooled_lookup(variable, ids, np.arange(1001))
    assert (got.numpy() == tf.gather(variable, ids).numpy()).all()


def test_variable_is_watched_only_when_trainable() -> None:
    frozen = tf.Variable(random_table(), trainable=False)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(fft.ops.pooled_lookup(frozen, [1], [0, 1]))
    assert tape.gradient(loss, frozen) is None


def test_reads_follow_updates_in_program_order() -> None:
    variable = tf.Variable(tf.zeros([3, 2]))

    @tf.function
    def step() -> tuple[tf.Tensor, tf.Tensor]:
        before = fft.ops.pooled_lookup(variable, [1], [0, 1])
        variable.scatter_add(tf.IndexedSlices(tf.ones([1, 2]), [1]))
        return before, fft.ops.pooled_lookup(variable, [1], [0, 1])

    for count in range(3):
        before, after = step()
        assert before.numpy().tolist() == [[count, count]]
        assert after.numpy().tolist() == [[count + 1, count + 1]]


def test_empty_batch_and_empty_bags() -> None:
    variable = tf.Variable(random_table())
    with tf.GradientTape() as tape:
        none = fft.ops.pooled_lookup(variable, tf.zeros([0], tf.int64), [0], pooling="mean")
        empty = fft.ops.pooled_lookup(variable, tf.zeros([0], tf.int64), [0, 0, 0], pooling="mean")
        loss = tf.reduce_sum(none) + tf.reduce_sum(empty)
    assert none.shape == (0, 5)
    assert empty.numpy().tolist() == [[0.0] * 5] * 2
    assert tf.convert_to_tensor(tape.gradient(loss, variable)).numpy().any() == np.False_


def test_static_shapes() -> None:
    variable = tf.Variable(random_table())

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([4], tf.int64)],
    )
    def lookup(values: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
        pooled = fft.ops.pooled_lookup(variable, values, offsets)
        assert pooled.shape == (3, 5)
        return pooled

    assert lookup([1], [0, 0, 1, 1]).shape == (3, 5)


@pytest.mark.parametrize(
    ("values", "offsets", "weights", "message"),
    [
        ([3, 23], [0, 2], None, "values[1] = 23 is not a row of a table with 23 rows"),
        ([-1], [0, 1], None, "values[0] = -1 is not a row of a table with 23 rows"),
        ([1, 2], [0, 2, 1, 2], None, "offsets[2] = 1 is below offsets[1] = 2"),
        ([1, 2], [0, 1], None, "offsets[1] = 1 must equal the number of values, 2"),
        ([1], [0, 1], [1.0, 2.0], "weights has 2 values; it must have one for each of 1 ids"),
        ([1], [0, 1], [], "weights has 0 values; it must have one for each of 1 ids"),
        ([1], [0, 1], [np.nan], "weights[0] = nan is not finite"),
        ([[1]], [0, 1], None, "values must have 1 dimensions; got 2"),
    ],
)
def test_bad_input(values: Any, offsets: Any, weights: Any, message: str) -> None:
    for table in (random_table(), tf.Variable(random_table())):
        with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(message)):
            fft.ops.pooled_lookup(table, values, offsets, weights)


def test_gradient_op_refuses_bags_that_do_not_fit() -> None:
    from feedfast.tf import _library

    grad = _library.ops().feedfast_pooled_lookup_grad
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape("must have shape [2,3]")):
        grad(tf.zeros([1, 3]), [1], [0, 1, 1], [], pooling="sum")
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape("offsets[1] = 9 must")):
        grad(tf.zeros([1, 3]), [1], [0, 9], [], pooling="sum")


def test_unsupported_tables() -> None:
    with pytest.raises(TypeError, match="table must be one of float32, float16, bfloat16; got flo"):
        fft.ops.pooled_lookup(tf.zeros([3, 2], tf.float64), [0], [0, 1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="table must have 2 dimensions; got 1"):
        fft.ops.pooled_lookup(tf.zeros([3]), [0], [0, 1])


def sparse_ids(*, seed: int = 3) -> tuple[tf.SparseTensor, tf.SparseTensor]:
    """One to five ids in each row: what tf.nn.embedding_lookup_sparse is documented for."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(9), rng.integers(1, 6, 9))
    columns = np.concatenate(
        [np.sort(rng.permutation(7)[:n]) for n in np.bincount(rows, minlength=9)]
    )
    indices = np.stack([rows, columns], 1)
    ids = rng.integers(0, NUM_ROWS, rows.size)
    weights = rng.uniform(0.1, 2.0, rows.size).astype(np.float32)
    return tf.SparseTensor(indices, ids, [9, 7]), tf.SparseTensor(indices, weights, [9, 7])


@pytest.mark.parametrize("kind", ["sparse", "ragged"])
@pytest.mark.parametrize("combiner", [None, *POOLINGS])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("max_norm", [None, 1.5])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_embedding_lookup_sparse_is_tf_nn(
    kind: str, combiner: Any, weighted: bool, max_norm: float | None, dtype: Any
) -> None:
    ids, weights = sparse_ids()
    if kind == "ragged":
        splits = tf.RaggedTensor.from_value_rowids(ids.values, ids.indices[:, 0]).row_splits
        ids = tf.RaggedTensor.from_row_splits(ids.values, splits)
        weights = tf.RaggedTensor.from_row_splits(weights.values, splits)
    variable = tf.Variable(random_table(dtype=dtype))
    results = []
    for function in (fft.embedding_lookup_sparse, tf.nn.embedding_lookup_sparse):
        with tf.GradientTape() as tape:
            out = function(
                variable, ids, weights if weighted else None, combiner=combiner, max_norm=max_norm
            )
            loss = tf.reduce_sum(tf.cast(out, tf.float32) ** 2)
        gradient = tf.convert_to_tensor(tape.gradient(loss, variable))
        results.append((out, tf.cast(gradient, tf.float32)))
    (ours, our_gradient), (theirs, their_gradient) = results
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    # bfloat16: one rounding of the result, or one after each op
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == tf.float32 else {"atol": 0.15}
    np.testing.assert_allclose(tf.cast(ours, tf.float32), tf.cast(theirs, tf.float32), **tolerance)
    np.testing.assert_allclose(our_gradient, their_gradient, **tolerance)


def test_embedding_lookup_sparse_documented_example() -> None:
    params = tf.constant([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=tf.float32)
    indices = [[0, 0], [0, 1], [1, 0], [2, 0]]
    ids = tf.SparseTensor(indices, [0, 1, 3, 2], (3, 2))
    weights = tf.SparseTensor(indices, [0.1, 1.0, 0.5, 2.0], (3, 2))
    out = fft.embedding_lookup_sparse(params, ids, None, combiner="sum")
    assert out.numpy().tolist() == [[4, 6], [7, 8], [5, 6]]
    out = fft.embedding_lookup_sparse(params, ids, weights, combiner="sum")
    np.testing.assert_allclose(out, [[3.1, 4.2], [3.5, 4.0], [10, 12]], rtol=1e-6)


def test_embedding_lookup_sparse_of_higher_rank_rows_and_a_list_of_one() -> None:
    ids, _ = sparse_ids()
    params = tf.random.stateless_normal([NUM_ROWS, 2, 3], seed=[1, 2])
    want = tf.nn.embedding_lookup_sparse(params, ids, None)
    np.testing.assert_allclose(
        fft.embedding_lookup_sparse([params], ids, None), want, rtol=1e-5, atol=1e-6
    )


def test_embedding_lookup_sparse_keeps_empty_rows() -> None:
    ids = tf.SparseTensor([[1, 0]], [2], [4, 3])
    out = fft.embedding_lookup_sparse(tf.ones([3, 2]), ids, None)
    assert out.numpy().tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]


def test_embedding_lookup_sparse_refuses_what_it_cannot_do() -> None:
    ids, weights = sparse_ids()
    table = random_table()
    with pytest.raises(ValueError, match="combiner must be one of 'mean', 'sqrtn' or 'sum'"):
        fft.embedding_lookup_sparse(table, ids, None, combiner="max")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ids must be a SparseTensor or RaggedTensor"):
        fft.embedding_lookup_sparse(table, tf.constant([1]), None)
    with pytest.raises(TypeError, match="weights must be None or a SparseTensor like the ids"):
        fft.embedding_lookup_sparse(table, ids, weights.values)
    with pytest.raises(ValueError, match="params must be one table; got 2"):
        fft.embedding_lookup_sparse([table, table], ids, None)
    unordered = tf.SparseTensor([[1, 0], [0, 0]], [1, 2], [2, 1])
    with pytest.raises(tf.errors.InvalidArgumentError):
        fft.embedding_lookup_sparse(table, unordered, None)


@pytest.mark.parametrize("kind", ["sparse", "rank 3", "ragged"])
@pytest.mark.parametrize("combiner", POOLINGS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("default_id", [None, 0, 5])
def test_safe_embedding_lookup_sparse_is_tf_nn(
    kind: str, combiner: Any, weighted: bool, default_id: int | None
) -> None:
    # Empty rows, an id below 0 beside others and alone, weights below and at 0.
    rows = [0, 0, 2, 2, 2, 3, 4, 4]
    columns = [0, 2, 0, 1, 2, 0, 1, 2]
    ids = np.array([3, 3, -1, 7, 22, -4, 1, 2])
    factors = np.array([0.5, 2.0, 1.0, -1.0, 0.25, 1.0, 0.0, 3.0], np.float32)
    indices = [[r, c] for r, c in zip(rows, columns, strict=True)]
    shape = [6, 3]
    if kind == "rank 3":
        indices = [[r // 2, r % 2, c] for r, c in zip(rows, columns, strict=True)]
        shape = [3, 2, 3]
    sp_ids = tf.SparseTensor(indices, ids, shape)
    sp_weights = tf.SparseTensor(indices, factors, shape)
    if kind == "ragged":
        sp_ids = tf.RaggedTensor.from_value_rowids(ids, rows, nrows=6)
        sp_weights = tf.RaggedTensor.from_value_rowids(factors, rows, nrows=6)
    variable = tf.Variable(random_table())
    results = []
    for function in (fft.safe_embedding_lookup_sparse, tf.nn.safe_embedding_lookup_sparse):
        with tf.GradientTape() as tape:
            out = function(variable, sp_ids, sp_weights if weighted else None, combiner, default_id)
            loss = tf.reduce_sum(out**2)
        results.append((out, tf.convert_to_tensor(tape.gradient(loss, variable))))
    for ours, theirs in itertools.zip_longest(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
