"""The keys and ids of the StringLookup layers in a saved Keras model."""

from __future__ import annotations

import os
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from feedfast.tf.string_lookup import keras_keys

__all__ = ["KerasVocabulary", "read_keras_vocabulary"]


class KerasVocabulary(NamedTuple):
    """What a `keras.layers.StringLookup` maps: `keys` [n] of bytes to `ids` [n] int64."""

    layer: str
    keys: NDArray[np.object_]
    ids: NDArray[np.int64]
    num_oov_indices: int


def read_keras_vocabulary(
    path: str | os.PathLike[str], layer: str | None = None
) -> KerasVocabulary:
    """The vocabulary of one layer of a `.keras` file.

    Args:
        path: File that `keras.Model.save` wrote.
        layer: Name of the layer; None for the only StringLookup of the model.

    Raises:
        ValueError: The file is no Keras model, has no such layer, or it is one that
            `keras_keys` refuses; the message says which there are.
    """
    model = keras.saving.load_model(path, compile=False)
    found = [one for one in model._flatten_layers() if isinstance(one, keras.layers.StringLookup)]
    names = ", ".join(one.name for one in found)
    if not found:
        raise ValueError(f"{os.fspath(path)}: has no StringLookup layer")
    if layer is None and len(found) != 1:
        raise ValueError(
            f"{os.fspath(path)}: name one of its {len(found)} StringLookup layers: {names}"
        )
    named = [one for one in found if layer in (None, one.name)]
    if not named:
        raise ValueError(
            f"{os.fspath(path)}: has no StringLookup layer {layer!r}; there are: {names}"
        )
    if len(named) > 1:  # in nested models
        raise ValueError(
            f"{os.fspath(path)}: has {len(named)} StringLookup layers {layer!r}; save the model of "
            "one of them on its own"
        )
    keys, ids = keras_keys(named[0])
    return KerasVocabulary(named[0].name, keys, ids, named[0].num_oov_indices)
