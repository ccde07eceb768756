from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

import feedfast as ff
import feedfast.tf as fft
from feedfast.hashing import hash_rows
from feedfast.tf.string_lookup import StringLookup

KEYS = ["a", "", "membre:é", "[UNK]", "urn:li:member:00000000000000000001"]


def random_keys(rng: np.random.Generator, size: int) -> list[bytes]:
    """Distinct byte strings: ASCII, UTF-8, bytes that are neither, of 0 to 60 bytes."""
    letters = [*"ab", "é", "中", "🙂"]
    keys: dict[bytes, None] = {b"": None}
    while len(keys) < size:
        length = int(rng.integers(1, 20))
        if rng.random() < 0.5:
            keys["".join(rng.choice(letters, length)).encode()] = None
        else:  # no NUL at the end, where numpy's S arrays lose it
            keys[rng.integers(1, 256, length, dtype=np.uint8).tobytes()] = None
    return [key for _, key in sorted(zip(rng.random(size), keys, strict=True))]


@pytest.mark.parametrize("num_oov", [1, 2, 7])
@pytest.mark.parametrize("size", [1, 2, 30, 2000])
def test_known_keys_have_the_rows_of_keras(size: int, num_oov: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(20_240_601 + size)
    keys = random_keys(rng, size)
    theirs = keras.layers.StringLookup(vocabulary=keys, num_oov_indices=num_oov)
    want = theirs(tf.constant(keys))
    np.testing.assert_array_equal(want, np.arange(size) + num_oov)
    lines = [key for key in keys if key and b"\n" not in key and key[-1:] != b"\r"]
    path = tmp_path / "keys.txt"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    for ours in (
        StringLookup(vocabulary=keys, num_oov_indices=num_oov),
        StringLookup.from_keras(theirs),
    ):
        np.testing.assert_array_equal(ours(tf.constant(keys)), want)
        assert ours.vocabulary_size() == theirs.vocabulary_size()
    if lines:
        from_file = keras.layers.StringLookup(vocabulary=str(path), num_oov_indices=num_oov)
        for ours in (
            StringLookup(vocabulary=path, num_oov_indices=num_oov),
            StringLookup.from_text(path, num_oov_indices=num_oov),
        ):
            np.testing.assert_array_equal(ours(tf.constant(lines)), from_file(tf.constant(lines)))
            assert ours.vocabulary_size() == from_file.vocabulary_size()


@pytest.mark.parametrize("num_oov", [1, 2, 7])
def test_a_converted_layer_gives_unknown_keys_their_rows_too(num_oov: int) -> None:
    rng = np.random.default_rng(20_240_602)
    keys = random_keys(rng, 3000)
    theirs = keras.layers.StringLookup(vocabulary=keys[:1000], num_oov_indices=num_oov)
    ours = StringLookup.from_keras(theirs, fingerprint_bits=32)
    assert ours.name == theirs.name
    np.testing.assert_array_equal(ours(tf.constant(keys)), theirs(tf.constant(keys)))
    ragged = tf.RaggedTensor.from_row_lengths(keys, [0, 1000, 2000])
    np.testing.assert_array_equal(ours(ragged).flat_values, theirs(ragged).flat_values)
    again = StringLookup.from_config(ours.get_config())
    again.set_vocabulary(ours._vocabulary)
    np.testing.assert_array_equal(again(tf.constant(keys)), theirs(tf.constant(keys)))


def test_lines_of_a_file_are_those_of_keras(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes(b"a\r\nb\rc\n d \n\xff\nlast")
    asked = tf.constant(["a", "b\rc", " d ", b"\xff", "last"])
    theirs = keras.layers.StringLookup(vocabulary=str(path))
    np.testing.assert_array_equal(theirs(asked), np.arange(1, 6))
    np.testing.assert_array_equal(StringLookup(vocabulary=path)(asked), np.arange(1, 6))


def test_every_kind_of_vocabulary(tmp_path: Path) -> None:
    rows = np.arange(2, 7)
    for vocabulary in (
        KEYS,
        tuple(KEYS),
        np.array(KEYS),
        np.array(KEYS, object),
        [key.encode() for key in KEYS],
        pa.array(KEYS),
        tf.constant(KEYS),
    ):
        layer = StringLookup(vocabulary=vocabulary, num_oov_indices=2)
        np.testing.assert_array_equal(layer(tf.constant(KEYS)), rows)
    own_rows = np.array([9, 3, 5, 1, 2])
    vocabulary = ff.Vocabulary.build(KEYS, rows=own_rows, fingerprint_bits=32)
    vocabulary.save(tmp_path / "members.ffv")
    for source in (vocabulary, tmp_path / "members.ffv", str(tmp_path / "members.ffv")):
        layer = StringLookup(vocabulary=source, num_oov_indices=3)
        np.testing.assert_array_equal(layer(tf.constant(KEYS)), own_rows + 2)
        assert layer.vocabulary_size() == 12


@pytest.mark.parametrize("as_array", [list, np.array, tf.constant])
def test_leading_oov_tokens_are_left_out_as_in_keras(as_array: Any) -> None:
    keys = ["[UNK]", "[UNK]", "a", "b"]
    theirs = keras.layers.StringLookup(vocabulary=as_array(keys), num_oov_indices=2)
    ours = StringLookup(vocabulary=as_array(keys), num_oov_indices=2)
    np.testing.assert_array_equal(ours(["a", "b"]), theirs(["a", "b"]))
    again = StringLookup(vocabulary=theirs.get_vocabulary(), num_oov_indices=2)
    np.testing.assert_array_equal(again(["a", "b"]), [2, 3])


def test_defaults_of_keras_are_taken() -> None:
    config = keras.layers.StringLookup(vocabulary=KEYS[:1], num_oov_indices=2).get_config()
    del config["vocabulary"], config["vocabulary_size"]
    np.testing.assert_array_equal(StringLookup(vocabulary=KEYS, **config)(KEYS), range(2, 7))


def test_unknown_keys_have_their_hashed_rows() -> None:
    unknown: list[str | bytes] = [f"never:{i}" for i in range(3000)]
    for num_oov in (1, 2, 50):
        layer = StringLookup(vocabulary=KEYS, num_oov_indices=num_oov, fingerprint_bits=32)
        rows = layer(tf.constant(unknown))
        np.testing.assert_array_equal(rows, hash_rows(unknown, num_oov))
        assert len(np.unique(rows)) == num_oov


def test_inputs_of_every_kind() -> None:
    layer = StringLookup(vocabulary=["a", "b"])
    assert layer("a") == 1
    np.testing.assert_array_equal(layer(["a", "no"]), [1, 0])
    np.testing.assert_array_equal(layer(np.array([["b"], ["no"]])), [[2], [0]])
    assert layer(tf.zeros((0, 3), tf.string)).shape == (0, 3)
    assert layer([]).shape == (0,)
    assert layer(tf.ragged.constant([["a", "no"], []])).to_list() == [[1, 0], []]
    sparse = layer(tf.sparse.from_dense([["a", ""], ["", "b"]]))
    np.testing.assert_array_equal(tf.sparse.to_dense(sparse), [[1, 0], [0, 2]])
    dataset = tf.data.Dataset.from_tensor_slices(["a", "no", "b"]).batch(2)
    rows = dataset.map(layer, num_parallel_calls=2).unbatch().as_numpy_iterator()
    assert list(rows) == [1, 0, 2]
    traced = tf.function(layer, input_signature=[tf.TensorSpec([None, 2], tf.string)])
    np.testing.assert_array_equal(traced(tf.constant([["a", "b"]])), [[1, 2]])


def test_a_large_number_of_oov_rows_takes_no_memory() -> None:
    for oov_hash in ("xxh3", "farmhash"):
        layer = StringLookup(vocabulary=KEYS, num_oov_indices=2**62, oov_hash=oov_hash)
        rows = layer(["a", "never"])
        assert rows[0] == 2**62
        assert 0 <= rows[1] < 2**62


def test_what_was_traced_keeps_a_replaced_vocabulary() -> None:
    layer = StringLookup(vocabulary=["a", "b"])
    traced = tf.function(layer, input_signature=[tf.TensorSpec([None], tf.string)])
    keys = tf.constant(["b", "c"])
    model = keras.Sequential([keras.Input((), dtype="string"), layer])
    for step in (lambda: traced(keys), lambda: model.predict(keys, verbose=0)):
        np.testing.assert_array_equal(step(), [2, 0])
    dataset = tf.data.Dataset.from_tensors(keys).map(layer)
    layer.set_vocabulary(["c"])
    gc.collect()
    for step in (lambda: traced(keys), lambda: model.predict(keys, verbose=0)):
        np.testing.assert_array_equal(step(), [2, 0])
    np.testing.assert_array_equal(next(dataset.as_numpy_iterator()), [2, 0])
    np.testing.assert_array_equal(layer(keys), [0, 1])


def ranker(layer: StringLookup, *, ragged: bool) -> keras.Model:
    members = keras.Input((None,), dtype="string", ragged=ragged)
    history = fft.layers.PooledEmbedding(layer.vocabulary_size(), 4)(layer(members))
    model = keras.Model(members, keras.layers.Dense(1)(history))
    model.compile("sgd", "mse")
    return model


LOAD = """
import sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import feedfast.tf
import keras
import tensorflow as tf
members = tf.constant([["a", "no"], ["", "[UNK]"], ["membre:é", "never"]])
saved = keras.models.load_model(sys.argv[1] + "/model.keras")
exported = tf.saved_model.load(sys.argv[1] + "/exported")
for rows in (saved(members), exported.serve(members)):
    print(rows.numpy().ravel().tolist())
"""


# Keras saves variables with np.array(...), which NumPy 2 answers with this warning.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_fitted_model_goes_to_another_process(tmp_path: Path) -> None:
    keras.utils.set_random_seed(20_240_601)
    # Keras exports dense signatures only.
    model = ranker(StringLookup(vocabulary=KEYS, num_oov_indices=2), ragged=False)
    members = tf.constant([["a", "no"], ["", "[UNK]"], ["membre:é", "never"]])
    model.fit(members, tf.ones((3, 1)), epochs=2, verbose=0)
    (tmp_path / "saved").mkdir()
    model.save(tmp_path / "saved" / "model.keras")
    model.export(tmp_path / "saved" / "exported", verbose=False)
    assert os.listdir(tmp_path / "saved" / "exported" / "assets") == ["vocabulary.ffv"]
    (tmp_path / "saved").rename(tmp_path / "moved")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "moved")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    want = model(members).numpy().ravel().tolist()
    got = [eval(line) for line in done.stdout.strip().splitlines()]
    np.testing.assert_allclose(got, [want, want], rtol=1e-6)  # float32, another process


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_config_holds_no_vocabulary_and_copies_keep_it(tmp_path: Path) -> None:
    layer = StringLookup(vocabulary=KEYS, num_oov_indices=3, fingerprint_bits=8, name="members")
    config = layer.get_config()
    assert "vocabulary" not in config
    empty = StringLookup.from_config(config)
    assert empty.get_config() == config
    with pytest.raises(ValueError, match="'members' has no vocabulary"):
        empty(tf.constant(["a"]))
    empty.save_assets(str(tmp_path))
    empty.load_assets(str(tmp_path))  # nothing to save, nothing to load
    layer.save_assets(str(tmp_path))
    empty.load_assets(str(tmp_path))
    (tmp_path / "vocabulary.ffv").unlink()
    np.testing.assert_array_equal(empty(tf.constant(KEYS)), np.arange(3, 8))
    model = ranker(layer, ragged=True)
    members = tf.ragged.constant([["a", "no"], [], ["membre:é"]])
    model.fit(members, tf.ones((3, 1)), verbose=0)
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(copied(members), model(members), rtol=1e-6)  # same weights


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_may_come_first_in_a_sequential_model(policy: str, tmp_path: Path) -> None:
    layer = StringLookup(vocabulary=KEYS, dtype=policy)
    model = keras.Sequential([layer, keras.layers.Embedding(layer.vocabulary_size(), 2)])
    keys = tf.constant(["a", "no"])
    vectors = model(keys)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(keys), vectors)


def test_is_saved_as_an_attribute_of_a_module(tmp_path: Path) -> None:
    module = tf.Module()
    module.layer = StringLookup(vocabulary=KEYS)
    module.call = tf.function(
        lambda keys: module.layer(keys), input_signature=[tf.TensorSpec([None], tf.string)]
    )
    tf.saved_model.save(module, str(tmp_path))
    assert os.listdir(tmp_path / "assets") == ["vocabulary.ffv"]
    loaded: Any = tf.saved_model.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.call(tf.constant(KEYS)), range(1, 6))


def test_altered_assets_are_refused(tmp_path: Path) -> None:
    layer = StringLookup(vocabulary=KEYS)
    layer.save_assets(str(tmp_path))
    path = tmp_path / "vocabulary.ffv"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"vocabulary\.ffv"):
        layer.load_assets(str(tmp_path))


def test_two_layers_export_two_assets(tmp_path: Path) -> None:
    one, other = StringLookup(vocabulary=["a", "b"]), StringLookup(vocabulary=["b", "a", "c"])
    keys = keras.Input((), dtype="string")
    model = keras.Model(keys, [one(keys), other(keys)])
    model.export(tmp_path / "exported", verbose=False)
    assert len(os.listdir(tmp_path / "exported" / "assets")) == 2
    loaded: Any = tf.saved_model.load(str(tmp_path / "exported"))
    rows = loaded.serve(tf.constant(["a", "b", "c"]))
    np.testing.assert_array_equal(rows, [[1, 2, 0], [2, 1, 3]])


def test_keys_cannot_be_listed_nor_learned() -> None:
    layer = StringLookup(vocabulary=KEYS)
    with pytest.raises(NotImplementedError, match="cannot list them"):
        layer.get_vocabulary()
    with pytest.raises(NotImplementedError, match=r"Vocabulary\.build"):
        layer.adapt(["a"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"vocabulary": []}, ValueError, "vocabulary is empty"),
        ({"vocabulary": ff.Vocabulary.build([])}, ValueError, "vocabulary is empty"),
        ({"vocabulary": ["a", "b", "a"]}, ValueError, "'a'"),
        ({"vocabulary": ["a", None]}, TypeError, r"keys\[1\] is a NoneType"),
        ({"vocabulary": np.arange(3)}, TypeError, "dtype int64"),
        ({"vocabulary": [["a"]]}, TypeError, "list"),
        ({"vocabulary": 5}, TypeError, "vocabulary is a int; allowed: a list"),
        ({"vocabulary": "/no/such/file"}, FileNotFoundError, "/no/such/file"),
        ({"output_mode": "one_hot"}, ValueError, "output_mode must be 'int'; got 'one_hot'"),
        ({"mask_token": ""}, ValueError, "mask_token must be None; got ''"),
        ({"num_oov_indices": 0}, ValueError, r"num_oov_indices must be in 1\.\.2\*\*62; got 0"),
        ({"vocabulary": ["a"], "num_oov_indices": 2**63}, ValueError, "num_oov_indices must be in"),
        ({"num_oov_indices": 1.5}, TypeError, "float"),
        ({"vocabulary": np.array("a")}, ValueError, "vocabulary must have 1 dimension; got 0"),
        ({"vocabulary": tf.constant([["a", "b"]])}, ValueError, "must have 1 dimension; got 2"),
        ({"max_tokens": 10}, ValueError, "max_tokens is not supported: cut the list"),
        ({"vocabulary": ["a"], "oov_hash": "md5"}, ValueError, "oov_hash must be 'xxh3' or"),
        ({"invert": True}, ValueError, "invert is not supported"),
        ({"idf_weights": np.ones(2)}, ValueError, "idf_weights is not supported"),
        ({"encoding": "latin-1"}, ValueError, "encoding is not supported: keys are bytes"),
        ({"vocabulary": ["a"], "fingerprint_bits": 7}, ValueError, "fingerprint_bits = 7"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        StringLookup(**arguments)


def test_bad_files_and_inputs(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.txt': the vocabulary is empty"):
        StringLookup(vocabulary=tmp_path / "empty.txt")
    (tmp_path / "twice.txt").write_bytes(b"a\nb\na\n")
    with pytest.raises(ValueError, match=r"twice\.txt': keys\[0\] and keys\[2\] are both 'a'"):
        StringLookup(vocabulary=tmp_path / "twice.txt")
    ff.Vocabulary.build(KEYS).save(tmp_path / "cut.ffv")
    content = (tmp_path / "cut.ffv").read_bytes()
    (tmp_path / "cut.ffv").write_bytes(content[:-64])
    with pytest.raises(ValueError, match=r"cut\.ffv': vocabulary image: truncated"):
        StringLookup(vocabulary=tmp_path / "cut.ffv")
    snapshot = ff.Vocabulary.build(KEYS)
    ff.LiveVocabulary(snapshot, capacity=8).save(tmp_path / "live.ffl")
    with pytest.raises(ValueError, match=r"live\.ffl': it is a file of LiveVocabulary\.save"):
        StringLookup(vocabulary=tmp_path / "live.ffl")
    snapshot.save(tmp_path / "members.ffv")
    with pytest.raises(ValueError, match=r"members\.ffv': it is a file of Vocabulary\.save"):
        StringLookup.from_text(tmp_path / "members.ffv")
    with pytest.raises(ValueError, match=r"twice\.txt': keys\[0\] and keys\[2\]"):
        StringLookup.from_text(tmp_path / "twice.txt")
    with pytest.raises(TypeError, match="keys must be strings; got int64"):
        StringLookup(vocabulary=KEYS)(tf.constant([1], tf.int64))


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (lambda: keras.layers.Dense(1), TypeError, "got Dense"),
        (lambda: keras.layers.StringLookup(), ValueError, "has no vocabulary yet"),
        (
            lambda: keras.layers.StringLookup(vocabulary=["a"], invert=True),
            ValueError,
            "invert=True",
        ),
        (
            lambda: keras.layers.StringLookup(vocabulary=["a"], mask_token=""),
            ValueError,
            "has a mask token, ''",
        ),
        (
            lambda: keras.layers.StringLookup(vocabulary=["a"], num_oov_indices=0),
            ValueError,
            "has no row for unknown keys",
        ),
        (
            lambda: keras.layers.StringLookup(vocabulary=["a"], output_mode="multi_hot"),
            ValueError,
            "has output_mode 'multi_hot', not 'int'",
        ),
        (
            lambda: keras.layers.StringLookup(vocabulary=["a"], num_oov_indices=2, salt=5),
            ValueError,
            "hashes unknown keys with a salt",
        ),
    ],
)
def test_what_cannot_be_converted(layer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        StringLookup.from_keras(layer())
