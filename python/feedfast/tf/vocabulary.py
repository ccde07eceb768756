"""String keys to table rows inside TensorFlow, from the file of a `feedfast.Vocabulary`."""

from __future__ import annotations

import operator
import os
import shutil
import tempfile
import uuid
import weakref
from typing import Any, Literal, NoReturn, TypeVar

import tensorflow as tf

from feedfast.tf import _library
from feedfast.vocab import Vocabulary

__all__ = ["VocabularyTable"]

KEYS_ARE_NOT_STORED = (
    "a vocabulary holds a hash function and fingerprints instead of its keys, so it cannot list "
    "them; keep the source of the keys"
)

OovHash = Literal["xxh3", "farmhash"]
StringTensor = TypeVar("StringTensor", tf.Tensor, tf.RaggedTensor, tf.SparseTensor)


def checked_num_oov(num_oov_indices: int) -> int:
    """The number of rows for unknown keys, if there may be as many.

    Raises:
        TypeError: It is no integer.
        ValueError: It is not in `1..2**62`.
    """
    checked = operator.index(num_oov_indices)
    if not 1 <= checked <= 2**62:
        raise ValueError(f"num_oov_indices must be in 1..2**62; got {checked}")
    return checked


# tf.Module tracks attributes; TrackableResource alone would leave the asset out of a SavedModel.
class VocabularyTable(tf.saved_model.experimental.TrackableResource, tf.Module):  # type: ignore[misc]
    """A vocabulary as a lookup table, in the place of `tf.lookup.StaticHashTable`.

    It works in eager code, `tf.function`, `tf.data` and under `tf.distribute`. A SavedModel of an
    object that has it as an attribute contains the file as an asset; the process that loads it
    imports `feedfast.tf` first. A `tf.train.Checkpoint` saves nothing of it, as of a
    StaticHashTable. The file stays open for as long as the table or a function or dataset that was
    traced with it.

    Args:
        vocabulary: A file written by `Vocabulary.save`, or a Vocabulary, which is saved to a
            temporary file for as long as the table lives. The file is mapped, not read: open time
            does not depend on its size, and processes share its pages. Saving a SavedModel copies
            it, and raises a ValueError if it is no longer the file that was opened.
        num_oov_indices: Rows for unknown keys, `1 <= k <= 2**62`: an unknown key has a row in
            `[0, k)`, a known one its row of the vocabulary plus k - 1.
        oov_hash: The row of an unknown key: "xxh3" is `feedfast.hashing.hash_rows(key, k)`,
            computed with the lookup; "farmhash" is `tf.strings.to_hash_bucket_fast(key, k)`, the
            one of Keras and of `tf.lookup.StaticVocabularyTable`, which hashes every key once more.
        name: Of the table, a valid Python identifier.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not an intact vocabulary (the message says what and where),
            `num_oov_indices` is out of range or `oov_hash` unknown.
        TypeError: `vocabulary` is neither a path nor a Vocabulary, `num_oov_indices` no integer.
    """

    key_dtype = tf.string
    value_dtype = tf.int64

    def __init__(
        self,
        vocabulary: str | os.PathLike[str] | Vocabulary,
        *,
        num_oov_indices: int = 1,
        oov_hash: OovHash = "xxh3",
        name: str | None = None,
    ) -> None:
        num_oov_indices = checked_num_oov(num_oov_indices)
        if oov_hash not in ("xxh3", "farmhash"):
            raise ValueError(f"oov_hash must be 'xxh3' or 'farmhash'; got {oov_hash!r}")
        super().__init__()
        tf.Module.__init__(self, name=name)
        if isinstance(vocabulary, Vocabulary):
            path = self._save_for_life(vocabulary)
        else:
            path = os.fsdecode(vocabulary)
        file_id = _file_id(path)  # before the file is opened, so that it is no later one's
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = Vocabulary.open(path)
        self._num_oov = num_oov_indices
        self._oov_hash = oov_hash
        self._num_rows = vocabulary.num_rows + num_oov_indices - 1
        self._shared_name = f"feedfast_vocabulary_{uuid.uuid4()}"
        self._path, self._file_id = path, file_id
        self._asset = tf.saved_model.Asset(path)
        with tf.init_scope():
            handle = self.resource_handle  # created outside of any function that is being traced
            self._initialize()
        # A function that was traced with the table holds the handle, not the table.
        weakref.finalize(handle, _release, self._shared_name, handle.device).atexit = False

    def __del__(self) -> None:
        """Does not destroy the resource, as the base class does: its handle may live on."""

    def _save_for_life(self, vocabulary: Vocabulary) -> str:
        """The path of a file that lives as long as this table."""
        folder = tempfile.mkdtemp(prefix="feedfast-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = os.path.join(folder, "vocabulary.ffv")
        vocabulary.save(path)
        return path

    def _create_resource(self) -> tf.Tensor:
        return _library.ops().feedfast_vocabulary_handle(shared_name=self._shared_name)

    def _initialize(self) -> None:
        _library.ops().feedfast_vocabulary_init(self.resource_handle, self._asset.asset_path)

    def _destroy_resource(self) -> None:  # only by what was loaded from a SavedModel
        _library.ops().feedfast_vocabulary_release(self.resource_handle)

    def _export_to_saved_model_graph(self, *args: Any, **kwargs: Any) -> Any:
        # TensorFlow would save a model without the asset, or with another one.
        if _file_id(self._path) != self._file_id:
            raise ValueError(
                f"{self._path!r} is no longer the vocabulary that this table was opened with: it "
                "was removed or replaced, so that no SavedModel can take it along"
            )
        return super()._export_to_saved_model_graph(*args, **kwargs)

    @property
    def num_rows(self) -> int:
        """Rows of the table that the vocabulary indexes, those for unknown keys included."""
        return self._num_rows

    @property
    def default_value(self) -> tf.Tensor:
        """The first row for unknown keys: 0, an int64 scalar."""
        return tf.constant(0, self.value_dtype)

    def size(self, name: str | None = None) -> tf.Tensor:
        """The number of keys, an int64 scalar."""
        return _library.ops().feedfast_vocabulary_size(self.resource_handle, name=name)

    def lookup(self, keys: StringTensor, name: str | None = None) -> StringTensor:
        """The row of every key.

        Args:
            keys: Strings of any shape: a tensor (or what converts to one), a RaggedTensor or a
                SparseTensor.
            name: Name of the op.

        Returns:
            int64 rows of the same kind and shape, below `num_oov_indices` for unknown keys.

        Raises:
            TypeError: `keys` are not strings.
            ValueError: `keys` do not convert to a tensor, such as None or lists of unequal lengths.
        """
        if isinstance(keys, tf.RaggedTensor):
            return keys.with_flat_values(self.lookup(keys.flat_values, name))
        if isinstance(keys, tf.SparseTensor):
            return tf.SparseTensor(keys.indices, self.lookup(keys.values, name), keys.dense_shape)
        keys = tf.convert_to_tensor(keys, dtype_hint=tf.string)  # the hint is for []
        if keys.dtype != tf.string:
            raise TypeError(f"keys must be strings; got {keys.dtype.name}")
        lookup = _library.ops().feedfast_vocabulary_lookup
        if self._oov_hash == "xxh3" or self._num_oov == 1:
            return lookup(self.resource_handle, keys, num_oov=self._num_oov, name=name)
        rows = lookup(self.resource_handle, keys, name=name)
        oov_rows = tf.strings.to_hash_bucket_fast(keys, self._num_oov)
        return tf.where(rows == 0, oov_rows, rows + (self._num_oov - 1))

    def __getitem__(self, keys: StringTensor) -> StringTensor:
        """`lookup(keys)`."""
        return self.lookup(keys)

    def export(self, name: str | None = None) -> NoReturn:
        """Always raises: a vocabulary has no keys to give back.

        Raises:
            NotImplementedError: Always.
        """
        del name
        raise NotImplementedError(KEYS_ARE_NOT_STORED)


def _file_id(path: str) -> tuple[int, int, int, int] | None:
    """What tells a file from one that took its place; None when there is none."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _release(shared_name: str, device: str) -> None:
    """Counts one user of a named vocabulary less; the last one closes the file."""
    with tf.init_scope(), tf.device(device):  # a function may be traced while garbage is collected
        handle = _library.ops().feedfast_vocabulary_handle(shared_name=shared_name)
        _library.ops().feedfast_vocabulary_release(handle)


tf.no_gradient("FeedfastVocabularyLookup")
