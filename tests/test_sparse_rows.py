"""Sums of row gradients over a window, their owners, and bfloat16 on the wire."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from feedfast import _core
from feedfast.comm import Wire
from feedfast.comm.sparse_rows import (
    RowAccumulator,
    merge_rows,
    owner_offsets,
    pack_tables,
    unpack_tables,
)


@given(data=st.data(), dim=st.integers(1, 9), window=st.integers(0, 4))
def test_accumulator_sums_each_row(data: st.DataObject, dim: int, window: int) -> None:
    accumulator = RowAccumulator(dim)
    want: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    slices = 0
    for _ in range(window):
        rows = data.draw(hnp.arrays(np.int64, st.integers(0, 20), elements=st.integers(0, 7)))
        values = data.draw(
            hnp.arrays(np.float32, (len(rows), dim), elements=st.floats(-8, 8, width=16))
        )
        accumulator.add(rows, values)
        slices += len(rows)
        for row, value in zip(rows.tolist(), values, strict=True):
            want[row] = want[row] + value if row in want else value
            counts[row] = counts.get(row, 0) + 1
    assert (accumulator.num_rows, accumulator.num_slices) == (len(want), slices)
    taken = accumulator.take()
    order = sorted(want)
    assert taken.rows.tolist() == order
    np.testing.assert_array_equal(
        taken.sums, np.array([want[row] for row in order]).reshape(len(want), dim)
    )
    assert taken.counts.tolist() == [counts[row] for row in order]
    assert accumulator.num_rows == 0
    accumulator.add(np.ones(3, np.int32), np.ones((3, dim), np.float16))
    accumulator.discard()
    assert accumulator.num_slices == 0


@given(rows=hnp.arrays(np.int64, st.integers(0, 50), elements=st.integers(0, 2**62)))
def test_unique_rows_invert(rows: np.ndarray) -> None:
    unique, positions = _core.unique_rows(rows)
    np.testing.assert_array_equal(unique[positions], rows)
    assert unique.tolist() == list(dict.fromkeys(rows.tolist()))


@given(
    rows=hnp.arrays(np.int64, st.integers(0, 50), elements=st.integers(0, 99)),
    cuts=st.lists(st.integers(0, 100), max_size=5),
)
def test_partition_sorts_by_owner_stably(rows: np.ndarray, cuts: list[int]) -> None:
    first_rows = np.array([0, *sorted(cuts), 100])
    offsets, positions = _core.partition_rows(rows, first_rows)
    owner = np.searchsorted(first_rows, rows, side="right") - 1
    np.testing.assert_array_equal(positions, np.argsort(owner, kind="stable"))
    np.testing.assert_array_equal(np.diff(offsets), np.bincount(owner, minlength=len(cuts) + 1))


@given(
    lists=st.lists(hnp.arrays(np.int64, st.integers(0, 50), elements=st.integers(0, 2**62))),
)
def test_distinct_rows_ascend(lists: list[np.ndarray]) -> None:
    distinct = _core.DistinctRows()
    for rows in lists:
        found, positions = distinct.find(rows)
        want, want_positions = np.unique(rows, return_inverse=True)
        np.testing.assert_array_equal(found, want)
        np.testing.assert_array_equal(positions, want_positions)
    with pytest.raises(IndexError, match=r"rows\[1\] = -1"):
        distinct.find(np.array([3, -1]))


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("row_dtype", [np.int32, np.int64])
def test_rows_are_gathered_where_they_belong(dtype: type, row_dtype: type) -> None:
    table = np.arange(60).reshape(12, 5).astype(dtype)
    rows = np.array([11, 0, 3, 3], row_dtype)
    wide = np.zeros((4, 9), dtype)
    _core.gather_rows(table, rows, wide[:, 2:7])
    np.testing.assert_array_equal(wide[:, 2:7], table[rows])
    assert not wide[:, :2].any()
    assert not wide[:, 7:].any()
    for bad in ([12], [-1]):
        with pytest.raises(IndexError, match=rf"rows\[0\] = {bad[0]} is not in 0..11"):
            _core.gather_rows(table, np.array(bad, row_dtype), np.zeros((1, 5), dtype))
    for out in (
        np.zeros((4, 4), dtype),
        np.zeros((4, 5), np.int8),
        np.zeros((4, 10), dtype)[:, ::2],
    ):
        with pytest.raises(ValueError, match="out must have shape"):
            _core.gather_rows(table, rows, out)


@given(hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_bfloat16_rounds_as_ml_dtypes(values: np.ndarray) -> None:
    bits = _core.to_bfloat16(values)
    with np.errstate(over="ignore", invalid="ignore"):
        want = values.astype(ml_dtypes.bfloat16)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(bits[number], want.view(np.uint16)[number])
    back = _core.from_bfloat16(bits)
    np.testing.assert_array_equal(np.isnan(back), ~number)
    np.testing.assert_array_equal(back[number], want.astype(np.float32)[number])


@given(data=st.data(), dims=st.lists(st.integers(1, 5), max_size=4))
@pytest.mark.parametrize("wire", ["exact", "bf16"])
def test_tables_unpack_as_they_were_packed(
    data: st.DataObject, dims: list[int], wire: Wire
) -> None:
    tables = []
    for dim in dims:
        rows = data.draw(hnp.arrays(np.int64, st.integers(0, 6), elements=st.integers(0, 2**62)))
        values = data.draw(
            hnp.arrays(np.float32, (len(rows), dim), elements=st.integers(-128, 128))
        )
        tables.append((rows, values))
    buffer = pack_tables(tables, wire=wire)
    item = 4 if wire == "exact" else 2
    assert buffer.nbytes == sum(
        8 + 8 * len(rows) + -(-len(rows) * dim * item // 8) * 8
        for (rows, _), dim in zip(tables, dims, strict=True)
    )
    for (rows, values), (got_rows, got_values) in zip(
        tables, unpack_tables(buffer, dims, wire=wire), strict=True
    ):
        np.testing.assert_array_equal(got_rows, rows, strict=True)
        np.testing.assert_array_equal(got_values, values, strict=True)
    if dims:
        for damaged in (buffer[:-8], np.concatenate([buffer, np.zeros(8, np.uint8)])):
            with pytest.raises(ValueError, match=r"does not fit into|bytes follow the last table"):
                unpack_tables(damaged, dims, wire=wire)


@given(
    rows=hnp.arrays(np.int64, st.integers(0, 50), elements=st.integers(0, 99)),
    cuts=st.lists(st.integers(0, 100), max_size=5),
)
def test_ascending_rows_of_an_owner_lie_together(rows: np.ndarray, cuts: list[int]) -> None:
    rows = np.sort(rows)
    first_rows = [0, *sorted(cuts), 100]
    offsets = owner_offsets(rows, first_rows)
    assert (offsets[0], offsets[-1]) == (0, len(rows))
    for owner in range(len(cuts) + 1):
        held = rows[offsets[owner] : offsets[owner + 1]]
        assert ((held >= first_rows[owner]) & (held < first_rows[owner + 1])).all()


def test_bad_arguments() -> None:
    accumulator = RowAccumulator(2)
    with pytest.raises(ValueError, match="dim = 0; must be >= 1"):
        RowAccumulator(0)
    with pytest.raises(ValueError, match=r"values has shape \(1, 3\); needs \(1, 2\)"):
        accumulator.add(np.zeros(1, np.int64), np.zeros((1, 3), np.float32))
    with pytest.raises(IndexError, match=r"rows\[1\] = -5; a row must be >= 0"):
        accumulator.add(np.array([0, -5]), np.zeros((2, 2), np.float32))
    assert (accumulator.dim, accumulator.num_slices) == (2, 0)
    with pytest.raises(IndexError, match=r"row 10 is not in 0\.\.9"):
        owner_offsets(np.array([3, 10]), [0, 10])
    with pytest.raises(ValueError, match=r"tables\[0\] has rows \(1,\) and values \(2, 3\)"):
        pack_tables([(np.zeros(1, np.int64), np.zeros((2, 3), np.float32))])
    with pytest.raises(TypeError, match="takes float32; got float64"):
        pack_tables([(np.zeros(2, np.int64), np.zeros((2, 3)))])  # type: ignore[list-item]
    with pytest.raises(IndexError, match=r"rows\[0\] = 10 is not in 0\.\.9"):
        _core.partition_rows(np.array([10]), np.array([0, 10]))
    with pytest.raises(ValueError, match=r"first_rows\[0\] = 1; must be 0"):
        _core.partition_rows(np.array([10]), np.array([1, 10]))


@given(data=st.data(), dim=st.integers(1, 20), num_lists=st.integers(0, 5))
def test_merge_gives_the_bits_of_the_accumulator(
    data: st.DataObject, dim: int, num_lists: int
) -> None:
    accumulator = RowAccumulator(dim)
    lists = []
    for _ in range(num_lists):
        numbers = data.draw(st.sets(st.integers(0, 12) | st.just(2**63 - 1)))
        rows = np.array(sorted(numbers), np.int64)
        values = data.draw(
            hnp.arrays(np.float32, (len(rows), dim), elements=st.floats(-1e3, 1e3, width=32))
        )
        lists.append((rows, values))
        accumulator.add(rows, values)
    want = accumulator.take()
    scale = np.float32(data.draw(st.sampled_from([1.0, 0.3, 0.0])))
    rows, sums = merge_rows(lists, dim, scale=float(scale))
    np.testing.assert_array_equal(rows, want.rows)
    np.testing.assert_array_equal(sums.view(np.uint32), (want.sums * scale).view(np.uint32))


def test_merge_refuses_lists_out_of_order() -> None:
    ordered = (np.array([1, 4]), np.ones((2, 3), np.float32))
    twice = (np.array([2, 2]), np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"lists\[1\] has row 2 after row 2; rows must ascend"):
        merge_rows([ordered, twice], 3)
    with pytest.raises(
        ValueError, match=r"lists\[0\] has values of shape \(2, 3\); needs \(2, 4\)"
    ):
        merge_rows([ordered], 4)
    with pytest.raises(ValueError, match="dim = 0"):
        merge_rows([], 0)
