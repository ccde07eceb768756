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
    found = {
        one.name: one
        for one in model._flatten_layers()
        if isinstance(one, keras.layers.StringLookup)
    }
    if layer is None and len(found) != 1:
        raise ValueError(
            f"{os.fspath(path)}: name one of its {len(found)} StringLookup layers: "
            f"{', '.join(found)}"
            if found
            else f"{os.fspath(path)}: has no StringLookup layer"
        )
    name = next(iter(found)) if layer is None else layer
    if name not in found:
        raise ValueError(
            f"{os.fspath(path)}: has no StringLookup layer {name!r}; there are: {', '.join(found)}"
        )
    chosen = found[name]
    keys, ids = keras_keys(chosen)
    return KerasVocabulary(name, keys, ids, chosen.num_oov_indices)
