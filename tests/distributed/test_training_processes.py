"""Training on two processes: what one process trains, repeatable, resumable; one launch."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import training_ranks
from thread_engines import on_ranks

from feedfast.comm import Engine, NullEngine
from feedfast.comm.launch import run_local
from feedfast.comm.traced import PeerLostError, TracedEngine
from feedfast.training import TrainedRun

RANKS = Path(training_ranks.__file__)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("ranks")
    quiet = {"PYTHONWARNINGS": "ignore", "TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    assert run_local([sys.executable, str(RANKS), str(folder)], 2, environment=quiet) == 0
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def want() -> dict[str, np.ndarray]:
    """The state that one process trains."""
    return training_ranks.weights_after_steps(None, 1)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_processes_train_what_one_does(
    folder: Path, want: dict[str, np.ndarray], accumulate: int
) -> None:
    with np.load(folder / f"weights_{accumulate}.npz") as got:
        assert set(got) == set(want)
        for name, array in want.items():
            if array.dtype.kind == "i":
                continue  # counters: dropout counts micro-batches
            largest = np.abs(array).max()
            np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-5 * largest, err_msg=name)


def test_a_resumed_run_is_the_uninterrupted_one(folder: Path) -> None:
    assert read(folder / "resumed") == read(folder / "whole")


def test_one_process_goes_on_from_two(folder: Path) -> None:
    assert (folder / "unfinished" / "work" / "select" / "checkpoints").is_dir()
    training_ranks.train_in(NullEngine(), folder / "unfinished")
    one = TrainedRun.open(folder / "unfinished")
    two = TrainedRun.open(folder / "whole")
    assert one.history[0] == two.history[0]  # the epoch that two processes ended
    # Other dropout masks and batch norms, the same learning.
    assert one.history[1]["loss"] == pytest.approx(two.history[1]["loss"], rel=0.05)


def test_reports_tell_bytes_and_exchange_share(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert all(sent > 1000 for sent in report["bytes"])
    assert all(0.0 < share < 1.0 for share in report["shares"])
    assert {"loss", "validation", "moving_averages", "rank_0"} <= set(report["by_name"])


@pytest.mark.parametrize("fails", [False, True])
def test_others_wait_for_a_checkpoint_however_long_it_takes(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(folder: Path, checkpoint: Any) -> None:
        time.sleep(0.2)
        if fails:
            raise OSError("full")

    monkeypatch.setattr(training_ranks.replicas, "_BEAT_S", 0.01)
    monkeypatch.setattr(training_ranks.loop, "save_checkpoint", save)

    def body(engine: Engine) -> int:
        trainer: Any = SimpleNamespace(engine=engine, variables=[])
        expected: Any = nullcontext()
        if fails:
            expected = pytest.raises(OSError if engine.rank == 0 else PeerLostError)
        with expected:
            training_ranks.loop._save(trainer, tmp_path, 1, 0.0, [])
        return engine.exchanges_by_name["rank_0"].exchanges

    assert min(on_ranks(2, body)) > 2


def test_timelines_are_whole_lines_whenever_a_process_dies(tmp_path: Path) -> None:
    engine = TracedEngine(NullEngine(), timeline=tmp_path / "trace.json")
    engine.barrier(name="first")
    begin, event, end = (tmp_path / "trace.json").read_text().split("\n")
    assert (begin, end) == ("[", "")
    assert json.loads(event.removesuffix(","))["name"] == "first"
    engine.close()


def test_work_of_rank_0_alone() -> None:
    def fail() -> Callable[[], None]:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        training_ranks.replicas.on_rank_0(NullEngine(), fail)
    assert training_ranks.replicas.on_rank_0(NullEngine(), lambda: 3) == 3
