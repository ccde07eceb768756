"""Sharded tables in a model between processes: equal to one process with whole tables.

One launch for each number of processes trains every rule with every kind of placement at windows of
1, 2 and 5 micro-batches.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
from processes import run_ranks
from test_horovod_engine import horovodrun, needs_horovod

STEPS = 20  # of sharded_worker.py


@pytest.mark.parametrize(
    "size", [2, *(pytest.param(size, marks=pytest.mark.slow) for size in (3, 4, 6))]
)
def test_a_model_trains_as_one_process_with_whole_tables(size: int, tmp_path: Path) -> None:
    run_ranks("sharded_worker.py", size, str(tmp_path), str(size), timeout=600)
    check(tmp_path)


@pytest.mark.slow
@needs_horovod
def test_the_same_over_horovod(tmp_path: Path) -> None:
    script = Path(__file__).with_name("sharded_worker.py")
    done = horovodrun([sys.executable, str(script), str(tmp_path), "2"], timeout=600)
    assert done.returncode == 0, done.stdout[-8000:]
    check(tmp_path)


def check(folder: Path) -> None:
    """Reads what the worker found."""
    found, exchanges = json.loads((folder / "found.json").read_text())
    for result in found:
        assert max(result["differences"].values()) <= 1e-5, result
        # Weights reach 1.5, so that what trained is far above what may differ.
        assert result["moved"] > 2e-4, result
        assert result["same_bits"], result
        parts, replicas, peaks = zip(*result["memory"], strict=True)
        # Every weight has one home, beside the replicas, which all ranks have.
        assert sum(parts) + replicas[0] == result["whole_bytes"]
        assert len(set(replicas)) == 1
        logging.getLogger(__name__).info("peak resident bytes by rank: %s", peaks)
    micro_batches = STEPS * (1 + 2 + 5)
    assert exchanges["sharded_ids"] == exchanges["sharded_rows"] == micro_batches
    assert exchanges["sharded_gradients"] == STEPS * 3
