"""Engines around another one: to measure what it exchanges, and to write a timeline of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from feedfast.comm.engine import Engine, Item


class PeerLostError(RuntimeError):
    """Another process has ended, failed or is late."""


class WrappedEngine(Engine):
    """Hands every exchange on to `engine`, inside of what `around` does; closing closes it."""

    def __init__(self, engine: Engine) -> None:
        """Takes the engine, which nobody else uses from now on."""
        super().__init__(engine.rank, engine.size, engine.local_rank, engine.local_size)
        self._engine = engine

    def around(self, kind: str, name: str, num_bytes: int) -> AbstractContextManager[None]:
        """Entered before an exchange and left after it.

        Args:
            kind: The method: `all_reduce`, `all_gather`, ...
            name: Of the call; of two that begin together "one and other".
            num_bytes: Of this process's argument.
        """
        raise NotImplementedError

    def _all_reduce(self, array: NDArray[Any], name: str) -> None:
        with self.around("all_reduce", name, array.nbytes):
            self._engine._all_reduce(array, name)

    def _all_gather(self, array: NDArray[Item], name: str) -> list[NDArray[Item]]:
        with self.around("all_gather", name, array.nbytes):
            return self._engine._all_gather(array, name)

    def _reduce_and_gather(
        self, array: NDArray[Any], rows: NDArray[Item], names: tuple[str, str]
    ) -> list[NDArray[Item]]:
        if type(self._engine)._reduce_and_gather is Engine._reduce_and_gather:
            return super()._reduce_and_gather(array, rows, names)  # one after the other
        num_bytes = array.nbytes + rows.nbytes
        with self.around("reduce_and_gather", " and ".join(names), num_bytes):
            return self._engine._reduce_and_gather(array, rows, names)

    def _all_to_all(self, parts: list[NDArray[Item]], name: str) -> list[NDArray[Item]]:
        with self.around("all_to_all", name, sum(part.nbytes for part in parts)):
            return self._engine._all_to_all(parts, name)

    def _broadcast(self, array: NDArray[Any], root: int, name: str) -> None:
        with self.around("broadcast", name, array.nbytes):
            self._engine._broadcast(array, root, name)

    def _barrier(self, name: str) -> None:
        with self.around("barrier", name, 0):
            self._engine._barrier(name)

    def _subgroup(self, ranks: tuple[int, ...], name: str) -> Engine | None:
        with self.around("subgroup", name, 0):
            return self._engine.subgroup(ranks, name=name)

    def _close(self) -> None:
        self._engine.close()


class TracedEngine(WrappedEngine):
    """Tells how long exchanges took, those of subgroups apart.

    A timeline has the exchanges of subgroups too, each on a line (`tid`) of its own.

    RuntimeErrors of the engine come out as `PeerLostError`, so that a program can tell its own
    failures from those of others.
    """

    def __init__(self, engine: Engine, *, timeline: Path | None = None) -> None:
        """Opens the timeline.

        Args:
            engine: As for `WrappedEngine`.
            timeline: File that gets this process's exchanges in Chrome's trace format
                (chrome://tracing, Perfetto), one event a line as they end; readable after a crash.

        Raises:
            OSError: The file cannot be written.
        """
        super().__init__(engine)
        self._seconds = 0.0
        self._timeline: IO[str] | None = None
        # Where this engine's events stand: the process, and the number of the (sub)group.
        self._process, self._line, self._lines = self.rank, 0, count(1)
        self._is_subgroup = False
        if timeline is not None:
            self._timeline = timeline.open("w", buffering=1)  # by lines: whole after a crash
            self._timeline.write("[\n")

    @property
    def seconds(self) -> float:
        """Spent in exchanges so far, waiting for others included."""
        return self._seconds

    @contextmanager
    def around(self, kind: str, name: str, num_bytes: int) -> Iterator[None]:
        """Measures."""
        began = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            raise PeerLostError(str(error)) from error
        finally:
            took = time.monotonic() - began
            self._seconds += took
            if self._timeline is not None and not self._timeline.closed:
                event = {
                    "name": name,
                    "cat": kind,
                    "ph": "X",
                    "ts": round(began * 1e6),
                    "dur": round(took * 1e6),
                    "pid": self._process,
                    "tid": self._line,
                    "args": {"bytes": num_bytes},
                }
                self._timeline.write(json.dumps(event) + ",\n")

    def _subgroup(self, ranks: tuple[int, ...], name: str) -> Engine | None:
        inner = super()._subgroup(ranks, name)
        if inner is None:
            return None
        group = TracedEngine(inner)
        group._timeline, group._is_subgroup = self._timeline, True
        group._process, group._line, group._lines = self._process, next(self._lines), self._lines
        return group

    def _close(self) -> None:
        super()._close()
        if self._timeline is not None and not self._is_subgroup:
            self._timeline.close()
        self._timeline = None
