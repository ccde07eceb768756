"""torch and FBGEMM, in the interpreter that FEEDFAST_LOOKUP_PEERS names."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

VARIABLE = "FEEDFAST_LOOKUP_PEERS"
SCRIPT = Path(__file__).parents[2] / "peers" / "step_torch.py"


class Peer:
    """One peer, set up in a process of benchmarks/peers/step_torch.py."""

    def __init__(self, process: subprocess.Popen[str], setup: dict[str, Any]) -> None:
        self._process = process
        self.package: str = self._ask(setup)["package"]

    def times(self, calls: int) -> list[float]:
        """Seconds of each of the next `calls` steps."""
        return list(self._ask({"run": calls})["seconds"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {SCRIPT.name} ended; see its messages above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def open_peer(kind: str, ids: list[np.ndarray], **sizes: int) -> Iterator[Peer | None]:
    """A peer on these batches of ids, or None where there is no interpreter for it."""
    interpreter = os.environ.get(VARIABLE)
    if interpreter is None:
        logging.getLogger("feedfast.bench").warning(
            "%s is not measured: %s names no interpreter", kind, VARIABLE
        )
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "ids.npy", np.stack(ids))
        process = subprocess.Popen(
            [interpreter, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Tables of the peers get huge pages, as ours do.
            env={
                **os.environ,
                "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
                "PYTHONWARNINGS": "ignore",
            },
        )
        try:
            yield Peer(process, {"setup": kind, "batches": str(Path(folder) / "ids.npy"), **sizes})
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
