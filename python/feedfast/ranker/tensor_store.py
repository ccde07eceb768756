"""The weights of a trained ranker in one safetensors file, mapped when read.

Tables that processes divide are written by all of them, each its rows at their place, so that no
process needs a table whole; the file is that of a process which has everything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedfast.store import tensor_file

FloatArray = NDArray[np.float32]

_ALIGN = 64


def write_tensors(
    path: Path,
    tensors: Mapping[str, FloatArray],
    *,
    absent: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Writes a new file and waits until its bytes are on the device.

    Args:
        path: The file.
        tensors: Arrays by name.
        absent: Shapes of tables for which room is left; `RowsWriter` fills it.
    """
    specs = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    for name, shape in (absent or {}).items():
        specs[name] = (np.dtype(np.float32), shape)
    header, order = tensor_file.plan_header(specs, align=_ALIGN)
    at = len(header)
    with path.open("xb", buffering=0) as file:
        _write_at(file.fileno(), memoryview(header), 0)
        for name in order:
            dtype, shape = specs[name]
            if name in tensors:
                data = np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8)
                _write_at(file.fileno(), data.data, at)
            at += dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        file.truncate(at)
        os.fsync(file.fileno())


class RowsWriter:
    """Fills the room that `write_tensors` has left; several processes may at once."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            OSError, ValueError: It is none.
        """
        self._header = tensor_file.read_header(path)
        # For writing alone: a network file system then reads no pages that others write.
        self._file = os.open(path, os.O_WRONLY)

    def write(self, name: str, first_row: int, rows: FloatArray) -> None:
        """Writes rows [first_row, first_row + n) of a table; `rows` [n, dim] in C order."""
        spec = self._header.tensors[name]
        at = self._header.data_start + spec.begin + first_row * rows.shape[1] * rows.itemsize
        _write_at(self._file, np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data, at)

    def close(self) -> None:
        """Waits until everything is on the device."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)


def read_tensors(path: Path) -> dict[str, FloatArray]:
    """The tensors of a file, mapped read-only.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged; names the file.
    """
    try:
        header = tensor_file.read_header(path)
        bad = [name for name, spec in header.tensors.items() if spec.dtype != np.float32]
        if bad:
            raise ValueError(f"tensor {bad[0]!r} is not float32")
        mapped = np.memmap(path, np.uint8, "r")
        return {
            name: tensor_file.view_tensor(mapped, header, name).view(np.ndarray)
            for name in header.tensors
        }
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:  # one call moves at most 2 GiB
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
