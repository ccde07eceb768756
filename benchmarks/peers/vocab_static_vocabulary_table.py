"""tf.lookup.StaticVocabularyTable of a text file, with one OOV bucket behind the keys' ids."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import tensorflow as tf
from vocab_keys import text_file

NAME = "tf.lookup.StaticVocabularyTable"
CONTAINER = "tensor"

prepare = text_file


def build(path: str) -> tf.lookup.StaticVocabularyTable:
    line = tf.lookup.TextFileIndex
    lines = tf.lookup.TextFileInitializer(
        path, tf.string, line.WHOLE_LINE, tf.int64, line.LINE_NUMBER
    )
    return tf.lookup.StaticVocabularyTable(lines, 1)


def container(keys: pa.Array) -> tf.Tensor:
    return tf.constant(keys.to_pylist())


def lookup(
    table: tf.lookup.StaticVocabularyTable, keys: tf.Tensor
) -> tuple[tf.lookup.StaticVocabularyTable, tf.Tensor]:
    return table, table.lookup(keys)


def known(found: tuple[tf.lookup.StaticVocabularyTable, tf.Tensor]) -> np.ndarray:
    table, ids = found
    return ids.numpy() < table.size().numpy() - 1
