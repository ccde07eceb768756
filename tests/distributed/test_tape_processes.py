"""The tape between processes: equal to one process on all examples, the same bits everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import run_ranks
from tape_model import OPTIMIZERS


@pytest.mark.parametrize(
    "size", [2, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 3, 4, 6))]
)
def test_training_equals_one_process_on_all_examples(size: int, tmp_path: Path) -> None:
    run_ranks("tape_worker.py", size, str(tmp_path), "1", "2", "5", timeout=600)
    digests = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(size)]
    assert len(digests[0]) == 3 * len(OPTIMIZERS) + 2
    for other in digests:
        assert other == digests[0]
