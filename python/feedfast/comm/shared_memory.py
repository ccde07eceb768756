"""Processes of one host, over shared memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.comm.engine import Engine, Item


class SharedMemoryEngine(Engine):
    """An `Engine` between processes of one user on one host.

    The memory has no name (memfd): nothing is left of it when the processes end, however they end.
    A process that ends or does not come in time breaks the group for all, and every call then says
    which rank it was; one that ended is noticed within a fraction of a second.

    Sums are made in the order of the ranks, so their bits do not depend on timing.
    """

    def __init__(
        self,
        name: str,
        *,
        rank: int,
        size: int,
        buffer_bytes: int = 4 << 20,
        timeout: float = 300.0,
    ) -> None:
        """Waits until all `size` processes have come.

        Args:
            name: The same in all processes, another one in each job: 1 to 64 letters, digits, '.',
                '_' and '-'.
            rank: Number of this process; one per process.
            size: Processes, at most 256.
            buffer_bytes: Memory that each process shares, a multiple of 8192. Larger arrays go in
                pieces.
            timeout: Seconds that any call waits for a process that runs.

        Raises:
            ValueError: A number out of its range, or another `size` or `buffer_bytes` than rank 0
                has.
            MemoryError: There is no memory for the buffers.
            RuntimeError: The name or rank is taken, or a process did not come in time.
        """
        self._group = _core.SharedGroup(
            name, rank=rank, size=size, buffer_bytes=buffer_bytes, timeout=timeout
        )
        super().__init__(rank, size, local_rank=rank, local_size=size)
        self._name = name
        self._options: dict[str, Any] = {"buffer_bytes": buffer_bytes, "timeout": timeout}
        self._num_subgroups = 0

    def _all_reduce(self, array: NDArray[Any], name: str) -> None:
        self._group.all_reduce(array, f"{name}, {array.dtype}")

    def _all_gather(self, array: NDArray[Item], name: str) -> list[NDArray[Item]]:
        gathered = self._group.all_gather(_bytes_of(array), _rows_text(name, array))
        return [_as_rows(part, array) for part in gathered]

    def _all_to_all(self, parts: list[NDArray[Item]], name: str) -> list[NDArray[Item]]:
        received = self._group.all_to_all(
            [_bytes_of(part) for part in parts], _rows_text(name, parts[0])
        )
        return [_as_rows(part, parts[0]) for part in received]

    def _broadcast(self, array: NDArray[Any], root: int, name: str) -> None:
        self._group.broadcast(_bytes_of(array), root, f"{name}, {array.dtype}")

    def _barrier(self, name: str) -> None:
        self._group.barrier(name)

    def _subgroup(self, ranks: tuple[int, ...], name: str) -> SharedMemoryEngine | None:
        self._group.barrier(f"{name}, ranks {', '.join(map(str, ranks))}")
        self._num_subgroups += 1
        if self.rank not in ranks:
            return None
        return SharedMemoryEngine(
            f"{self._name}.{self._num_subgroups}",
            rank=ranks.index(self.rank),
            size=len(ranks),
            **self._options,
        )

    def _close(self) -> None:
        self._group.close()


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def _rows_text(name: str, array: NDArray[Any]) -> str:
    """What must be the same in all processes: the dtype and the shape of a row."""
    return f"{name}, {array.dtype}[{', '.join(['*', *map(str, array.shape[1:])])}]"


def _as_rows(received: NDArray[np.uint8], like: NDArray[Item]) -> NDArray[Item]:
    row_bytes = like.itemsize * math.prod(like.shape[1:])
    rows = received.nbytes // row_bytes if row_bytes else 0
    return received.view(like.dtype).reshape(rows, *like.shape[1:])
