"""An engine whose exchanges show up in profiles."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from feedfast.comm import Engine
from feedfast.tf.step_profile import exchange_mark

__all__ = ["TimedEngine"]


class TimedEngine(Engine):
    """Does what `engine` does, and marks every exchange with its name for `profile_steps`.

    Args:
        engine: What exchanges; closed with this one.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.rank, engine.size, engine.local_rank, engine.local_size)
        self._engine = engine

    def _all_reduce(self, array: NDArray[Any], name: str) -> None:
        with exchange_mark(name):
            self._engine.all_reduce(array, name=name)

    def _all_gather(self, array: NDArray[Any], name: str) -> list[NDArray[Any]]:
        with exchange_mark(name):
            return self._engine.all_gather(array, name=name)

    def _all_to_all(self, parts: list[NDArray[Any]], name: str) -> list[NDArray[Any]]:
        with exchange_mark(name):
            return self._engine.all_to_all(parts, name=name)

    def _broadcast(self, array: NDArray[Any], root: int, name: str) -> None:
        with exchange_mark(name):
            self._engine.broadcast(array, root, name=name)

    def _barrier(self, name: str) -> None:
        with exchange_mark(name):
            self._engine.barrier(name=name)

    def _subgroup(self, ranks: tuple[int, ...], name: str) -> Engine | None:
        inner = self._engine.subgroup(ranks, name=name)
        return None if inner is None else TimedEngine(inner)

    def _close(self) -> None:
        self._engine.close()
