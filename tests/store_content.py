"""Model versions whose every section follows from a seed, so that any mix-up shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feedfast.store import ModelStore, OpenedModel


def table(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)


def publish(store: ModelStore, seed: int, model: str = "feed") -> str:
    """A version whose every section can be checked from `seed`, by `check`."""
    model_writer = store.writer(model)
    model_writer.add_table("table", table(300, 5, seed))
    codes = np.random.default_rng(seed).integers(0, 256, (70, 4 + 3), dtype=np.uint8)
    model_writer.add_table("codes", codes, layout="int8_rowwise")
    model_writer.add_table("fixed", table(10, 2, 99))
    model_writer.add_tensors("tensors", {"a/x": table(1, 7, seed)[0], "b": np.arange(seed % 5)})
    model_writer.add_tensors("none", {})
    model_writer.add_image("image", f"image {seed}".encode(), layout="text")
    return model_writer.publish({"seed": seed})


def check(opened: OpenedModel) -> int:
    seed = int(opened.description["seed"])
    np.testing.assert_array_equal(opened.table("table"), table(300, 5, seed))
    codes = np.random.default_rng(seed).integers(0, 256, (70, 4 + 3), dtype=np.uint8)
    np.testing.assert_array_equal(opened.table("codes"), codes)
    np.testing.assert_array_equal(opened.table("fixed"), table(10, 2, 99))
    tensors = opened.tensors("tensors")
    assert set(tensors) == {"a/x", "b"}
    np.testing.assert_array_equal(tensors["a/x"], table(1, 7, seed)[0])
    np.testing.assert_array_equal(tensors["b"], np.arange(seed % 5))
    assert not opened.tensors("none")
    assert opened.image("image", layout="text").tobytes() == f"image {seed}".encode()
    return seed
