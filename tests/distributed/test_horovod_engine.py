"""The Horovod engine between two processes that horovodrun starts: one launch for all of it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from feedfast.comm import connect

HERE = Path(__file__).parent
installed = importlib.util.find_spec("horovod") is not None
needs_horovod = pytest.mark.skipif(
    not installed, reason="Horovod is not installed: make setup-horovod"
)


def horovodrun(
    argv: Sequence[str], *, timeout: float, size: int = 2
) -> subprocess.CompletedProcess[str]:
    """Runs a program in processes over loopback; nothing is left of it after the time-out."""
    command = [sys.executable, "-W", "ignore", "-m", "horovod.runner.launch", "--gloo"]
    process = subprocess.Popen(
        [*command, "-np", str(size), "-H", f"localhost:{size}", *argv],
        env={**os.environ, "HOROVOD_GLOO_IFACE": "lo", "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # it ends its workers, which have other groups
        output, _ = process.communicate(timeout=30)
        pytest.fail(f"horovodrun did not end in {timeout:g} s:\n{output[-4000:]}")
    return subprocess.CompletedProcess(argv, process.returncode, output, "")


@needs_horovod
def test_two_processes(tmp_path: Path) -> None:
    done = horovodrun([sys.executable, str(HERE / "horovod_ranks.py"), str(tmp_path)], timeout=240)
    result = tmp_path / "rank0.json"
    assert result.exists(), done.stdout[-8000:]
    found = json.loads(result.read_text())
    assert found["differ"].startswith("all_reduce 'bad': Mismatched ALLREDUCE tensor shapes")
    assert found["lost"].startswith(
        "all_reduce 'lost' of rank 0 of 2: another process has ended or is late: "
    )
    assert found["seconds"] < 60
    assert done.returncode != 0


@needs_horovod
@pytest.mark.parametrize("size", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_subgroups_of_three_and_four(tmp_path: Path, size: int) -> None:
    script = [sys.executable, str(HERE / "horovod_subgroups.py"), str(tmp_path)]
    done = horovodrun(script, timeout=240, size=size)
    assert done.returncode == 0, done.stdout[-8000:]
    assert len(list(tmp_path.glob("*.done"))) == size


@pytest.mark.skipif(installed, reason="Horovod is installed")
def test_without_horovod_the_error_says_what_to_do() -> None:
    with pytest.raises(ImportError, match="make setup-horovod"):
        connect("horovod")


def test_a_broken_horovod_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "horovod").mkdir()
    (tmp_path / "horovod" / "__init__.py").write_text("raise ImportError('TensorFlow differs')")
    code = (
        "from feedfast.comm import connect\n"
        "try: connect('horovod')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == (
        "Horovod does not load (TensorFlow differs); build it for the installed TensorFlow with "
        "`make setup-horovod`\n"
    )
