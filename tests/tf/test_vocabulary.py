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
from feedfast.hashing import hash_rows
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


def test_works_in_interleaved_files(table: VocabularyTable, tmp_path: Path) -> None:
    files = []
    for part in range(4):
        files.append(str(tmp_path / f"part{part}"))
        Path(files[-1]).write_text("".join(f"m{i}\n" for i in range(100 * part, 100 * part + 100)))
    rows = tf.data.Dataset.from_tensor_slices(files).interleave(
        lambda file: tf.data.TextLineDataset(file).batch(32).map(table.lookup),
        cycle_length=2,
        num_parallel_calls=2,
    )
    np.testing.assert_array_equal(
        np.sort(np.concatenate(list(rows.as_numpy_iterator()))), np.arange(1, 401)
    )


def test_has_the_surface_of_a_static_hash_table(path: Path) -> None:
    table = VocabularyTable(path, name="members")
    peer = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(["m0"], tf.constant([1], tf.int64)), 0
    )
    for attribute in ("key_dtype", "value_dtype", "default_value"):
        assert getattr(table, attribute) == getattr(peer, attribute)
    assert table.resource_handle.dtype == peer.resource_handle.dtype
    assert table.name == "members"
    np.testing.assert_array_equal(table[tf.constant(["m0", "no"])], peer[tf.constant(["m0", "no"])])
    assert table.lookup("m0", name="found") == peer.lookup(tf.constant("m0"), name="found")
    assert table.size(name="count") == len(KEYS)
    with pytest.raises(NotImplementedError, match="cannot list them"):
        table.export()


@pytest.mark.parametrize("num_oov", [1, 2, 50])
def test_unknown_keys_share_the_first_rows(path: Path, num_oov: int) -> None:
    table = VocabularyTable(path, num_oov_indices=num_oov)
    unknown = [f"never:{i}" for i in range(20_000)]  # enough for several threads
    np.testing.assert_array_equal(table.lookup(unknown), hash_rows(unknown, num_oov))
    np.testing.assert_array_equal(
        table.lookup(tf.constant(KEYS)), np.arange(num_oov, num_oov + len(KEYS))
    )
    assert table.num_rows == num_oov + len(KEYS)
    assert table.default_value == 0


def test_a_vocabulary_in_memory_becomes_a_file_for_as_long_as_the_table(tmp_path: Path) -> None:
    table = VocabularyTable(ff.Vocabulary.build(KEYS, fingerprint_bits=32))
    np.testing.assert_array_equal(np.sort(table.lookup(tf.constant(KEYS))), np.arange(1, 1003))
    tf.saved_model.save(Model(table), str(tmp_path / "model"))
    file = Path(table._asset.asset_path.numpy().decode())
    assert file.exists()
    del table
    gc.collect()
    assert not file.parent.exists()
    loaded: Any = tf.saved_model.load(str(tmp_path / "model"))
    assert loaded(tf.constant(["m4"])) > 0


def test_a_checkpoint_holds_nothing_of_a_table(table: VocabularyTable, tmp_path: Path) -> None:
    weight = tf.Variable(3.0)
    saved = tf.train.Checkpoint(table=table, weight=weight).save(str(tmp_path / "checkpoint"))
    assert not [name for name, _ in tf.train.list_variables(saved) if "table" in name]
    weight.assign(5.0)
    tf.train.Checkpoint(table=table, weight=weight).restore(saved).assert_consumed()
    assert weight == 3.0
    assert table.lookup("m4") == 5


def test_a_loaded_model_may_be_saved_again(table: VocabularyTable, tmp_path: Path) -> None:
    tf.saved_model.save(Model(table), str(tmp_path / "one"))
    tf.saved_model.save(tf.saved_model.load(str(tmp_path / "one")), str(tmp_path / "two"))
    loaded: Any = tf.saved_model.load(str(tmp_path / "two"))
    assert loaded(tf.constant(["m4"])) == 5


DISTRIBUTED = """
import sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import feedfast.tf as fft
import keras
import numpy as np
import tensorflow as tf

path, folder = sys.argv[1:]
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
outside = fft.VocabularyTable(path)
with strategy.scope():
    inside = fft.VocabularyTable(path)
keys = tf.data.Dataset.from_tensor_slices([f"m{i}" for i in range(8)]).batch(4)
for table in (outside, inside):
    lookup = tf.function(lambda keys: strategy.run(table.lookup, args=(keys,)))
    for batches in (keys, keys.map(table.lookup)):
        rows = []
        for batch in strategy.experimental_distribute_dataset(batches):
            batch = lookup(batch) if batches is keys else batch
            rows += [row for part in strategy.experimental_local_results(batch) for row in part]
        assert np.array_equal(rows, range(1, 9)), rows

with strategy.scope():
    strings = keras.Input((), dtype="string")
    layer = fft.layers.StringLookup(vocabulary=path)
    embedding = keras.layers.Embedding(layer.vocabulary_size(), 2)
    rows = keras.Input((), dtype="int64")
    ranker = keras.Model(rows, keras.layers.Dense(1)(embedding(rows)))
    ranker.compile("sgd", "mse")
    model = keras.Model(strings, ranker(layer(strings)))
# Under a strategy of several replicas Keras cannot fit on strings, with its own layer neither.
ranker.fit(keys.map(lambda k: (layer(k), tf.zeros((tf.size(k), 1)))), shuffle=False, verbose=0)
asked = tf.constant(["m4", "no"])
want = model(asked)
with strategy.scope():
    model.save(folder + "/model.keras")
    model.export(folder + "/exported", verbose=False)
    saved = keras.models.load_model(folder + "/model.keras")
    exported = tf.saved_model.load(folder + "/exported")
for loaded in (saved, exported.serve):
    got = strategy.run(tf.function(loaded), args=(asked,))
    for replica in strategy.experimental_local_results(got):
        np.testing.assert_allclose(replica, want, rtol=1e-6)
"""


def test_works_and_is_saved_under_a_distribution_strategy(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DISTRIBUTED, str(path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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


def test_what_was_traced_outlives_the_table(path: Path) -> None:
    def is_mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    table = VocabularyTable(path)
    traced = tf.function(lambda keys: table.lookup(keys)).get_concrete_function(
        tf.TensorSpec([None], tf.string)
    )
    dataset = tf.data.Dataset.from_tensors("m4").map(lambda key: table.lookup(key))
    table = None
    gc.collect()
    np.testing.assert_array_equal(traced(tf.constant(["m4", "no"])), [5, 0])
    assert list(dataset.as_numpy_iterator()) == [5]
    assert is_mapped()
    del traced, dataset
    gc.collect()
    assert not is_mapped()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_model_is_not_saved_without_its_file(
    table: VocabularyTable, path: Path, tmp_path: Path, is_replaced: bool
) -> None:
    if is_replaced:
        ff.Vocabulary.build(["other"]).save(path)
    else:
        path.unlink()
    with pytest.raises(ValueError, match=r"members\.ffv' is no longer the vocabulary"):
        tf.saved_model.save(Model(table), str(tmp_path / "model"))
    assert table.lookup("m4") == 5


def test_an_empty_list_is_a_batch_of_strings(table: VocabularyTable) -> None:
    rows = table.lookup([])
    assert (rows.shape, rows.dtype) == ((0,), tf.int64)


def test_errors(path: Path, table: VocabularyTable) -> None:
    with pytest.raises(TypeError, match="keys must be strings; got int32"):
        table.lookup(tf.constant([1]))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        VocabularyTable(path.with_name("nothing"))
    with pytest.raises(ValueError, match="unsupported type"):
        table.lookup(None)  # type: ignore[type-var]
    for num_oov in (0, 2**62 + 1, 2**64):
        with pytest.raises(ValueError, match=rf"num_oov_indices must be in .*; got {num_oov}"):
            VocabularyTable(path, num_oov_indices=num_oov)
    with pytest.raises(TypeError, match="float"):
        VocabularyTable(path, num_oov_indices=2.5)  # type: ignore[arg-type]
    content = path.read_bytes()
    path.with_name("cut").write_bytes(content[:-64])
    with pytest.raises(ValueError, match="cut': vocabulary image: truncated"):
        VocabularyTable(path.with_name("cut"))
