from __future__ import annotations

import logging

import numpy as np
import pytest

import feedfast as ff
from feedfast import _core


@pytest.mark.parametrize(("num_rows", "dim"), [(0, 4), (3, 5), (40_000, 33)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_zeros_from_the_start_of_a_cache_line(num_rows: int, dim: int, dtype: type) -> None:
    table = ff.allocate_table(num_rows, dim, dtype)
    assert (table.shape, table.dtype) == ((num_rows, dim), np.dtype(dtype))
    assert table.flags.c_contiguous
    assert table.flags.writeable
    assert not table.any()
    assert table.size == 0 or table.ctypes.data % 64 == 0


def test_says_when_there_are_no_huge_pages(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_core, "move_to_huge_pages", lambda array: False)
    with caplog.at_level(logging.WARNING, logger="feedfast"):
        ff.allocate_table(1000, 4)
        assert not caplog.messages
        ff.allocate_table(1 << 16, 16)
    assert "grants no huge pages to a table of 4194304 bytes" in caplog.text


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="num_rows and dim must not be negative; got -1 and 2"):
        ff.allocate_table(-1, 2)
