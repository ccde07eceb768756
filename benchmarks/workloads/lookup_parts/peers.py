"""torch and FBGEMM beside lookups, in a process of their own."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import lookup_tables
import numpy as np
from peer_process import open_peer_process

import feedfast as ff

SCRIPT = Path(lookup_tables.__file__).with_name("lookup_torch.py")

Call = Callable[[int], float]  # times the call on batch i; seconds


class Peers:
    """The process of benchmarks/peers/lookup_torch.py, where there is an interpreter for it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._room = 0  # bytes of the largest tables so far, which the process keeps
        self._process = open_peer_process(SCRIPT, what="torch and FBGEMM")

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.close()
        self._folder.cleanup()

    def setup(
        self,
        kind: str,
        rows: int,
        dim: int,
        batches: list[ff.Bags],
        *,
        threads: int,
        tables: int = 1,
        huge: bool = True,
    ) -> tuple[Call, str] | None:
        """A call of `kind` on these bags and the package behind it.

        None: there is no process, or no memory for its own copy of the tables.
        """
        process = self._process
        if process is None:
            return None
        size = tables * rows * lookup_tables.row_bytes(kind.split("/")[1], dim)
        if size > self._room and size - self._room > available_memory() - (1 << 30):
            logging.getLogger("feedfast.bench").warning(
                "%s is not measured with %d rows of %d: no memory for its copy", kind, rows, dim
            )
            return None
        self._room = max(self._room, size)
        path = Path(self._folder.name) / "batches.npz"
        lengths = {batch.values.size for batch in batches}
        if len(lengths) != 1:
            raise ValueError(f"peers take batches of one size; got {lengths}")
        np.savez(path, values=[batch.values for batch in batches], offsets=batches[0].offsets)
        answer = process.ask(
            setup=kind,
            rows=rows,
            dim=dim,
            tables=tables,
            huge=huge,
            threads=threads,
            batches=str(path),
        )
        return lambda i: process.ask(run=i)["seconds"], answer["package"]

    def total(self, batch: int) -> float:
        """The sum of the output for a batch."""
        assert self._process is not None
        return cast(float, self._process.ask(run=batch)["sum"])


def available_memory() -> int:
    """Bytes that the system can give without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvail")) << 10
