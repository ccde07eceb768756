"""keras.layers.StringLookup of a text file, with one OOV index."""

from __future__ import annotations

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf
from vocab_keys import text_file

NAME = "keras.layers.StringLookup"
CONTAINER = "tensor"

prepare = text_file


def build(path: str) -> keras.layers.StringLookup:
    return keras.layers.StringLookup(vocabulary=path)


def container(keys: pa.Array) -> tf.Tensor:
    return tf.constant(keys.to_pylist())


def lookup(table: keras.layers.StringLookup, keys: tf.Tensor) -> tf.Tensor:
    return table(keys)


def known(found: tf.Tensor) -> np.ndarray:
    return found.numpy() != 0
