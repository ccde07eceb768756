"""marisa-trie: a succinct trie, exact, with keys by id as well."""

from __future__ import annotations

import marisa_trie
import numpy as np
import pyarrow as pa

NAME = "marisa-trie"
CONTAINER = "list"


def container(keys: pa.Array) -> list[str]:
    return keys.to_pylist()


prepare = container


def build(keys: list[str]) -> marisa_trie.Trie:
    return marisa_trie.Trie(keys)


def lookup(table: marisa_trie.Trie, keys: list[str]) -> list[int]:
    get = table.get
    return [get(key, -1) for key in keys]


def known(found: list[int]) -> np.ndarray:
    return np.asarray(found) >= 0
