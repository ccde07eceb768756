"""lexindex's perfect hash alone, which takes every key for a known one."""

from __future__ import annotations

import lexindex
import numpy as np
import pyarrow as pa

NAME = "lexindex, hash alone"
CONTAINER = "arrow"

Table = lexindex.ClosedHashIndex


def container(keys: pa.Array) -> pa.Array:
    return keys


def prepare(keys: pa.Array) -> list[str]:
    return keys.to_pylist()


def build(keys: list[str]) -> Table:
    return lexindex.ClosedHashIndex(keys)


def lookup(table: Table, keys: pa.Array) -> bytes:
    return table.ids_of_arrow(keys)


def known(found: bytes) -> np.ndarray:
    return np.full(len(np.frombuffer(found, dtype=Table.ID_DTYPE)), True)


def num_bytes(table: Table) -> int:
    return table.serialized_len()
