"""A python dict of str to int."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

NAME = "python dict"
CONTAINER = "list"

Table = dict[str, int]


def container(keys: pa.Array) -> list[str]:
    return keys.to_pylist()


prepare = container


def build(keys: list[str]) -> Table:
    return dict(zip(keys, range(1, len(keys) + 1), strict=True))


def lookup(table: Table, keys: list[str]) -> list[int]:
    return [table.get(key, 0) for key in keys]


def known(found: list[int]) -> np.ndarray:
    return np.asarray(found) != 0
