"""The launcher of local processes: statuses, blame, signals, nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from feedfast.comm.launch import PEER_LOST, run_local

# What a rank does, by its number; "pids" collects who ran.
_RANK = """
import os, signal, sys, time
rank = int(os.environ["FEEDFAST_RANK"])
open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
what = sys.argv[2:][rank % (len(sys.argv) - 2)]
print(f"rank {rank} does {what}", flush=True)
if what == "sleep":
    time.sleep(60)
elif what == "die":
    os.kill(os.getpid(), signal.SIGKILL)
elif what == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
else:
    sys.exit(int(what))
"""
_LAUNCH = """
import sys
import feedfast.comm.launch as launch
launch._GRACE_S = 0.5
sys.exit(launch.run_local([sys.executable, *sys.argv[2:]], int(sys.argv[1])))
"""


class Job:
    """A launcher in a process of its own."""

    def __init__(self, folder: Path, *what: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(len(what)), "-c", _RANK, str(folder), *what],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_ranks(self, number: int) -> None:
        deadline = time.monotonic() + 30
        while len(list(self.folder.iterdir())) < number:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        assert not self.running()
        return self.process.returncode, out, err

    def running(self) -> list[int]:
        """Ranks that still run, zombies apart, after at most five seconds."""
        deadline = time.monotonic() + 5
        while True:
            pids = [int(p.name) for p in self.folder.iterdir()]
            left = [pid for pid in pids if _state(pid) not in ("", "Z", "X")]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def test_all_ranks_run_and_rank_0_is_heard(tmp_path: Path) -> None:
    status, out, err = Job(tmp_path, "0", "0", "0").finish()
    assert (status, out, err) == (0, "rank 0 does 0\n", "")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        (("sleep", "die", "sleep"), 137, "rank 1 of 3 was ended by SIGKILL"),
        (("sleep", "3", "sleep"), 3, "rank 1 of 3 ended with status 3"),
        (("die", "sleep"), 137, "rank 0 of 2 was ended by SIGKILL"),
        # Those that only follow are not blamed.
        ((str(PEER_LOST), "4"), 4, "rank 1 of 2 ended with status 4"),
        ((str(PEER_LOST), "die"), 137, "rank 1 of 2 was ended by SIGKILL"),
        (("ignore", "5"), 5, "rank 1 of 2 ended with status 5"),
    ],
)
def test_a_rank_that_fails_is_named_and_ends_the_job(
    tmp_path: Path, what: tuple[str, ...], status: int, message: str
) -> None:
    started = time.monotonic()
    found, _, err = Job(tmp_path, *what).finish()
    assert found == status
    assert f"feedfast: {message}\n" in err
    assert time.monotonic() - started < 30


def test_the_output_of_a_failed_rank_is_shown(tmp_path: Path) -> None:
    _, out, err = Job(tmp_path, "sleep", "3").finish()
    assert out == "rank 0 does sleep\n"
    assert "[rank 1] rank 1 does 3\n" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_all_ranks(tmp_path: Path, number: signal.Signals) -> None:
    job = Job(tmp_path, "sleep", "ignore")
    job.wait_for_ranks(2)
    job.process.send_signal(number)
    status, _, err = job.finish()
    assert status == 128 + number
    assert f"{number.name}: ending all processes" in err


def test_no_rank_outlives_a_killed_launcher(tmp_path: Path) -> None:
    job = Job(tmp_path, "sleep", "ignore")
    job.wait_for_ranks(2)
    job.process.kill()
    job.process.communicate(timeout=30)
    assert job.running() == []


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="num_processes = 0 is not >= 1"):
        run_local([sys.executable, "-c", ""], 0)
    before = signal.getsignal(signal.SIGTERM)
    assert run_local([sys.executable, "-c", "import sys; sys.exit(7)"], 1) == 7
    assert signal.getsignal(signal.SIGTERM) is before
    assert "FEEDFAST_RANK" not in os.environ
