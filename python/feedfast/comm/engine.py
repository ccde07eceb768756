"""What an engine can do, and what all engines do alike: checks, counts and the bfloat16 wire."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.comm.traffic import Traffic

Item = TypeVar("Item", bound=np.generic)
Wire = Literal["exact", "bf16"]


class Engine(ABC):
    """One of `size` processes that exchange arrays.

    Every process makes the same calls in the same order, from one thread at a time. The `name` of a
    call is the same in all of them and from step to step: it tells exchanges apart in messages,
    counts and timelines.

    With `wire="bf16"`, float32 values travel as bfloat16, in half the bytes, rounded to nearest
    with ties to even.

    All calls raise RuntimeError when another process has ended or is late, and name its rank where
    they know it; the engine is then of no more use.
    """

    def __init__(self, rank: int, size: int, local_rank: int, local_size: int) -> None:
        """For engines alone; they implement the methods that begin with an underscore."""
        self._rank, self._size = rank, size
        self._local_rank, self._local_size = local_rank, local_size
        self._traffic = Traffic(0, 0)
        self._by_name: dict[str, Traffic] = {}

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self._rank

    @property
    def size(self) -> int:
        """Number of processes."""
        return self._size

    @property
    def local_rank(self) -> int:
        """Number of this process among those of its host, from 0."""
        return self._local_rank

    @property
    def local_size(self) -> int:
        """Number of processes of this host."""
        return self._local_size

    @property
    def traffic(self) -> Traffic:
        """What this process has exchanged so far; subgroups count for themselves."""
        return self._traffic

    @property
    def exchanges_by_name(self) -> dict[str, Traffic]:
        """The same by the names of the calls."""
        return dict(self._by_name)

    def all_reduce(
        self, array: NDArray[Any], *, name: str = "all_reduce", wire: Wire = "exact"
    ) -> None:
        """Replaces `array` by its sum over the processes; the same bits in all of them.

        Args:
            array: float32 or float64 of any shape, C-contiguous and writable; the same dtype and
                size everywhere.
            name: Of the call.
            wire: "bf16" (float32 alone): every addend is rounded once, the float32 sum once more.

        Raises:
            TypeError: Another dtype.
            ValueError: The processes' arrays differ in dtype or size, or the array is read-only or
                not contiguous.
        """
        _check_reduced(array)
        bytes_on_wire = _bytes_reduced(array, self.size)
        if check_wire(wire) == "bf16":
            check_float32(array)
            bytes_on_wire //= 2
            if self.size > 1:
                self._all_reduce_bf16(array, name)
        else:
            self._all_reduce(array, name)
        self._count(name, bytes_on_wire)

    def all_gather(self, array: NDArray[Item], *, name: str = "all_gather") -> list[NDArray[Item]]:
        """The arrays of all processes, by rank.

        Args:
            array: [n, ...]; n may differ between processes, dtype and other dimensions may not.
            name: Of the call.

        Raises:
            ValueError: An array has no dimension.
        """
        _check_gathered(array)
        gathered = self._all_gather(np.ascontiguousarray(array), name)
        self._count(name, array.nbytes * (self.size - 1))
        return gathered

    def reduce_and_gather(
        self, array: NDArray[Any], rows: NDArray[Item], *, names: tuple[str, str]
    ) -> list[NDArray[Item]]:
        """`all_reduce` of `array` and `all_gather` of `rows`, begun together where that is quicker.

        They count as two exchanges, each under its name.

        Args:
            array: As of `all_reduce`.
            rows: As of `all_gather`.
            names: Of both.

        Returns:
            What `all_gather` returns.

        Raises:
            TypeError, ValueError: As they do.
        """
        _check_reduced(array)
        _check_gathered(rows)
        gathered = self._reduce_and_gather(array, np.ascontiguousarray(rows), names)
        self._count(names[0], _bytes_reduced(array, self.size))
        self._count(names[1], rows.nbytes * (self.size - 1))
        return gathered

    def all_to_all(
        self,
        parts: Sequence[NDArray[Item]],
        *,
        name: str = "all_to_all",
        wire: Wire = "exact",
    ) -> list[NDArray[Item]]:
        """What every process sent to this one, by rank.

        Args:
            parts: What goes to rank 0, to rank 1, ...: `size` arrays [n, ...] of one dtype, the
                same in all processes; n may differ, other dimensions may not.
            name: Of the call.
            wire: "bf16": the parts are float32; what a process sends to itself is not rounded.

        Raises:
            TypeError: `wire` is "bf16" and the parts are not float32.
            ValueError: Not `size` parts, or parts of different dtypes or widths.
        """
        check_parts(parts, self.size)
        sent = [np.ascontiguousarray(part) for part in parts]
        bytes_on_wire = sum(part.nbytes for part in sent) - sent[self.rank].nbytes
        if check_wire(wire) == "bf16":
            check_float32(sent[0])
            bytes_on_wire //= 2
            received = self._all_to_all_bf16(sent, name)
        else:
            received = self._all_to_all(sent, name)
        self._count(name, bytes_on_wire)
        return received

    def broadcast(self, array: NDArray[Any], root: int = 0, *, name: str = "broadcast") -> None:
        """Replaces `array` by that of process `root`, which has the same dtype and shape.

        Raises:
            ValueError: No such rank, or the arrays have different numbers of bytes.
        """
        if not 0 <= root < self.size:
            raise ValueError(f"root = {root} is not in 0..{self.size - 1}")
        if not array.flags.c_contiguous or not array.flags.writeable:
            raise ValueError("array must be C-contiguous and writable")
        self._broadcast(array, root, name)
        self._count(name, array.nbytes * (self.size - 1) if root == self.rank else 0)

    def barrier(self, *, name: str = "barrier") -> None:
        """Returns when all processes have called it."""
        self._barrier(name)
        self._count(name, 0)

    def subgroup(self, ranks: Sequence[int], *, name: str = "subgroup") -> Engine | None:
        """An engine between some of the processes; None for a process outside.

        Every process calls it with the same ranks. A process' rank in the new engine is its
        position in `ranks`. The engine is closed on its own.

        Raises:
            ValueError: Ranks that are not ascending, or not of this engine.
        """
        chosen = tuple(ranks)
        if not chosen or list(chosen) != sorted(set(chosen)):
            raise ValueError(f"ranks = {list(chosen)} must be ascending and at least one")
        if chosen[0] < 0 or chosen[-1] >= self.size:
            raise ValueError(f"ranks = {list(chosen)} are not all in 0..{self.size - 1}")
        return self._subgroup(chosen, name)

    def close(self) -> None:
        """Leaves the group. Others that still wait for this process fail."""
        self._close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _all_reduce(self, array: NDArray[Any], name: str) -> None:
        """float32 or float64, C-contiguous, writable; any shape."""

    @abstractmethod
    def _all_gather(self, array: NDArray[Item], name: str) -> list[NDArray[Item]]:
        """C-contiguous, at least one dimension; the results are new arrays."""

    def _reduce_and_gather(
        self, array: NDArray[Any], rows: NDArray[Item], names: tuple[str, str]
    ) -> list[NDArray[Item]]:
        """As the two above, in this order on all processes; for engines that can do better."""
        self._all_reduce(array, names[0])
        return self._all_gather(rows, names[1])

    @abstractmethod
    def _all_to_all(self, parts: list[NDArray[Item]], name: str) -> list[NDArray[Item]]:
        """`size` checked parts, C-contiguous; the results are new arrays."""

    @abstractmethod
    def _broadcast(self, array: NDArray[Any], root: int, name: str) -> None:
        """C-contiguous and writable; `root` is a rank."""

    @abstractmethod
    def _barrier(self, name: str) -> None: ...

    @abstractmethod
    def _subgroup(self, ranks: tuple[int, ...], name: str) -> Engine | None:
        """Ranks of this engine, ascending, at least one."""

    @abstractmethod
    def _close(self) -> None:
        """May be called again."""

    def _count(self, name: str, bytes_sent: int) -> None:
        self._traffic = self._traffic.plus(bytes_sent)
        self._by_name[name] = self._by_name.get(name, Traffic(0, 0)).plus(bytes_sent)

    def _all_reduce_bf16(self, array: NDArray[np.float32], name: str) -> None:
        # Each process sums one part in float32, in the order of the ranks, and gives it to all.
        bounds = [array.size * rank // self.size for rank in range(self.size + 1)]
        bits = _core.to_bfloat16(array.reshape(-1))
        parts = [bits[begin:end] for begin, end in pairwise(bounds)]
        received = self._all_to_all(parts, name)
        part = _core.from_bfloat16(received[0])
        for addend in received[1:]:
            part += _core.from_bfloat16(addend)
        # Another name: Horovod remembers what it agreed on by name alone.
        sums = self._all_gather(_core.to_bfloat16(part), f"{name}.sums")
        out = array.reshape(-1)
        for (begin, end), each in zip(pairwise(bounds), sums, strict=True):
            out[begin:end] = _core.from_bfloat16(each)

    def _all_to_all_bf16(self, parts: list[NDArray[Any]], name: str) -> list[NDArray[Any]]:
        nothing = parts[self.rank][:0]
        bits = [
            _core.to_bfloat16(nothing if rank == self.rank else part)
            for rank, part in enumerate(parts)
        ]
        received: list[NDArray[Any]] = [
            _core.from_bfloat16(part) for part in self._all_to_all(bits, name)
        ]
        received[self.rank] = parts[self.rank].copy()
        return received


def check_parts(parts: Sequence[NDArray[Any]], size: int) -> None:
    """Checks the argument of `Engine.all_to_all`.

    Raises:
        ValueError: As there.
    """
    if len(parts) != size:
        raise ValueError(f"{len(parts)} parts for {size} processes")
    for rank, part in enumerate(parts):
        if part.ndim == 0:
            raise ValueError(f"parts[{rank}] has no dimension")
        if part.dtype != parts[0].dtype or part.shape[1:] != parts[0].shape[1:]:
            raise ValueError(
                f"parts[{rank}] is {part.dtype} {part.shape}; "
                f"parts[0] is {parts[0].dtype} {parts[0].shape}"
            )


def _check_reduced(array: NDArray[Any]) -> None:
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"array is {array.dtype}; all_reduce takes float32 and float64")
    if not array.flags.c_contiguous or not array.flags.writeable:
        raise ValueError("array must be C-contiguous and writable")


def _check_gathered(array: NDArray[Any]) -> None:
    if array.ndim == 0:
        raise ValueError("array has no dimension")


def _bytes_reduced(array: NDArray[Any], size: int) -> int:
    """What a process sends of an exact sum."""
    return array.nbytes * 2 * (size - 1) // size


def check_wire(wire: str) -> str:
    """`wire` itself.

    Raises:
        ValueError: It is not one of `Wire`.
    """
    if wire not in ("exact", "bf16"):
        raise ValueError(f"wire = {wire!r} is not 'exact' or 'bf16'")
    return wire


def check_float32(array: NDArray[Any]) -> None:
    """Checks what may travel as bfloat16.

    Raises:
        TypeError: It is not float32.
    """
    if array.dtype != np.float32:
        raise TypeError(f"wire = 'bf16' takes float32; got {array.dtype}")
