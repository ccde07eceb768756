"""Training on two processes: what one process trains, repeatable, resumable; one launch."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import sys
import time
import tracemalloc
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
from feedfast.ranker.export import export
from feedfast.ranker.tensor_store import read_tensors
from feedfast.store import ModelWriter
from feedfast.training import TrainedRun, evaluate, saving

RANKS = Path(training_ranks.__file__)


def status_of(size: int, folder: Path, part: str) -> int:
    """Runs a part of training_ranks in processes."""
    quiet = {"PYTHONWARNINGS": "ignore", "TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return run_local([sys.executable, str(RANKS), str(folder), part], size, environment=quiet)


def run(size: int, folder: Path, part: str) -> Path:
    """The same; the folder, with what they left."""
    assert status_of(size, folder, part) == 0
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have after some steps."""
    return run(2, tmp_path_factory.mktemp("weights"), "weights")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes with whole tables."""
    return run(2, tmp_path_factory.mktemp("runs"), "runs")


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes with divided tables."""
    return run(2, tmp_path_factory.mktemp("divided"), "divided")


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


def states_of(folder: Path, tables: str, accumulate: int, size: int) -> list[dict[str, Any]]:
    return [dict(np.load(folder / f"{tables}_{accumulate}_{rank}.npz")) for rank in range(size)]


@pytest.mark.parametrize("tables", ["whole", "divided"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_processes_train_what_one_does(
    weights: Path, want: dict[str, np.ndarray], accumulate: int, tables: str
) -> None:
    states = states_of(weights, tables, accumulate, 2)
    training_ranks.require_same_state(states, want, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 4])
def test_more_processes_train_what_one_does(
    size: int, want: dict[str, np.ndarray], tmp_path: Path
) -> None:
    run(size, tmp_path, "weights")
    for accumulate in (1, 3):
        for tables in ("whole", "divided"):
            states = states_of(tmp_path, tables, accumulate, size)
            training_ranks.require_same_state(states, want, 1e-5)


def close_in(run: TrainedRun, other: TrainedRun) -> None:
    """Other dropout masks and batch norms, the same learning."""
    for one, two in zip(run.history, other.history, strict=False):
        assert one["loss"] == pytest.approx(two["loss"], rel=0.05)


def test_a_resumed_run_with_divided_tables_is_the_uninterrupted_one(divided: Path) -> None:
    assert read(divided / "divided_resumed") == read(divided / "divided")
    messages = json.loads((divided / "messages.json").read_text())
    held = next(m for m in messages if "Adam" in m)
    assert re.search(r"0\.0 to 0\.0 of 0\.0 MiB in each process \(member_table by rows", held), held


def test_one_process_goes_on_with_divided_tables_and_two_with_whole_ones(divided: Path) -> None:
    checkpoints = divided / "divided_unfinished" / "work" / "select" / "checkpoints"
    assert {p.suffix for p in checkpoints.iterdir()} == {".safetensors", ".tables"}
    training_ranks.train_in(NullEngine(), divided / "divided_unfinished")
    whole = TrainedRun.open(divided / "divided")
    close_in(TrainedRun.open(divided / "divided_unfinished"), whole)
    close_in(TrainedRun.open(divided / "alone_first"), whole)


@pytest.mark.slow
def test_three_processes_go_on_from_two_with_divided_tables(divided: Path, tmp_path: Path) -> None:
    shutil.copytree(divided / "divided_unfinished", tmp_path / "divided")
    run(3, tmp_path, "divided")
    close_in(TrainedRun.open(tmp_path / "divided"), TrainedRun.open(divided / "divided"))


def test_a_run_of_divided_tables_is_like_any_other(divided: Path, tmp_path: Path) -> None:
    found = TrainedRun.open(divided / "divided")
    tensors = {name: np.array(tensor) for name, tensor in found.ranker.tensors.items()}
    ranker = dataclasses.replace(found.ranker, tensors=tensors)
    ranker.save(tmp_path / "ranker")
    assert read(tmp_path / "ranker") == read(divided / "divided" / "ranker")
    for name, one in (("of_run", found.ranker), ("of_arrays", ranker)):
        export(one, tmp_path / name)
    assert read(tmp_path / "of_run" / "blobs") == read(tmp_path / "of_arrays" / "blobs")
    report = evaluate(found, training_ranks.simulation().dataset, baseline=False)
    assert all(math.isfinite(o.model.log_loss) for o in report.objectives)


@pytest.mark.slow
def test_tables_too_large_for_one_process_train_on_two(tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    assert status_of(1, alone, "memory") == training_ranks.EXIT_NO_MEMORY
    run(2, tmp_path, "memory")
    tables = read_tensors(tmp_path / "tensors.safetensors")
    member = tables["member_table"]
    assert member.shape == (700_000, 32)
    assert np.isfinite(member).all()
    assert 0.04 < member[::1000].std() < 0.06
    tracemalloc.start()
    with ModelWriter(tmp_path / "store", "feed") as writer:
        writer.add_table("member_table", member, layout="float32", dim=32)
        writer.publish({})
    assert tracemalloc.get_traced_memory()[1] < member.nbytes / 20
    tracemalloc.stop()


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
    monkeypatch.setattr(saving, "save_checkpoint", save)

    def body(engine: Engine) -> int:
        trainer: Any = SimpleNamespace(engine=engine, variables={}, sharded=None)
        expected: Any = nullcontext()
        if fails:
            expected = pytest.raises(OSError if engine.rank == 0 else PeerLostError)
        with expected:
            saving.save(trainer, tmp_path, saving.Place(step=1, loss_sum=0.0, records=[]))
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
