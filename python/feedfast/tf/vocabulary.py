"""String keys to table rows inside TensorFlow, from the file of a `feedfast.Vocabulary`."""

from __future__ import annotations

import os
import uuid
from typing import TypeVar

import tensorflow as tf

from feedfast.tf import _library
from feedfast.vocab import Vocabulary

__all__ = ["VocabularyTable"]

StringTensor = TypeVar("StringTensor", tf.Tensor, tf.RaggedTensor, tf.SparseTensor)


# tf.Module tracks attributes; TrackableResource alone would leave the asset out of a SavedModel.
class VocabularyTable(tf.saved_model.experimental.TrackableResource, tf.Module):  # type: ignore[misc]
    """A vocabulary as a lookup table, in the place of `tf.lookup.StaticHashTable`.

    It works in eager code, `tf.function` and `tf.data`. A SavedModel of an object that has it as
    an attribute contains the file as an asset; the process that loads it imports `feedfast.tf`
    first.

    Args:
        path: File written by `Vocabulary.save`. It is mapped, not read: open time does not depend
            on its size, and processes share its pages.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not an intact vocabulary; the message says what and where.
    """

    key_dtype = tf.string
    value_dtype = tf.int64

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._num_rows = Vocabulary.open(path).num_rows
        self._shared_name = f"feedfast_vocabulary_{uuid.uuid4()}"
        super().__init__()
        self._asset = tf.saved_model.Asset(os.fspath(path))
        with tf.init_scope():
            _ = self.resource_handle  # created outside of any function that is being traced
            self._initialize()

    def _create_resource(self) -> tf.Tensor:
        return _library.ops().feedfast_vocabulary_handle(shared_name=self._shared_name)

    def _initialize(self) -> None:
        _library.ops().feedfast_vocabulary_init(self.resource_handle, self._asset.asset_path)

    def _destroy_resource(self) -> None:
        _library.ops().feedfast_vocabulary_release(self.resource_handle)

    @property
    def num_rows(self) -> int:
        """Rows of the table that the vocabulary indexes, row 0 for unknown keys included."""
        return self._num_rows

    def size(self) -> tf.Tensor:
        """The number of keys, an int64 scalar."""
        return _library.ops().feedfast_vocabulary_size(self.resource_handle)

    def lookup(self, keys: StringTensor) -> StringTensor:
        """The row of every key; 0 for unknown keys.

        Args:
            keys: Strings of any shape: a tensor (or what converts to one), a RaggedTensor or a
                SparseTensor.

        Returns:
            int64 rows of the same kind and shape.

        Raises:
            TypeError: `keys` are not strings.
        """
        if isinstance(keys, tf.RaggedTensor):
            return keys.with_flat_values(self.lookup(keys.flat_values))
        if isinstance(keys, tf.SparseTensor):
            return tf.SparseTensor(keys.indices, self.lookup(keys.values), keys.dense_shape)
        keys = tf.convert_to_tensor(keys)
        if keys.dtype != tf.string:
            raise TypeError(f"keys must be strings; got {keys.dtype.name}")
        return _library.ops().feedfast_vocabulary_lookup(self.resource_handle, keys)


tf.no_gradient("FeedfastVocabularyLookup")
