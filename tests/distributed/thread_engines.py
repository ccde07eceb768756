"""Engines whose processes are threads, so that many ranks cost a test nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from feedfast.comm import Engine

Result = TypeVar("Result")

_TIMEOUT_S = 60.0


class ThreadEngine(Engine):
    """One rank of a group of threads, which meet at a barrier."""

    def __init__(self, rank: int, slots: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, len(slots), rank, len(slots))
        self._slots, self._meeting = slots, barrier

    def _swap(self, mine: Any) -> list[Any]:
        self._slots[self.rank] = mine
        self._meeting.wait(_TIMEOUT_S)
        everybody = list(self._slots)
        self._meeting.wait(_TIMEOUT_S)
        return everybody

    def _all_reduce(self, array: NDArray[Any], name: str) -> None:
        arrays = [other for _, other in self._swap((name, array.copy()))]
        array[...] = np.sum(arrays, axis=0, dtype=array.dtype)

    def _all_gather(self, array: NDArray[Any], name: str) -> list[NDArray[Any]]:
        everybody = self._swap((name, array))
        assert {other for other, _ in everybody} == {name}
        return [other.copy() for _, other in everybody]

    def _all_to_all(self, parts: Any, name: str) -> list[NDArray[Any]]:
        return [other[self.rank].copy() for _, other in self._swap((name, parts))]

    def _broadcast(self, array: NDArray[Any], root: int, name: str) -> None:
        array[...] = self._swap((name, array.copy()))[root][1]

    def _barrier(self, name: str) -> None:
        self._swap(name)

    def _subgroup(self, ranks: tuple[int, ...], name: str) -> Engine | None:
        raise NotImplementedError

    def _close(self) -> None:
        self._meeting.abort()


def on_ranks(size: int, function: Callable[[Engine], Result]) -> list[Result]:
    """`function(engine)` of every rank, by rank; a rank that fails ends the others."""
    slots: list[Any] = [None] * size
    barrier = threading.Barrier(size)

    def run(rank: int) -> Result:
        try:
            return function(ThreadEngine(rank, slots, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
        errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None and not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [future.result() for future in futures]
