"""Ranks of an engine as threads of the test's process, which start at once and cost no memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from numpy.typing import NDArray

from feedfast.comm import Engine, NullEngine

_TIMEOUT = 60.0
Result = TypeVar("Result")


class _Board:
    """Where the ranks leave what they send."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=_TIMEOUT)
        self.sent: list[tuple[str, Any]] = [("", None)] * size


class ThreadEngine(Engine):
    """One thread of several that exchange through a board; checks that all make the same call."""

    def __init__(self, board: _Board, rank: int) -> None:
        super().__init__(rank, len(board.sent), rank, len(board.sent))
        self._board = board

    def _exchange(self, call: str, value: Any) -> list[Any]:
        self._board.sent[self.rank] = (call, value)
        self._board.barrier.wait()
        sent = list(self._board.sent)
        self._board.barrier.wait()
        calls = {other for other, _ in sent}
        if len(calls) > 1:
            raise ValueError(f"ranks differ in their calls: {sorted(calls)}")
        return [value for _, value in sent]

    def _all_reduce(self, array: NDArray[Any], name: str) -> None:
        first, *others = self._exchange(f"all_reduce {name}", array.copy())
        array[...] = sum(others, start=first)

    def _all_gather(self, array: NDArray[Any], name: str) -> list[NDArray[Any]]:
        return [part.copy() for part in self._exchange(f"all_gather {name}", array.copy())]

    def _all_to_all(self, parts: Sequence[NDArray[Any]], name: str) -> list[NDArray[Any]]:
        sent = self._exchange(f"all_to_all {name}", [part.copy() for part in parts])
        return [of_rank[self.rank].copy() for of_rank in sent]

    def _broadcast(self, array: NDArray[Any], root: int, name: str) -> None:
        array[...] = self._exchange(f"broadcast {name}", array.copy())[root]

    def _barrier(self, name: str) -> None:
        self._exchange(f"barrier {name}", None)

    def _subgroup(self, ranks: tuple[int, ...], name: str) -> Engine | None:
        raise NotImplementedError

    def _close(self) -> None:
        self._board.barrier.abort()


def run_ranks(size: int, body: Callable[[Engine], Result]) -> list[Result]:
    """What `body` returns on each of `size` ranks.

    Raises:
        Exception: What the first rank that failed raised; the others then end too.
    """
    if size == 1:
        return [body(NullEngine())]
    board = _Board(size)

    def run(rank: int) -> Result:
        try:
            return body(ThreadEngine(board, rank))
        except BaseException:
            board.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as threads:
        futures = [threads.submit(run, rank) for rank in range(size)]
    errors = [future.exception() for future in futures]
    causes = [
        e for e in errors if e is not None and not isinstance(e, threading.BrokenBarrierError)
    ]
    for error in [*causes, *errors]:
        if error is not None:
            raise error
    return [future.result() for future in futures]
