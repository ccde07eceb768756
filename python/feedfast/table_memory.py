"""Memory for embedding tables, laid out for random rows."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from feedfast import _core

_LINE_BYTES = 64
_HUGE_PAGE_BYTES = 2 << 20


def allocate_table(num_rows: int, dim: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """A table of zeros [num_rows, dim] whose first row starts a cache line, in huge pages.

    numpy starts large arrays 16 bytes behind a page, where a row of 256 bytes touches five cache
    lines instead of four. Pages of 2 MiB spare most TLB misses of tables beyond some 10 MB; where
    the system does not grant them to a table of 2 MiB or more, a warning is logged and the table
    lies in small ones.

    Raises:
        ValueError: `num_rows` or `dim` is negative.
    """
    if num_rows < 0 or dim < 0:
        raise ValueError(f"num_rows and dim must not be negative; got {num_rows} and {dim}")
    num_bytes = num_rows * dim * np.dtype(dtype).itemsize
    align = _HUGE_PAGE_BYTES if num_bytes >= _HUGE_PAGE_BYTES else _LINE_BYTES
    room = np.empty(num_bytes + align, np.uint8)
    skip = -room.ctypes.data % align
    used = room[skip : skip + num_bytes]
    used.fill(0)
    if num_bytes >= _HUGE_PAGE_BYTES and not _core.move_to_huge_pages(used):
        logging.getLogger("feedfast").warning(
            "the system grants no huge pages to a table of %d bytes; see "
            "/sys/kernel/mm/transparent_hugepage/enabled",
            num_bytes,
        )
    return used.view(dtype).reshape(num_rows, dim)
