"""Safetensors files whose data start at an aligned byte.

The stock library writes headers of any multiple of 8 bytes. Here the header is padded with spaces,
which every reader accepts, so that the data can be mapped: from byte 64 on for small tensors, from
byte 4096 on for table blocks. Parsing trusts nothing: a header of any content is either understood
or refused with a ValueError.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_HEADER_BYTES = 16 << 20

_DTYPE_OF_NAME: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),  # numpy has no bfloat16; unsigned 16-bit integers are not stored
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
}
_NAME_OF_DTYPE = {dtype: name for name, dtype in _DTYPE_OF_NAME.items()}
_FIRST_DTYPES = frozenset(("F32", "F16", "I64", "I32", "U8"))


def as_stored(tensor: NDArray[Any]) -> NDArray[Any]:
    """The tensor with bfloat16 as its bits; ml_dtypes is no dependency: its type has this name."""
    return tensor.view(np.uint16) if tensor.dtype.name == "bfloat16" else tensor


def format_version(dtypes: Iterable[np.dtype[Any]]) -> int:
    """The first version of the store whose tensors may have all these dtypes."""
    return 1 if all(_NAME_OF_DTYPE[dtype] in _FIRST_DTYPES for dtype in dtypes) else 2


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where a tensor lies: bytes [begin, end) after the header."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A parsed header: the tensors by name, and the byte of the file at which their data start."""

    tensors: Mapping[str, TensorSpec]
    data_start: int


def plan_header(
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], *, align: int
) -> tuple[bytes, tuple[str, ...]]:
    """The bytes of a file up to its data, and the order in which the tensors' bytes follow.

    Tensors are laid out without gaps, those of the largest items first and then by name, as the
    stock library does.

    Args:
        tensors: dtype and shape of each tensor.
        align: The length of the result is a multiple of it.

    Raises:
        ValueError: A dtype that is not stored.
    """
    for name, (dtype, _) in tensors.items():
        if dtype not in _NAME_OF_DTYPE:
            raise ValueError(
                f"tensor {name!r}: dtype {dtype} cannot be stored; "
                f"allowed: {', '.join(map(str, _NAME_OF_DTYPE))}, uint16 being bfloat16"
            )
    order = tuple(sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name)))
    entries: dict[str, dict[str, object]] = {}
    begin = 0
    for name in order:
        dtype, shape = tensors[name]
        end = begin + dtype.itemsize * math.prod(shape)
        entries[name] = {
            "dtype": _NAME_OF_DTYPE[dtype],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    padded = -(-(8 + len(text)) // align) * align - 8
    return struct.pack("<Q", padded) + text.ljust(padded), order


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _parse_spec(name: str, entry: object) -> TensorSpec:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r}: not an object of dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPE_OF_NAME:
        raise ValueError(f"tensor {name!r}: dtype {entry['dtype']!r} is unknown")
    for key in ("shape", "data_offsets"):
        value = entry[key]
        if not isinstance(value, list) or not all(
            type(v) is int and 0 <= v < 1 << 62 for v in value
        ):
            raise ValueError(f"tensor {name!r}: {key} is not a list of sizes")
    if len(entry["data_offsets"]) != 2:
        raise ValueError(
            f"tensor {name!r}: data_offsets has {len(entry['data_offsets'])} values; needs 2"
        )
    dtype, shape = _DTYPE_OF_NAME[entry["dtype"]], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    # Bounds the product of the shape: sizes of a real tensor are below its bytes, or one is zero.
    size = 0 if 0 in shape else dtype.itemsize
    for extent in shape:
        size *= extent
        if size > end:
            break
    if len(shape) > 8 or begin % dtype.itemsize != 0 or begin + size != end:
        raise ValueError(
            f"tensor {name!r}: shape {shape} of {dtype} does not fill bytes {begin} to {end}"
        )
    return TensorSpec(dtype, shape, begin, end)


def parse_header(head: bytes, file_size: int) -> TensorHeader:
    """The header of a safetensors file of `file_size` bytes.

    Args:
        head: The file's first bytes: at least the header, unless the file is shorter.
        file_size: All bytes of the file.

    Raises:
        ValueError: The header is truncated or malformed, or the tensors do not fill the file.
    """
    if len(head) < 8:
        raise ValueError(f"{file_size} bytes are too few for a safetensors header")
    (length,) = struct.unpack_from("<Q", head)
    if length > MAX_HEADER_BYTES or 8 + length > len(head):
        raise ValueError(f"header of {length} bytes does not fit into {file_size} bytes")
    try:
        entries = json.loads(head[8 : 8 + length].decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"header is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise ValueError("header is not a JSON object")
    entries.pop("__metadata__", None)
    tensors = {name: _parse_spec(name, entry) for name, entry in entries.items()}
    covered = 0
    for name, spec in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if spec.begin != covered:
            raise ValueError(f"tensor {name!r}: starts at byte {spec.begin}; expected {covered}")
        covered = spec.end
    if 8 + length + covered != file_size:
        raise ValueError(f"tensors end at byte {8 + length + covered} of {file_size}")
    return TensorHeader(tensors, 8 + length)


def read_header(path: Path) -> TensorHeader:
    """The header of a safetensors file.

    Raises:
        OSError: The file cannot be read.
        ValueError: As `parse_header`.
    """
    with path.open("rb") as file:
        head = file.read(8)
        head += file.read(min(int.from_bytes(head, "little"), MAX_HEADER_BYTES))
        return parse_header(head, os.fstat(file.fileno()).st_size)


def view_tensor(file: NDArray[np.uint8], header: TensorHeader, name: str) -> NDArray[Any]:
    """A view of one tensor of the file's bytes; no copy."""
    spec = header.tensors[name]
    data = file[header.data_start + spec.begin : header.data_start + spec.end]
    return data.view(spec.dtype).reshape(spec.shape)
