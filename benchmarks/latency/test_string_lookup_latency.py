"""`fft.layers.StringLookup` beside `keras.layers.StringLookup`, and loading a model with it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from pytest_benchmark.fixture import BenchmarkFixture

import feedfast as ff
import feedfast.tf as fft

NUM_KEYS = 200_000


@pytest.fixture(scope="module")
def keys() -> list[str]:
    ids = np.random.default_rng(0).permutation(10 * NUM_KEYS)[:NUM_KEYS]
    return [f"urn:li:member:{i}" for i in ids]


@pytest.fixture(scope="module")
def layers(keys: list[str]) -> dict[str, Callable[[tf.Tensor], tf.Tensor]]:
    theirs = keras.layers.StringLookup(vocabulary=keys, num_oov_indices=2)
    ours = fft.layers.StringLookup.from_keras(theirs)
    signature = [tf.TensorSpec([None], tf.string)]
    layers = {"feedfast": ours, "keras": theirs}
    return {n: tf.function(layer, input_signature=signature) for n, layer in layers.items()}


@pytest.mark.parametrize("layer", ["feedfast", "keras"])
@pytest.mark.parametrize("batch", [1, 4096])
def test_string_lookup_latency(
    benchmark: BenchmarkFixture,
    keys: list[str],
    layers: dict[str, Callable[[tf.Tensor], tf.Tensor]],
    layer: str,
    batch: int,
) -> None:
    benchmark.group = f"string_lookup/batch={batch}"
    # Fresh keys in every call, as in a request: the tables do not fit the cache.
    picked = np.random.default_rng(1).permutation(NUM_KEYS)[: 48 * batch].reshape(48, batch)
    asked = [tf.constant([keys[i] for i in row]) for row in picked]
    np.testing.assert_array_equal(layers[layer](asked[0]), picked[0] + 2)
    turns = itertools.cycle(asked)
    benchmark(lambda: layers[layer](next(turns)))


class Model(tf.Module):  # type: ignore[misc]
    """The row of a key, or its length."""

    def __init__(self, table: fft.VocabularyTable | None) -> None:
        super().__init__()
        self.table = table

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])  # type: ignore[untyped-decorator]
    def __call__(self, key: tf.Tensor) -> tf.Tensor:
        return tf.strings.length(key) if self.table is None else self.table.lookup(key)


@pytest.mark.benchmark(group="saved_model_load")
@pytest.mark.parametrize("num_keys", [0, 10, 10_000_000])
def test_saved_model_load_latency(
    benchmark: BenchmarkFixture, tmp_path: Path, num_keys: int
) -> None:
    # Bytes of the ids as keys: making them costs nothing, and their content changes nothing.
    vocabulary = ff.Vocabulary.build(np.arange(num_keys).view("S8"))
    table = fft.VocabularyTable(vocabulary) if num_keys > 0 else None
    tf.saved_model.save(Model(table), str(tmp_path))
    loaded: Any = benchmark.pedantic(tf.saved_model.load, (str(tmp_path),), rounds=20)
    assert loaded(tf.constant("\1")) > 0
    benchmark.extra_info.update(bytes=sum(f.stat().st_size for f in tmp_path.rglob("*")))
