"""One process alone."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from feedfast.comm.engine import Engine, Item


class NullEngine(Engine):
    """An `Engine` of one process, which has nobody to exchange with."""

    def __init__(self) -> None:
        super().__init__(rank=0, size=1, local_rank=0, local_size=1)

    def _all_reduce(self, array: NDArray[Any], name: str) -> None:
        pass

    def _all_gather(self, array: NDArray[Item], name: str) -> list[NDArray[Item]]:
        return [array.copy()]

    def _all_to_all(self, parts: list[NDArray[Item]], name: str) -> list[NDArray[Item]]:
        return [parts[0].copy()]

    def _broadcast(self, array: NDArray[Any], root: int, name: str) -> None:
        pass

    def _barrier(self, name: str) -> None:
        pass

    def _subgroup(self, ranks: tuple[int, ...], name: str) -> NullEngine:
        return NullEngine()

    def _close(self) -> None:
        pass
