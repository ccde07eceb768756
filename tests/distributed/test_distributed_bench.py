"""The parts of `feedfast bench distributed` that start Horovod, at a hundredth of their size."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

from feedfast.bench import BenchOptions

WORKLOADS = Path(__file__).resolve().parents[2] / "benchmarks" / "workloads"


@pytest.fixture
def workloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(WORKLOADS))


@pytest.mark.slow
@pytest.mark.usefixtures("workloads")
@pytest.mark.skipif(importlib.util.find_spec("horovod") is None, reason="needs make setup-horovod")
@pytest.mark.parametrize(
    ("part", "num_rows"), [("training", 10), ("sweep", 12), ("crossover", 9), ("sharded", 53)]
)
def test_parts_give_their_rows(part: str, num_rows: int) -> None:
    module = importlib.import_module(f"distributed_parts.{part}")
    rows = list(module.rows(BenchOptions(quick=True)))
    assert len(rows) == num_rows
    assert len({row.name for row in rows}) == num_rows
    exchanges = [row for row in rows if row.unit == "exchanges"]
    assert all(row.met for row in exchanges)
