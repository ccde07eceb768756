from __future__ import annotations

import re

import numpy as np
import pytest

from feedfast import _core


@pytest.mark.parametrize(
    ("table", "lines", "message"),
    [
        (np.zeros((4, 8), np.float32)[:, ::2], 8, "table must be C-contiguous"),
        (np.zeros((4, 8), np.float32), 2**20 + 1, "lines_in_flight be in [0, 1048576]"),
        (np.zeros((4, 1), np.float32), 8, "rows must have at least 8 bytes"),
    ],
)
def test_probe_reads_nothing_beyond_its_table(table: np.ndarray, lines: int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        _core.read_rows(table, np.array([3]), lines_in_flight=lines)
