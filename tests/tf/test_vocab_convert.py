"""`feedfast vocab convert` of what Keras and TensorFlow save."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import feedfast as ff
from feedfast.cli import main
from feedfast.tf.keras_vocabulary import read_keras_vocabulary

KEYS = [f"urn:li:member:{i}" for i in range(300)]


def convert(source: Path, out: Path, *more: str) -> ff.Vocabulary:
    assert main.main(["vocab", "convert", str(source), "--out", str(out), *more]) == 0
    return ff.Vocabulary.open(out, verify="full")


def model_with(*layers: keras.layers.Layer) -> keras.Model:
    strings = keras.Input((1,), dtype="string")
    return keras.Model(strings, [layer(strings) for layer in layers])


@pytest.mark.parametrize("num_oov_indices", [1, 3])
@pytest.mark.parametrize("adapted", [False, True])
def test_rows_are_the_ids_of_the_layer(tmp_path: Path, num_oov_indices: int, adapted: bool) -> None:
    layer = keras.layers.StringLookup(
        vocabulary=None if adapted else KEYS, num_oov_indices=num_oov_indices
    )
    if adapted:
        layer.adapt(np.array(KEYS)[:, None])
    model_with(layer).save(tmp_path / "model.keras")
    vocabulary = convert(tmp_path / "model.keras", tmp_path / "v.ffv")
    np.testing.assert_array_equal(vocabulary.lookup(KEYS), layer(tf.constant(KEYS)).numpy())
    assert vocabulary.lookup(["nobody"])[0] == 0


def test_layers_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = keras.layers.StringLookup(vocabulary=["a", "b"], name="members")
    tags = keras.layers.StringLookup(vocabulary=["b", "c"], name="tags")
    path = tmp_path / "model.keras"
    model_with(members, tags).save(path)
    with pytest.raises(ValueError, match="name one of its 2 StringLookup layers: members, tags"):
        read_keras_vocabulary(path)
    with pytest.raises(ValueError, match="no StringLookup layer 'x'; there are: members, tags"):
        read_keras_vocabulary(path, "x")
    vocabulary = convert(path, tmp_path / "v.ffv", "--layer", "tags")
    np.testing.assert_array_equal(vocabulary.lookup(["a", "b", "c"]), [0, 1, 2])
    assert "rows are the ids of layer 'tags'" in capsys.readouterr().out
    model_with(keras.layers.Identity()).save(path)
    with pytest.raises(ValueError, match="has no StringLookup layer"):
        read_keras_vocabulary(path)


def test_layers_of_one_name_are_refused(tmp_path: Path) -> None:
    parts = [
        model_with(keras.layers.StringLookup(vocabulary=keys, name="tags"))
        for keys in (["a", "b"], ["c"])
    ]
    strings = keras.Input((1,), dtype="string")
    keras.Model(strings, [part(strings) for part in parts]).save(tmp_path / "model.keras")
    for layer, message in ((None, "2 StringLookup layers: tags, tags"), ("tags", "has 2 String")):
        with pytest.raises(ValueError, match=message):
            read_keras_vocabulary(tmp_path / "model.keras", layer)


def test_asset_of_a_saved_model_keeps_its_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys.txt").write_text("\n".join(KEYS))
    module = tf.Module()
    lines = tf.lookup.TextFileIndex
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(tmp_path / "keys.txt"), tf.string, lines.WHOLE_LINE, tf.int64, lines.LINE_NUMBER
        ),
        -1,
    )
    tf.saved_model.save(module, str(tmp_path / "model"))
    vocabulary = convert(tmp_path / "model", tmp_path / "v.ffv")
    np.testing.assert_array_equal(
        vocabulary.lookup(KEYS), module.table.lookup(tf.constant(KEYS)).numpy() + 1
    )
    (tmp_path / "model" / "assets" / "other.txt").write_text("a\n")
    arguments = ["vocab", "convert", str(tmp_path / "model"), "--out", str(tmp_path / "w")]
    assert main.main(arguments) == 2
    assert "has 2 assets; name the text file itself" in capsys.readouterr().err
