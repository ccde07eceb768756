"""Sharded tables in a model between processes: equal to one process with whole tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import run_ranks

STEPS = 20  # of sharded_worker.py


@pytest.mark.parametrize(
    "size", [2, *(pytest.param(size, marks=pytest.mark.slow) for size in (3, 4, 6))]
)
def test_a_model_trains_as_one_process_with_whole_tables(size: int, tmp_path: Path) -> None:
    world = 2 if size == 2 else 12
    run_ranks("sharded_worker.py", size, str(tmp_path), str(world), timeout=600)
    found, exchanges = json.loads((tmp_path / "found.json").read_text())
    for result in found:
        assert result["difference"] <= 1e-5, result
        assert result["moved"] > 1e-3, result
        assert result["same_bits"], result
    micro_batches = STEPS * (1 + 2 + 5) * world // size
    assert exchanges["sharded_ids"] == exchanges["sharded_rows"] == micro_batches
    assert exchanges["sharded_gradients"] == STEPS * 3
