"""Tables of `feedfast bench lookup`, the same numbers and memory on feedfast's side and its peers'.

Needs numpy alone: the peers run in an environment that need not know feedfast.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

STORAGE_BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}
_PERIOD = 1 << 23  # numbers, a multiple of every dim
_HUGE_PAGE = 2 << 20


def row_bytes(storage: str, dim: int) -> int:
    """Bytes of a row: its numbers, or half scale, half bias and codes."""
    header = 4 if storage.startswith("int") else 0
    return header + STORAGE_BITS[storage] * dim // 8


def rows_of(storage: str, rows: int, dim: int, index: int) -> np.ndarray:
    """Rows of bytes [at most rows, row_bytes] that table `index` repeats."""
    numbers = np.random.default_rng(index).random(min(rows * dim, _PERIOD), dtype=np.float32)
    numbers -= 0.5
    weights = numbers.reshape(-1, dim)
    if storage == "fp32":
        return weights.view(np.uint8)
    if storage == "fp16":
        return weights.astype(np.float16).view(np.uint8)
    if storage == "bf16":
        bits = weights.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).view(np.uint8)
    levels = 2 ** STORAGE_BITS[storage] - 1
    bias = weights.min(1, keepdims=True).astype(np.float16)
    scale = ((weights.max(1, keepdims=True) - bias) / levels).astype(np.float16)
    codes = np.clip(np.rint((weights - bias) / scale), 0, levels).astype(np.uint8)
    if storage == "int4":
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    return np.concatenate([np.concatenate([scale, bias], 1).view(np.uint8), codes], 1)


class Memory:
    """Room for one group of tables at a time, from a page border on, in huge pages or small ones.

    Making room costs more than a measurement, so it is kept while the next tables fit; what they
    would hold is written again only when it is something else.
    """

    def __init__(self) -> None:
        self._room: np.ndarray | None = None
        self._huge = False
        self._holds: tuple[Any, ...] | None = None

    def tables(
        self, storage: str, rows: int, dim: int, *, huge: bool = True, count: int = 1
    ) -> np.ndarray:
        """The bytes [count, rows, row_bytes] of tables 0, 1, ..., one behind the other.

        Those of an earlier call are overwritten.
        """
        shape = (count, rows, row_bytes(storage, dim))
        size = int(np.prod(shape))
        if self._room is None or self._room.size < size or self._huge != huge:
            self._room = self._holds = None  # gives the memory back first
            self._room = _allocate(size, huge)
            self._huge = huge
        tables = self._room[:size].reshape(shape)
        # Numbers in a row are the same for any dim.
        holds = (storage, dim if storage != "fp32" else 0, 1 if count == 1 else (count, rows))
        written = 0
        if self._holds is not None and self._holds[0] == holds:
            written = self._holds[1]
        if written < size:
            for index, table in enumerate(tables):
                block = rows_of(storage, rows, dim, index)
                for begin in range(0, rows, len(block)):
                    part = table[begin : begin + len(block)]
                    part[:] = block[: len(part)]
            self._holds = (holds, size)
        return tables


def _allocate(size: int, huge: bool) -> np.ndarray:
    # Private: shared memory has small pages alone.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    room = mmap.mmap(-1, size + _HUGE_PAGE, flags=flags)
    room.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    room_bytes = np.frombuffer(room, np.uint8)
    skip = -room_bytes.ctypes.data % _HUGE_PAGE
    return room_bytes[skip : skip + size]
