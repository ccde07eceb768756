"""Starts the ranks of a test as processes of this host, and leaves none behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

_HERE = Path(__file__).parent


def run_ranks(script: str, size: int, *arguments: str, timeout: float) -> None:
    """Runs a script of this folder as ranks 0 to size - 1 of one group over shared memory.

    Raises:
        AssertionError: A rank failed, with the end of what it wrote; or one was too late.
    """
    name = f"feedfast-test-{uuid.uuid4().hex}"
    ranks = []
    try:
        for rank in range(size):
            environment = {
                **os.environ,
                "FEEDFAST_RANK": str(rank),
                "FEEDFAST_SIZE": str(size),
                "FEEDFAST_RENDEZVOUS": name,
                "FEEDFAST_TIMEOUT": "120",
                "OMP_NUM_THREADS": "1",
                "TF_NUM_INTRAOP_THREADS": "1",
                "TF_NUM_INTEROP_THREADS": "2",
            }
            ranks.append(
                subprocess.Popen(
                    [sys.executable, str(_HERE / script), *arguments],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        deadline = time.monotonic() + timeout
        written = []
        for process in ranks:
            try:
                written.append(
                    process.communicate(timeout=max(1.0, deadline - time.monotonic()))[0]
                )
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{script}: not done after {timeout} s") from None
        for rank, (process, text) in enumerate(zip(ranks, written, strict=True)):
            assert process.returncode == 0, f"rank {rank} ended with {process.returncode}:\n{text}"
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
                process.communicate()
