"""Lists of rows that wait, and their sums."""

from __future__ import annotations

import numpy as np
import pytest

from feedfast.comm.sparse_rows import RowAccumulator
from feedfast.sharded_tables.row_window import RowWindow


@pytest.mark.parametrize("num_lists", [0, 1, 2, 8, 9, 40])
def test_sums_have_the_bits_of_an_accumulator(num_lists: int) -> None:
    rng = np.random.default_rng(num_lists)
    window, accumulator = RowWindow(3), RowAccumulator(3)
    for _ in range(num_lists):
        rows = np.flatnonzero(rng.random(50) < 0.3)
        values = rng.standard_normal((rows.size, 3)).astype(np.float32)
        window.add(rows, values)
        accumulator.add(rows, values)
    want = accumulator.take()
    rows, half = window.merged(0.5)
    np.testing.assert_array_equal(rows, want.rows)
    np.testing.assert_array_equal(half, want.sums * np.float32(0.5))
    rows, sums = window.take()
    np.testing.assert_array_equal(rows, want.rows)
    np.testing.assert_array_equal(sums, want.sums)
    assert window.take()[0].size == 0
