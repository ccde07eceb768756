"""Random windows one after the other: no hang, and the same bits in all processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import run_ranks


@pytest.mark.parametrize("script", ["random_steps.py", "random_lookups.py"])
@pytest.mark.parametrize(
    ("size", "num_steps"),
    [(2, 300), *(pytest.param(n, 10_000, marks=pytest.mark.slow) for n in (2, 3, 4))],
)
def test_no_step_hangs_and_all_processes_agree(
    script: str, size: int, num_steps: int, tmp_path: Path
) -> None:
    run_ranks(script, size, str(tmp_path), str(num_steps), timeout=900)
    ended = {(tmp_path / f"{rank}.digest").read_text() for rank in range(size)}
    assert len(ended) == 1
    assert int(ended.pop().split()[0]) >= num_steps
