"""Starts and watches the processes of one host that train together over shared memory.

    status = run_local([sys.executable, "train.py"], num_processes=4)

Each process finds its rank, their number and the name of their group in FEEDFAST_RANK,
FEEDFAST_SIZE and FEEDFAST_RENDEZVOUS, where `feedfast.comm.connect` looks for them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO

PEER_LOST = 75
"""Exit status of a process that ends because another one did (EX_TEMPFAIL): not the cause."""

_POLL_S = 0.05
# After the first process has failed, others that fail because of it follow; the cause may be among
# those that are seen second. Then all get a SIGTERM, and what is left after the grace a SIGKILL.
_SETTLE_S = 0.5
_GRACE_S = 10.0
_TAIL_BYTES = 4000

# Asks the kernel to kill the process with its parent (prctl PR_SET_PDEATHSIG, which exec keeps), so
# that nothing is left when the launcher itself is killed; then becomes the program.
_CHILD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def run_local(
    argv: Sequence[str],
    num_processes: int,
    *,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Runs `num_processes` processes of one program to their end.

    Standard output and error of rank 0 are those of this process; what the others write is shown,
    its end, when the job fails because of them. A process that fails ends all others. SIGINT and
    SIGTERM to this process end all of them. When this process is killed they are, too.

    Args:
        argv: Absolute path of a program and its arguments.
        num_processes: At least 1.
        environment: Added to that of this process.

    Returns:
        0 when all processes returned 0; else the exit status of the process that failed first, 128
        plus the number of the signal where one ended it, or ended the job.

    Raises:
        ValueError: `num_processes` is below 1.
        OSError: A process cannot be started.
    """
    if num_processes < 1:
        raise ValueError(f"num_processes = {num_processes} is not >= 1")
    shared = {
        **os.environ,
        **(environment or {}),
        "FEEDFAST_SIZE": str(num_processes),
        "FEEDFAST_RENDEZVOUS": f"feedfast-{uuid.uuid4().hex}",
    }
    job = _Job()
    with job.signals_handled():
        try:
            for rank in range(num_processes):
                job.start(argv, {**shared, "FEEDFAST_RANK": str(rank)})
            return job.wait()
        finally:
            job.end()


class _Job:
    """The processes by rank, and the files that take what ranks above 0 write."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._outputs: list[IO[bytes] | None] = []
        self._signal = 0

    @contextmanager
    def signals_handled(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the job instead of this process."""

        def remember(number: int, frame: FrameType | None) -> None:
            self._signal = number

        before = {n: signal.signal(n, remember) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts the next rank, in a session of its own: a Ctrl-C reaches it from here alone."""
        output = tempfile.TemporaryFile() if self._processes else None  # noqa: SIM115
        self._outputs.append(output)
        self._processes.append(
            subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _CHILD, str(os.getpid()), *argv],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
            )
        )

    def wait(self) -> int:
        """Waits for all, or for the first that fails; says which and why on standard error."""
        while not self._signal:
            statuses = [p.poll() for p in self._processes]
            if any(statuses):
                return self._failure()
            if None not in statuses:
                return 0
            time.sleep(_POLL_S)
        _say(f"{signal.Signals(self._signal).name}: ending all processes")
        return 128 + self._signal

    def _failure(self) -> int:
        first = {r: p.returncode for r, p in enumerate(self._processes) if p.returncode}
        time.sleep(_SETTLE_S)
        failed = {r: s for r, p in enumerate(self._processes) if (s := p.poll())}
        # A signal is a cause, an exit because of another process is none; else the first seen.
        rank = min(failed, key=lambda r: (failed[r] >= 0, failed[r] == PEER_LOST, r not in first))
        status = failed[rank]
        _say(f"rank {rank} of {len(self._processes)} {_describe(status)}")
        output = self._outputs[rank]
        if output is not None:
            output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
            for line in output.read().decode(errors="replace").splitlines():
                sys.stderr.write(f"[rank {rank}] {line}\n")
        return status if status > 0 else 128 - status

    def end(self) -> None:
        """Ends what still runs, and waits for it."""
        for process in self._running():
            process.terminate()
        deadline = time.monotonic() + _GRACE_S
        while self._running() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        for process in self._running():
            process.kill()
            process.wait()
        for output in filter(None, self._outputs):
            output.close()

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [p for p in self._processes if p.poll() is None]


def _describe(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    if status == PEER_LOST:
        return "lost the other processes"
    return f"ended with status {status}"


def _say(text: str) -> None:
    sys.stderr.write(f"feedfast: {text}\n")
    sys.stderr.flush()
