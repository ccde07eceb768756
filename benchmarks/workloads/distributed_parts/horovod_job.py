"""Runs a script of `benchmarks/peers` as a job of Horovod on this host."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_PEERS = Path(__file__).parents[2] / "peers"
# A network of the job's own, so that loopback counters count nobody else; needs root.
_APART = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def run_job(script: str, *arguments: str, num_processes: int = 2) -> Any:
    """The JSON document that rank 0 prints; None, and a line that says so, without Horovod."""
    if importlib.util.find_spec("horovod") is None:
        logging.getLogger(__name__).warning("no Horovod here: nothing to run %s with", script)
        return None
    command = [
        *(sys.executable, "-m", "horovod.runner.launch", "--gloo"),
        *("-np", str(num_processes), "-H", f"localhost:{num_processes}"),
        *(sys.executable, str(_PEERS / script), *arguments),
    ]
    if _can_be_apart():
        command = [*_APART, *command]
    done = subprocess.run(
        command,
        env={**os.environ, "HOROVOD_GLOO_IFACE": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{script} ended with {done.returncode}: {done.stderr[-2000:]}")
    # horovodrun puts the rank before every line.
    printed = next(line for line in done.stdout.splitlines() if "<stdout>:{" in line)
    return json.loads(printed[printed.index("{") :])


def _can_be_apart() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run([*_APART, "true"], capture_output=True, check=False).returncode == 0
