"""Killing `train` and `export` at random points leaves nothing that opens with wrong content."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from feedfast.config import RankerConfig
from feedfast.data import Simulation, load, row_requests
from feedfast.ranker.export import export
from feedfast.ranker.rows import history_of
from feedfast.scorer import Scorer
from feedfast.store import ModelStore
from feedfast.training import TrainedRun, train

EXPORT_FOR_EVER = """
import sys
from feedfast.ranker.export import export
from feedfast.ranker.run import TrainedRun
ranker = TrainedRun.open(sys.argv[1]).ranker
assert "tensorflow" not in sys.modules
print("ready", flush=True)
while True:
    for precision in ("fp32", "int8"):
        export(ranker, sys.argv[2], name=precision, precision=precision)
"""

TRAIN = """
import sys
from pathlib import Path
from feedfast.config import RankerConfig
from feedfast.data import load
from feedfast.training import train
config = RankerConfig.from_json(Path(sys.argv[1]).read_text())
dataset = load(sys.argv[2])
print("ready", flush=True)
train(dataset, config, sys.argv[3])
"""


def kill_after(code: str, arguments: list[str], seconds: float) -> int:
    """Runs code in a process of its own, kills it so long after it is ready; its return code."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    return process.returncode


def test_killed_exports(simulation: Simulation, trained: TrainedRun, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    log = simulation.dataset.log.take(np.arange(50))
    history = history_of(simulation.dataset, trained.config).take(np.arange(50))
    batch = row_requests(log, history)
    want = {}
    for precision in ("fp32", "int8"):
        export(trained.ranker, tmp_path / "whole", name=precision, precision=precision)
        scorer = Scorer.open(tmp_path / "whole", model=precision)
        want[precision] = scorer.score_batch(batch).probabilities

    path = tmp_path / "killed"
    versions = 0
    for _ in range(5):
        arguments = [str(trained.directory), str(path)]
        assert kill_after(EXPORT_FOR_EVER, arguments, rng.uniform(0, 0.1)) == -signal.SIGKILL
        found = ModelStore(path).list()
        assert len(found) >= versions
        versions = len(found)
        for entry in found[:: max(1, versions // 20)]:
            scorer = Scorer.open(path, model=entry.model, version=entry.version, verify="full")
            got = scorer.score_batch(batch).probabilities
            np.testing.assert_array_equal(got, want[entry.model])
    version = export(trained.ranker, path, name="fp32")
    got = Scorer.open(path, model="fp32", version=version, verify="full").score_batch(batch)
    np.testing.assert_array_equal(got.probabilities, want["fp32"])


@pytest.mark.parametrize("num_kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_killed_training(
    simulation: Simulation,
    small_config: RankerConfig,
    trained: TrainedRun,
    tmp_path: Path,
    run_bytes: Callable[[Path], dict[str, bytes]],
    num_kills: int,
) -> None:
    rng = np.random.default_rng(num_kills)
    (tmp_path / "config.json").write_text(small_config.to_json())
    simulation.dataset.write_parquet(tmp_path / "log.parquet")
    arguments = [str(tmp_path / name) for name in ("config.json", "log.parquet", "run")]
    for _ in range(num_kills):
        code = kill_after(TRAIN, arguments, rng.uniform(0.0, 4.0))
        assert code in (0, -signal.SIGKILL)
        if not (tmp_path / "run" / "run.json").exists():
            with pytest.raises((ValueError, FileNotFoundError), match=r"complete|does not exist"):
                TrainedRun.open(tmp_path / "run")
    # The content of the dataset that was written, under the file's name.
    train(load(tmp_path / "log.parquet"), small_config, tmp_path / "run")
    got, want = run_bytes(tmp_path / "run"), run_bytes(trained.directory)
    assert got.keys() == want.keys()
    assert all(got[name] == want[name] for name in want if name != "dataset.json")
