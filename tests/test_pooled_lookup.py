from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import feedfast as ff
from feedfast.bags import Bags
from reference.pooled_lookup import pooled_lookup as reference

NUM_ROWS = 97


def random_bags(rng: np.random.Generator, *, num_bags: int = 33) -> Bags:
    """Random bags between an empty one at each end; both ends of the table; one repeated id."""
    lengths = np.r_[0, rng.integers(0, 11, num_bags), 300, 0, 3, 2, 0]
    values = rng.integers(0, NUM_ROWS, lengths.sum())
    values[-2:] = 0, NUM_ROWS - 1
    values[-5:-2] = NUM_ROWS - 1
    weights = rng.uniform(0.1, 2.0, values.size).astype(np.float32)
    return Bags.from_lengths(values, lengths, weights)


def test_unaligned_arrays_are_named() -> None:
    table = np.ones((4, 2), np.float32)
    ids = np.zeros(3, np.int64)
    unaligned = np.frombuffer(b"x" + ids.tobytes(), np.int64, offset=1)
    with pytest.raises(ValueError, match="values is not aligned to its dtype; pass a copy"):
        ff.pooled_lookup(table, unaligned, np.array([0, 3]))
    with pytest.raises(ValueError, match="offsets is not aligned"):
        ff.pooled_lookup(table, ids, unaligned)
    with pytest.raises(ValueError, match="table is not aligned"):
        ff.pooled_lookup(np.frombuffer(bytes(33), np.float32, offset=1).reshape(4, 2), ids, [0, 3])


@pytest.mark.parametrize("pooling", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dim", [1, 7, 64, 130])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_matches_the_reference(
    dtype: npt.DTypeLike, dim: int, weighted: bool, pooling: Any, cpu_target: str
) -> None:
    rng = np.random.default_rng(20_240_601)
    table = rng.standard_normal((NUM_ROWS, dim)).astype(dtype)
    bags = random_bags(rng)
    weights = bags.weights if weighted else None
    got = ff.pooled_lookup(table, bags.values, bags.offsets, weights, pooling)
    want = reference(table, bags.values, bags.offsets, weights, pooling)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-4)  # float32 sums of up to 300 terms of about 1


def test_bits_depend_on_the_bag_alone(cpu_target: str) -> None:
    rng = np.random.default_rng(1)
    table = rng.standard_normal((NUM_ROWS, 33), dtype=np.float32)
    bags = random_bags(rng, num_bags=400)
    whole = ff.pooled_lookup(table, bags.values, bags.offsets, bags.weights, "mean")
    for threads in (2, 3, 7):
        again = ff.pooled_lookup(
            table, bags.values, bags.offsets, bags.weights, "mean", threads=threads
        )
        assert again.tobytes() == whole.tobytes()
    split = bags.num_bags // 3
    at = bags.offsets[split]
    assert bags.weights is not None
    tail = ff.pooled_lookup(
        table, bags.values[at:], bags.offsets[split:] - at, bags.weights[at:], "mean"
    )
    assert tail.tobytes() == whole[split:].tobytes()


def test_bfloat16_bits_in_a_uint16_table() -> None:
    table = np.random.default_rng(2).standard_normal((9, 5)).astype(ml_dtypes.bfloat16)
    want = ff.pooled_lookup(table, [8, 0], [0, 2])
    assert (ff.pooled_lookup(table.view(np.uint16), [8, 0], [0, 2], dtype="bf16") == want).all()
    with pytest.raises(TypeError, match=r"got uint16 with dtype=None"):
        ff.pooled_lookup(table.view(np.uint16), [8], [0, 1])


def test_empty_batch_empty_bags_and_one_row() -> None:
    table = np.ones((1, 3), np.float32)
    assert ff.pooled_lookup(table, [], [0]).shape == (0, 3)
    assert (ff.pooled_lookup(table, [], [0, 0, 0], pooling="mean") == np.zeros((2, 3))).all()
    assert (ff.pooled_lookup(table, [0, 0], [0, 2]) == 2 * np.ones((1, 3))).all()
    assert ff.pooled_lookup(np.ones((0, 3), np.float32), [], [0, 0]).shape == (1, 3)


def test_any_integer_type_of_ids_is_accepted() -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    want = table[[3, 1]].sum(axis=0, keepdims=True)
    for dtype in (np.int8, np.int32, np.uint32, np.int64, ">i8"):
        ids = np.array([3, 1], dtype)
        offsets = np.array([0, 2], dtype)
        assert (ff.pooled_lookup(table, ids, offsets) == want).all()
    assert (ff.pooled_lookup(table, np.arange(4)[::-2], [0, 2]) == want).all()


@pytest.mark.parametrize(
    ("values", "offsets", "weights", "error", "message"),
    [
        ([3, 10], [0, 2], None, IndexError, "values[1] = 10 is not a row of a table with 10 rows"),
        ([-1], [0, 1], None, IndexError, "values[0] = -1 is not a row of a table with 10 rows"),
        ([], [], None, ValueError, "offsets is empty; it needs num_bags + 1 values"),
        ([1], [1, 1], None, ValueError, "offsets[0] = 1 must be 0"),
        ([1, 2], [0, 2, 1, 2], None, ValueError, "offsets[2] = 1 is below offsets[1] = 2"),
        ([1, 2], [0, 1], None, ValueError, "offsets[1] = 1 must equal the number of values, 2"),
        ([1], [0, 1], [], ValueError, "weights has 0 values; it must have one for each of 1 ids"),
        ([1], [0, 1], [np.nan], ValueError, "weights[0] = nan is not finite"),
        ([[1]], [0, 1], None, ValueError, "values must have 1 dimensions; got 2"),
        ([1.5], [0, 1], None, TypeError, "values must be an integer array that fits int64; got"),
        ([1], [0.0, 1.0], None, TypeError, "offsets must be an integer array that fits int64; got"),
        ([1], [0, 1], ["1"], TypeError, "weights must be a float array; got <U1"),
        ([1], [0, 1], [None], TypeError, "weights must be a float array; got object"),
        ([1], [0, 1], [1j], TypeError, "weights must be a float array; got complex128"),
    ],
)
def test_bad_bags(
    values: Any, offsets: Any, weights: Any, error: type[Exception], message: str
) -> None:
    table = np.zeros((10, 2), np.float32)
    with pytest.raises(error, match=re.escape(message)):
        ff.pooled_lookup(table, values, offsets, weights)
    if "dimensions" not in message:
        with pytest.raises(error, match=re.escape(message)):
            Bags(values, offsets, weights).validate(num_rows=10)


@pytest.mark.parametrize("values_type", [np.int32, np.int64])
@pytest.mark.parametrize("offsets_type", [np.int32, np.int64])
def test_int32_is_read_in_place(values_type: Any, offsets_type: Any) -> None:
    table = np.arange(40, dtype=np.float32).reshape(10, 4)
    bags = Bags(np.array([9, 1, 1], values_type), np.array([0, 2, 3], offsets_type))
    assert bags.values.dtype == values_type
    assert bags.offsets.dtype == offsets_type
    got = ff.pooled_lookup(table, bags.values, bags.offsets)
    assert got.tolist() == [(table[9] + table[1]).tolist(), table[1].tolist()]
    with pytest.raises(IndexError, match=re.escape("values[1] = -1 is not a row")):
        ff.pooled_lookup(table, np.array([0, -1], values_type), np.array([0, 2], offsets_type))


def test_unsigned_ids_above_int64_are_refused() -> None:
    with pytest.raises(TypeError, match="got uint64"):
        ff.pooled_lookup(np.zeros((1, 1), np.float32), np.array([0], np.uint64), [0, 1])


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (np.zeros((4, 2)), TypeError, "got float64"),
        ([[1.0]], TypeError, "table must be a numpy array; got list"),
        (np.zeros((4, 6), np.float32)[:, ::2], ValueError, "table must be C-contiguous"),
        (np.zeros(4, np.float32), ValueError, "table must have 2 dimensions; got 1"),
        (np.zeros((4, 0), np.float32), ValueError, "table must have at least 1 columns; got 0"),
    ],
)
def test_bad_tables(table: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        ff.pooled_lookup(table, [0], [0, 1])


def test_bad_options() -> None:
    table = np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match="pooling 'max' is unknown; allowed: sum, mean, sqrtn"):
        ff.pooled_lookup(table, [0], [0, 1], pooling="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads must be at least 1; got 0"):
        ff.pooled_lookup(table, [0], [0, 1], threads=0)
    with pytest.raises(ValueError, match="dtype must be None or 'bf16'; got 'fp8'"):
        ff.pooled_lookup(table, [0], [0, 1], dtype="fp8")  # type: ignore[arg-type]


def test_many_python_threads_at_once() -> None:
    rng = np.random.default_rng(3)
    table = rng.standard_normal((NUM_ROWS, 16), dtype=np.float32)
    bags = random_bags(rng, num_bags=200)
    want = ff.pooled_lookup(table, bags.values, bags.offsets)
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda _: ff.pooled_lookup(table, bags.values, bags.offsets), range(32))
        )
    assert all((got == want).all() for got in results)


def test_bags_from_lists_and_lengths() -> None:
    bags = Bags.from_lists([[3, 1], [], [2]])
    assert bags.num_bags == 3
    assert bags.values.tolist() == [3, 1, 2]
    assert bags.offsets.tolist() == [0, 2, 2, 3]
    assert bags.lengths.tolist() == [2, 0, 1]
    assert Bags.from_lists([]).offsets.tolist() == [0]
    bags.validate(num_rows=4)
