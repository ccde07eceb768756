"""lexindex: a perfect hash with 16-bit fingerprints, as feedfast's."""

from __future__ import annotations

import lexindex
import numpy as np
import pyarrow as pa

NAME = "lexindex, 16-bit fingerprints"
CONTAINER = "arrow"

Table = lexindex.CompactHashIndex


def container(keys: pa.Array) -> pa.Array:
    return keys


def prepare(keys: pa.Array) -> list[str]:
    return keys.to_pylist()


def build(keys: list[str]) -> Table:
    return lexindex.CompactHashIndex(keys, fingerprint_bits=16)


def lookup(table: Table, keys: pa.Array) -> bytes:
    return table.ids_of_arrow(keys)


def known(found: bytes) -> np.ndarray:
    return np.frombuffer(found, dtype=Table.ID_DTYPE) != Table.MISSING_ID


def num_bytes(table: Table) -> int:
    return table.serialized_len()
