from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import feedfast as ff

NUM_KEYS = 200_000
CONTAINERS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "arrow": pa.array,
    "numpy_S": lambda keys: np.array(keys, dtype="S"),
    "numpy_U": np.array,
}


@pytest.fixture(scope="module")
def keys() -> list[str]:
    ids = np.random.default_rng(0).permutation(10 * NUM_KEYS)[:NUM_KEYS]
    return [f"urn:li:member:{i}" for i in ids]


@pytest.fixture(scope="module")
def vocabulary(keys: list[str]) -> ff.Vocabulary:
    return ff.Vocabulary.build(keys, rows=np.arange(1, NUM_KEYS + 1))


@pytest.mark.benchmark(group="vocabulary")
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("batch", [1, 50, 4096])
def test_vocabulary_latency(
    benchmark: BenchmarkFixture,
    vocabulary: ff.Vocabulary,
    keys: list[str],
    container: str,
    batch: int,
) -> None:
    # Log-uniform ranks: Zipf with exponent 1.
    ranks = np.random.default_rng(1).random(batch)
    picked = np.exp(ranks * np.log(NUM_KEYS)).astype(np.int64) - 1
    asked = CONTAINERS[container]([keys[i] for i in picked])
    rows = benchmark(vocabulary.lookup, asked)
    np.testing.assert_array_equal(rows, picked + 1)
