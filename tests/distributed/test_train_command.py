"""`feedfast train` in several processes: results, deaths, resumption."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import training_ranks
from test_horovod_engine import horovodrun, needs_horovod

from feedfast.cli import main
from feedfast.comm.launch import run_local
from feedfast.training import TrainedRun
from leftovers import shared_memory_files

# More for a long run outside of CI.
DEATHS = int(os.environ.get("FEEDFAST_TEST_DEATHS", "2"))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`feedfast train` with everything but a run folder."""
    folder = tmp_path_factory.mktemp("data")
    training_ranks.simulation().dataset.write_parquet(folder / "log.parquet")
    (folder / "config.json").write_text(training_ranks.config().to_json())
    return [
        *("train", "--json", "--data", str(folder / "log.parquet")),
        *("--config", str(folder / "config.json")),
    ]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "feedfast.cli", *arguments]


def children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.fixture
def start() -> Iterator[subprocess.Popen[str]]:
    """Starts commands; kills those that are left, and their children with them."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield run  # type: ignore[misc]
    for process in started:
        process.kill()
        process.communicate(timeout=60)


def wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_killed_ranks_end_the_job_by_name_and_it_resumes(
    arguments: list[str], tmp_path: Path, start: object
) -> None:
    run = tmp_path / "run"
    rng = random.Random(4)
    shared_memory = shared_memory_files()
    for death in range(DEATHS):
        sharding = ("row", "none")[death % 2]
        process = start(  # type: ignore[operator]
            *(*arguments, "--run", str(run), "--processes", "2", "--sharding", sharding)
        )
        wait_for(lambda p=process: len(children(p.pid)) == 2, process)
        victim = death % 2
        if death == 0:
            wait_for(lambda: list(run.glob("work/*/checkpoints/step-*")), process)
        else:
            time.sleep(rng.uniform(0, 10))
        ranks = children(process.pid)
        if len(ranks) < 2:
            break  # it was done before
        os.kill(ranks[victim], signal.SIGKILL)
        began = time.monotonic()
        _, errors = process.communicate(timeout=90)
        assert time.monotonic() - began < 60
        assert process.returncode == 137, errors
        assert f"feedfast: rank {victim} of 2 was ended by SIGKILL" in errors
        assert f"the same command continues {run}" in errors
        assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
        assert shared_memory_files() <= shared_memory
    timeline = tmp_path / "timeline.json"
    process = start(  # type: ignore[operator]
        *(*arguments, "--run", str(run), "--processes", "2", "--sharding", "row"),
        *("--resume", "--timeline", str(timeline)),
    )
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert json.loads(output)["history"][0]["stage"] == "select"
    assert TrainedRun.open(run).num_epochs >= 1
    assert re.search(r"final: .* examples/s .* sent a step, \d+% exchange", errors), errors
    events = json.loads(timeline.read_text().rstrip().rstrip(",") + "]")
    assert {"feedfast_window_dense", "sharded_gradients", "validation"} <= {
        e["name"] for e in events
    }, events[:5]
    assert all(e["dur"] >= 0 and e["ph"] == "X" and e["pid"] == 0 for e in events)


def test_a_rank_without_data_is_named_and_ends_the_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = (
        "import os, sys\n"
        "from feedfast.cli.main import main\n"
        "sys.argv[-1] = sys.argv[-1].replace('RANK', os.environ['FEEDFAST_RANK'])\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    training_ranks.simulation().dataset.write_parquet(tmp_path / "log.0.parquet")
    training_ranks.simulation().dataset.write_parquet(tmp_path / "log.2.parquet")
    began = time.monotonic()
    status = run_local(
        [
            *(sys.executable, "-W", "ignore", "-c", script, "train", "--json"),
            *("--run", str(tmp_path / "run"), "--data", str(tmp_path / "log.RANK.parquet")),
        ],
        3,
    )
    assert time.monotonic() - began < 100
    errors = capfd.readouterr().err
    assert status == 2, errors
    assert "feedfast: rank 1 of 3 ended with status 2" in errors
    assert "feedfast train: rank 1: " in errors
    assert "log.1.parquet" in errors


@needs_horovod
def test_horovodrun_trains(arguments: list[str], tmp_path: Path) -> None:
    timeline = tmp_path / "timeline.json"
    run = tmp_path / "run"
    done = horovodrun(
        [
            *("--timeline-filename", str(timeline)),
            *command(*arguments, "--run", str(run), "--sharding", "row"),
        ],
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert TrainedRun.open(run).num_epochs >= 1
    assert "[1]<stdout>" not in done.stdout
    assert {"validation", "sharded_gradients"} <= set(re.findall(r"\w+", timeline.read_text()))


def test_what_does_not_go_together_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(*options: str) -> str:
        assert main.main(["train", "--data", "simulated", "--run", str(tmp_path), *options]) == 2
        return capsys.readouterr().err

    assert "holds no run" in error("--resume")
    assert "--processes goes with --engine shm" in error("--processes", "2", "--engine", "horovod")
    assert "--processes must be >= 1; got 0" in error("--processes", "0")
    assert "--sharding: distributed: sharding must be none, auto" in error("--sharding", "rows")
    assert "the environment has no FEEDFAST_RANK" in error("--engine", "shm")
    missing = tmp_path / "missing" / "t.json"
    assert f"folder {missing.parent} does not exist" in error("--timeline", str(missing))
    assert f"{tmp_path / 'c.json'}: No such file" in error("--config", str(tmp_path / "c.json"))
    monkeypatch.setenv("HOROVOD_RANK", "0")
    assert "the launcher has started these" in error("--processes", "2")
