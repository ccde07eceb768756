"""The keys of the vocabulary benchmarks, made by index: a billion of them need no memory.

Index i of a kind is always the same key, and different indices are different keys. A structure
holds the indices below its size; those from there on are unknown to it.
"""

from __future__ import annotations

import atexit
import os
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SIZES = {"members": 10_000_000, "hashtags": 1_000_000, "uuids": 10_000_000}
_PREFIXES = {"members": "urn:li:member:", "hashtags": "#tag"}
_ODD = np.uint64(0x9E3779B97F4A7C15)
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)


def keys_at(kind: str, indices: np.ndarray) -> pa.Array:
    """[n] strings: `urn:li:member:<id>`, `#tag<id>` (ids below 2^34), or 40 bytes like a UUID."""
    scattered = indices.astype(np.uint64) * _ODD  # one to one modulo any power of two: it is odd
    if kind == "uuids":
        return _uuids(scattered)
    ids = pa.array((scattered % np.uint64(2**34)).astype(np.int64)).cast(pa.string())
    return pc.binary_join_element_wise(pa.scalar(_PREFIXES[kind]), ids, pa.scalar(""))


def first_keys(kind: str, size: int) -> pa.Array:
    """The keys 0..size - 1."""
    return keys_at(kind, np.arange(size))


def _uuids(scattered: np.ndarray) -> pa.Array:
    high = scattered ^ (scattered >> np.uint64(29))
    halves = np.stack([high, scattered], axis=1).astype(">u8")
    nibbles = halves.view(np.uint8).reshape(len(scattered), 16)
    digits = np.empty((len(scattered), 32), dtype=np.uint8)
    digits[:, 0::2] = _HEX[nibbles >> 4]
    digits[:, 1::2] = _HEX[nibbles & 15]
    text = np.full((len(scattered), 40), ord("-"), dtype=np.uint8)
    text[:, :4] = np.frombuffer(b"uid:", dtype=np.uint8)
    for column, digit, count in ((4, 0, 8), (13, 8, 4), (18, 12, 4), (23, 16, 4), (28, 20, 12)):
        text[:, column : column + count] = digits[:, digit : digit + count]
    offsets = np.arange(0, 40 * len(scattered) + 1, 40, dtype=np.int32)
    return pa.StringArray.from_buffers(
        len(scattered), pa.py_buffer(offsets), pa.py_buffer(text.reshape(-1))
    )


def text_file(keys: pa.Array) -> str:
    """A file with one key per line, which goes with the process."""
    handle, path = tempfile.mkstemp(suffix=".txt")
    atexit.register(os.unlink, path)
    with os.fdopen(handle, "wb") as file:
        for begin in range(0, len(keys), 1 << 20):
            file.write(
                "".join(f"{key}\n" for key in keys[begin : begin + (1 << 20)].to_pylist()).encode()
            )
    return path
