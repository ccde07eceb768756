"""tf.lookup.StaticHashTable of a text file.

From a file, as a SavedModel loads it: a table made from tensors keeps these beside its own copy of
the keys.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import tensorflow as tf
from vocab_keys import text_file

NAME = "tf.lookup.StaticHashTable"
CONTAINER = "tensor"

prepare = text_file


def build(path: str) -> tf.lookup.StaticHashTable:
    line = tf.lookup.TextFileIndex
    lines = tf.lookup.TextFileInitializer(
        path, tf.string, line.WHOLE_LINE, tf.int64, line.LINE_NUMBER
    )
    return tf.lookup.StaticHashTable(lines, -1)


def container(keys: pa.Array) -> tf.Tensor:
    return tf.constant(keys.to_pylist())


def lookup(table: tf.lookup.StaticHashTable, keys: tf.Tensor) -> tf.Tensor:
    return table.lookup(keys)


def known(found: tf.Tensor) -> np.ndarray:
    return found.numpy() >= 0
