"""A table that no process may hold alone trains on four."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from processes import run_ranks

TABLE_BYTES = 250_000 * 256 * 4  # of sharded_memory_worker.py


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_a_table_too_large_for_one_process_trains_on_four(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="rank 0 ended with 77"):
        run_ranks("sharded_memory_worker.py", 1, str(tmp_path), timeout=120)
    run_ranks("sharded_memory_worker.py", 4, str(tmp_path), timeout=240)
    for rank in range(4):
        report = json.loads((tmp_path / f"{rank}.json").read_text())
        assert report["held"] == TABLE_BYTES // 4 + 250_000 * 4 // 4
        assert report["peak"] < TABLE_BYTES
        assert report["after"] < report["before"]
