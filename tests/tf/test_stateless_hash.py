"""The ops and the layer that hash keys to rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import feedfast.tf as fft
from feedfast import hashing
from feedfast.hashing import Method
from feedfast.tf.compositional_embedding import Combiner, CompositionalEmbedding

KEYS = ["", "a", b"\xff\x00", "membre:é", *(f"urn:li:member:{i:020}" for i in range(40_000))]
COMBINATIONS: list[tuple[Method, Combiner]] = [
    ("single", "add"),
    ("double", "add"),
    ("double", "concat"),
    ("quotient_remainder", "add"),
    ("quotient_remainder", "multiply"),
    ("quotient_remainder", "concat"),
]


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
@pytest.mark.parametrize("num_rows", [1, 1000, 2**62])
def test_ops_equal_the_numpy_functions(num_rows: int, seed: int) -> None:
    ids = np.array([0, 1, -1, 2**63 - 1, -(2**63)])
    for keys, tensor in ((KEYS, tf.constant(KEYS)), (ids, tf.constant(ids))):
        rows = fft.ops.hash_rows(tensor, num_rows, seed=seed)
        assert rows.dtype == tf.int64
        np.testing.assert_array_equal(rows, hashing.hash_rows(keys, num_rows, seed=seed))
        seeds = (seed, 3)
        np.testing.assert_array_equal(
            fft.ops.double_hash_rows(tensor, num_rows, seeds=seeds),
            hashing.double_hash_rows(keys, num_rows, seeds=seeds),
        )
    np.testing.assert_array_equal(
        fft.ops.quotient_remainder_rows(tf.constant(KEYS), num_rows, 1, seed=seed),
        hashing.quotient_remainder_rows(KEYS, num_rows, 1, seed=seed),
    )
    np.testing.assert_array_equal(
        fft.ops.quotient_remainder_rows(tf.constant(KEYS), 31, 17, seed=seed),
        hashing.quotient_remainder_rows(KEYS, 31, 17, seed=seed),
    )


def test_integer_ids_are_split() -> None:
    ids = tf.range(15, dtype=tf.int32)
    rows = fft.ops.quotient_remainder_rows(ids, 3, 5)
    np.testing.assert_array_equal(rows, np.stack([np.arange(15) // 5, np.arange(15) % 5], 1))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"ids\[1\] = 15 is not in \[0, "):
        fft.ops.quotient_remainder_rows([0, 15], 3, 5)


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (0, 5)])
def test_shapes(shape: tuple[int, ...]) -> None:
    keys = tf.fill(shape, "a")
    assert fft.ops.hash_rows(keys, 9).shape == shape
    assert fft.ops.double_hash_rows(keys, 9).shape == (*shape, 2)
    assert fft.ops.quotient_remainder_rows(keys, 9, 9).shape == (*shape, 2)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.string)])  # type: ignore[untyped-decorator]
    def traced(keys: tf.Tensor) -> Any:
        rows = fft.ops.hash_rows(keys, 9), fft.ops.double_hash_rows(keys, 9)
        assert [r.shape.as_list() for r in rows] == [[None, 3], [None, 3, 2]]
        return rows

    assert traced(tf.fill((2, 3), "a"))[0].shape == (2, 3)


def test_ragged_keys_give_ragged_rows() -> None:
    keys = tf.ragged.constant([["a", "b"], [], ["a"]])
    rows = hashing.hash_rows(["a", "b"], 1000).tolist()
    assert fft.ops.hash_rows(keys, 1000).to_list() == [rows, [], rows[:1]]
    for pairs in (
        fft.ops.double_hash_rows(keys, 1000),
        fft.ops.quotient_remainder_rows(keys, 30, 30),
    ):
        assert pairs.shape.as_list() == [3, None, 2]
        assert pairs[0, 0].numpy().tolist() == pairs[2, 0].numpy().tolist()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fft.ops.hash_rows(["a"], 0), ValueError, "num_rows = 0"),
        (lambda: fft.ops.hash_rows(["a"], 2, seed=2**64), ValueError, "seed = "),
        (lambda: fft.ops.hash_rows(["a"], 2.5), TypeError, "float"),  # type: ignore[arg-type]
        (lambda: fft.ops.hash_rows(["a"], 2, seed=1.5), TypeError, "float"),  # type: ignore[arg-type]
        (lambda: fft.ops.quotient_remainder_rows(["a"], 2.5, 2), TypeError, "float"),  # type: ignore[arg-type]
        (lambda: fft.ops.hash_rows([1.5], 2), TypeError, "got float32"),
        (lambda: fft.ops.double_hash_rows(["a"], 2, seeds=(4, 4)), ValueError, "two different"),
        (lambda: fft.ops.quotient_remainder_rows(["a"], 2, 0), ValueError, "got 2 and 0"),
        (lambda: fft.ops.quotient_remainder_rows(["a"], 2**32, 2**31), ValueError, "more than"),
        (lambda: CompositionalEmbedding(9, 4, "triple"), ValueError, "method must be one of"),  # type: ignore[arg-type]
        (lambda: CompositionalEmbedding(9, 4, "single", "concat"), ValueError, "must be add"),
        (lambda: CompositionalEmbedding(9, 4, "double", "multiply"), ValueError, "add, concat"),
        (lambda: CompositionalEmbedding(9, 3, combiner="concat"), ValueError, "even"),
        (lambda: CompositionalEmbedding(9, 0), ValueError, "dim must be at least 1; got 0"),
        (lambda: CompositionalEmbedding(1, 4), ValueError, "at least 2 rows; got 1"),
        (lambda: CompositionalEmbedding(0, 4, "single"), ValueError, "at least 1 row"),
        (lambda: CompositionalEmbedding((3, 0), 4), ValueError, "at least 1 row"),
        (lambda: CompositionalEmbedding((3, 3), 4, "single"), ValueError, "an integer, or a pair"),
        (lambda: CompositionalEmbedding(2.5, 4), ValueError, "an integer, or a pair"),  # type: ignore[arg-type]
        (lambda: CompositionalEmbedding((2.5, 3), 4), TypeError, "float"),  # type: ignore[arg-type]
        (lambda: CompositionalEmbedding(9, 4.5), TypeError, "float"),  # type: ignore[arg-type]
        (lambda: CompositionalEmbedding(9, 4, seed=1.5), TypeError, "float"),  # type: ignore[arg-type]
        (lambda: CompositionalEmbedding(9, 4, seed=-1), ValueError, "seed = -1"),
        (lambda: CompositionalEmbedding(9, 4)(tf.constant([1.0])), TypeError, "got float32"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def expected_vectors(
    table: np.ndarray, keys: Any, method: Method, combiner: Combiner, seed: int, sizes: Any
) -> np.ndarray:
    """The layer's formula, vector by vector."""
    if method == "single":
        return table[hashing.hash_rows(keys, sizes[0], seed=seed)]
    if method == "double":
        rows = hashing.double_hash_rows(keys, sizes[0], seeds=(seed, seed + 1))
    else:
        rows = hashing.quotient_remainder_rows(keys, *sizes, seed=seed) + np.array([0, sizes[0]])
    one, other = table[rows[:, 0]], table[rows[:, 1]]
    if combiner == "concat":
        return np.concatenate([one, other], 1)
    return one + other if combiner == "add" else one * other


@pytest.mark.parametrize(("method", "combiner"), COMBINATIONS)
def test_vectors_are_those_of_the_rows(method: Method, combiner: Combiner) -> None:
    keys = KEYS[:200]
    layer = CompositionalEmbedding(21, 6, method, combiner, seed=5)
    vectors = layer(tf.constant(keys))
    table = layer.embeddings.numpy()
    sizes = (10, 11) if method == "quotient_remainder" else (21,)
    assert table.shape == (21, 3 if combiner == "concat" else 6)
    want = expected_vectors(table, keys, method, combiner, 5, sizes)
    np.testing.assert_allclose(vectors, want, rtol=1e-6)  # float32, one operation
    grid = layer(tf.reshape(tf.constant(keys), [10, 20]))
    np.testing.assert_array_equal(tf.reshape(grid, [200, 6]), vectors)
    ragged = layer(tf.ragged.constant([["a", ""], [], ["a"]]))
    assert ragged.shape.as_list() == [3, None, 6]
    np.testing.assert_array_equal(ragged[2, 0], vectors[1])
    assert layer(tf.zeros((0, 2), tf.string)).shape == (0, 2, 6)
    for few in (["a", ""], np.array(["a", ""])):
        np.testing.assert_array_equal(layer(few), layer(tf.constant(["a", ""])))


def test_an_empty_list_is_a_batch_of_strings() -> None:
    assert fft.ops.hash_rows([], 9).shape == (0,)
    assert fft.ops.double_hash_rows([], 9).shape == (0, 2)
    assert fft.ops.quotient_remainder_rows([], 3, 3).shape == (0, 2)
    assert CompositionalEmbedding(9, 4)([]).shape == (0, 4)


def test_a_seed_may_be_a_numpy_integer() -> None:
    seed = np.uint64(2**64 - 1)
    rows = fft.ops.hash_rows(["a"], 2**40, seed=seed)  # type: ignore[arg-type]
    np.testing.assert_array_equal(rows, hashing.hash_rows(["a"], 2**40, seed=2**64 - 1))


def test_integer_inputs_are_rows_of_a_vocabulary() -> None:
    ids = np.arange(24)
    layer = CompositionalEmbedding((4, 6), 5, combiner="multiply")
    vectors = layer(tf.constant(ids)).numpy()
    table = layer.embeddings.numpy()
    np.testing.assert_allclose(vectors, table[ids // 6] * table[4 + ids % 6], rtol=1e-6)
    assert len(np.unique(vectors, axis=0)) == 24
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"ids\[0\] = 24"):
        layer(tf.constant([24]))
    hashed = CompositionalEmbedding(100, 5, "single")
    np.testing.assert_array_equal(
        hashed(tf.constant(ids)), hashed.embeddings.numpy()[hashing.hash_rows(ids, 100)]
    )


@pytest.mark.parametrize(("method", "combiner"), COMBINATIONS)
def test_gradient_is_sparse_and_equals_the_one_of_gather(
    method: Method, combiner: Combiner
) -> None:
    keys = [*KEYS[:30], *KEYS[:5]]
    layer = CompositionalEmbedding(13, 4, method, combiner)
    weights = tf.constant(np.random.default_rng(20_240_601).normal(size=(35, 4)), tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant(keys)) * weights)
    gradient = tape.gradient(loss, layer.embeddings.value)
    assert isinstance(gradient, tf.IndexedSlices)
    sizes = (6, 7) if method == "quotient_remainder" else (13,)
    table = tf.Variable(layer.embeddings.numpy())
    with tf.GradientTape() as tape:
        if method == "single":
            vectors = tf.gather(table, hashing.hash_rows(keys, 13))
        else:
            rows = (
                hashing.double_hash_rows(keys, 13)
                if method == "double"
                else hashing.quotient_remainder_rows(keys, *sizes) + np.array([0, 6])
            )
            one, other = tf.gather(table, rows[:, 0]), tf.gather(table, rows[:, 1])
            vectors = {
                "add": lambda: one + other,
                "multiply": lambda: one * other,
                "concat": lambda: tf.concat([one, other], 1),
            }[combiner]()
        loss = tf.reduce_sum(vectors * weights)
    want = tf.convert_to_tensor(tape.gradient(loss, table))
    # float32 sums of up to 35 products in another order
    np.testing.assert_allclose(tf.convert_to_tensor(gradient), want, rtol=1e-5, atol=1e-6)


LOAD = """
import sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import feedfast.tf
import keras
import tensorflow as tf
keys = tf.constant([["a", "no"], ["", "never"]])
saved = keras.models.load_model(sys.argv[1] + "/model.keras")
exported = tf.saved_model.load(sys.argv[1] + "/exported")
for vectors in (saved(keys), exported.serve(keys)):
    print(vectors.numpy().ravel().tolist())
"""


# Keras saves variables with np.array(...), which NumPy 2 answers with this warning.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_fitted_model_goes_to_another_process(tmp_path: Path) -> None:
    keras.utils.set_random_seed(20_240_601)
    strings = keras.Input((2,), dtype="string")
    branches = [
        CompositionalEmbedding((9, 11), 4, "quotient_remainder", "multiply", seed=2**63)(strings),
        CompositionalEmbedding(50, 4, "double", "concat")(strings),
        CompositionalEmbedding(50, 4, "single")(strings),
    ]
    flat = keras.layers.Flatten()(keras.layers.Concatenate()(branches))
    model = keras.Model(strings, keras.layers.Dense(1)(flat))
    model.compile("sgd", "mse")
    keys = tf.constant([["a", "no"], ["", "never"]])
    before = model(keys).numpy()
    model.fit(keys, tf.ones((2, 1)), epochs=3, verbose=0)
    want = model(keys).numpy().ravel()
    assert not np.allclose(before.ravel(), want)
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "exported", verbose=False)
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    got = [eval(line) for line in done.stdout.strip().splitlines()]
    np.testing.assert_allclose(got, [want, want], rtol=1e-6)  # float32, another process


def test_ragged_keys_fit_in_a_functional_model() -> None:
    strings = keras.Input((None,), dtype="string", ragged=True)
    vectors = CompositionalEmbedding(50, 3)(strings)
    assert (vectors.ragged, vectors.shape) == (True, (None, None, 3))
    pooled = keras.layers.Lambda(
        lambda x: tf.reduce_sum(x, axis=1), output_shape=(3,), dtype="float32"
    )(vectors)
    model = keras.Model(strings, pooled)
    assert model(tf.ragged.constant([["a", "b"], []])).shape == (2, 3)
