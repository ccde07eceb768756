from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import feedfast as ff
from feedfast.tf.vocabulary import VocabularyTable

# Inline (up to 22 bytes) and heap strings, and bytes that are not UTF-8.
KEYS = [
    *(f"m{i}" for i in range(500)),
    *(f"urn:li:member:{i:020}" for i in range(500)),
    "",
    b"\xff",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ff.Vocabulary.build(KEYS, rows=np.arange(1, len(KEYS) + 1), fingerprint_bits=32).save(
        tmp_path / "members.ffv"
    )
    return tmp_path / "members.ffv"


@pytest.fixture
def table(path: Path) -> VocabularyTable:
    return VocabularyTable(path)


class Model(tf.Module):  # type: ignore[misc]
    def __init__(self, table: VocabularyTable) -> None:
        super().__init__()
        self.table = table

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])  # type: ignore[untyped-decorator]
    def __call__(self, keys: tf.Tensor) -> tf.Tensor:
        return self.table.lookup(keys)


def test_lookup_equals_the_vocabulary(table: VocabularyTable, path: Path) -> None:
    asked = [*KEYS, "never", b"seen\xff", *KEYS[::-3]]
    want = ff.Vocabulary.open(path).lookup(asked)
    rows = table.lookup(tf.constant(asked))
    assert rows.dtype == tf.int64
    np.testing.assert_array_equal(rows, want)
    big = [*asked] * 50  # large enough for several threads
    np.testing.assert_array_equal(table.lookup(tf.constant(big)), np.tile(want, 50))
    assert table.size() == len(KEYS)
    assert table.num_rows == len(KEYS) + 1


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (0, 5)])
def test_shapes_are_kept(table: VocabularyTable, shape: tuple[int, ...]) -> None:
    assert table.lookup(tf.fill(shape, "m1")).shape == shape

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.string)])  # type: ignore[untyped-decorator]
    def traced(keys: tf.Tensor) -> tf.Tensor:
        rows = table.lookup(keys)
        assert rows.shape.as_list() == [None, 3]
        return rows

    np.testing.assert_array_equal(traced(tf.fill((2, 3), "m1")), np.full((2, 3), 2))


def test_ragged_and_sparse(table: VocabularyTable) -> None:
    ragged = tf.ragged.constant([["m0", "no"], [], ["m2"]])
    assert table.lookup(ragged).to_list() == [[1, 0], [], [3]]
    sparse = tf.sparse.from_dense([["m0", ""], ["", "m2"]])
    rows = table.lookup(sparse)
    np.testing.assert_array_equal(rows.values, [1, 3])
    np.testing.assert_array_equal(rows.indices, sparse.indices)
    np.testing.assert_array_equal(rows.dense_shape, [2, 2])


def test_works_in_a_dataset(table: VocabularyTable) -> None:
    dataset = tf.data.Dataset.from_tensor_slices(KEYS[:1000]).batch(100)
    rows = list(dataset.map(table.lookup, num_parallel_calls=2).as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(1, 1001))


def test_may_be_made_inside_a_function(path: Path) -> None:
    made: list[VocabularyTable] = []

    @tf.function  # type: ignore[untyped-decorator]
    def lookup(keys: tf.Tensor) -> tf.Tensor:
        if not made:
            made.append(VocabularyTable(path))
        return made[0].lookup(keys)

    np.testing.assert_array_equal(lookup(tf.constant(["m4", "no"])), [5, 0])


LOAD = """
import sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import feedfast.tf
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
print(model(tf.constant(["m4", "urn:li:member:00000000000000000007", "no"])).numpy().tolist())
"""


def test_saved_model_carries_the_file_to_another_process(
    table: VocabularyTable, path: Path, tmp_path: Path
) -> None:
    tf.saved_model.save(Model(table), str(tmp_path / "model"))
    assert os.listdir(tmp_path / "model" / "assets") == ["members.ffv"]
    (tmp_path / "model").rename(tmp_path / "moved")
    path.unlink()
    command = [sys.executable, "-c", LOAD, str(tmp_path / "moved")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[5, 508, 0]"


def test_loaded_and_original_tables_outlive_each_other(
    table: VocabularyTable, tmp_path: Path
) -> None:
    folder = str(tmp_path / "model")
    tf.saved_model.save(Model(table), folder)
    keys = tf.constant(["m4"])
    first: Any = tf.saved_model.load(folder)
    second: Any = tf.saved_model.load(folder)
    assert first(keys) == second(keys) == 5
    del first
    gc.collect()
    assert second(keys) == 5
    assert table.lookup(keys) == 5


def test_dropped_table_closes_its_file(path: Path) -> None:
    def is_mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    table = VocabularyTable(path)
    assert is_mapped()
    del table
    gc.collect()
    assert not is_mapped()


def test_errors(path: Path, table: VocabularyTable) -> None:
    with pytest.raises(TypeError, match="keys must be strings; got int32"):
        table.lookup(tf.constant([1]))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        VocabularyTable(path.with_name("nothing"))
    content = path.read_bytes()
    path.with_name("cut").write_bytes(content[:-64])
    with pytest.raises(ValueError, match="cut': vocabulary image: truncated"):
        VocabularyTable(path.with_name("cut"))
