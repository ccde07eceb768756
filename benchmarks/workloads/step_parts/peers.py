"""torch and FBGEMM, in the interpreter that FEEDFAST_LOOKUP_PEERS names."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import peer_process

SCRIPT = Path(peer_process.__file__).with_name("step_torch.py")


class Peer:
    """One peer, set up in a process of benchmarks/peers/step_torch.py."""

    def __init__(self, process: peer_process.PeerProcess, setup: dict[str, Any]) -> None:
        self._process = process
        self.package: str = process.ask(**setup)["package"]

    def times(self, calls: int) -> list[float]:
        """Seconds of each of the next `calls` steps."""
        return list(self._process.ask(run=calls)["seconds"])


@contextmanager
def open_peer(kind: str, ids: list[np.ndarray], **sizes: int) -> Iterator[Peer | None]:
    """A peer on these batches of ids, or None where there is no interpreter for it."""
    # Tables of the peers get huge pages, as ours do.
    pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    process = peer_process.open_peer_process(SCRIPT, what=kind, environment=pages)
    if process is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ids.npy"
        np.save(path, np.stack(ids))
        try:
            yield Peer(process, {"setup": kind, "batches": str(path), **sizes})
        finally:
            process.close()
