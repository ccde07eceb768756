"""The Keras layer in the place of keras.layers.StringLookup: strings to rows without the keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, NoReturn

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from feedfast.tf.vocabulary import (
    KEYS_ARE_NOT_STORED,
    OovHash,
    StringTensor,
    VocabularyTable,
    checked_num_oov,
)
from feedfast.vocab import Vocabulary
from feedfast.vocab_sources import read_lines

__all__ = ["StringLookup", "keras_keys"]

FingerprintBits = Literal[0, 8, 16, 32]

_ASSET = "vocabulary.ffv"
_IMAGE_MAGIC = b"FFVOCAB\0"  # docs/formats/vocabulary.md
_LIVE_MAGIC = b"FFLIVE\0\0"  # docs/formats/live_vocabulary.md

# Arguments of keras.layers.StringLookup that have no meaning here, each with its default in Keras,
# which is accepted, and the reason.
_KERAS_ONLY: dict[str, tuple[object, str]] = {
    "max_tokens": (None, "cut the list of keys before"),
    "invert": (False, KEYS_ARE_NOT_STORED),
    "idf_weights": (None, "only output_mode='int' is supported"),
    "pad_to_max_tokens": (False, "only output_mode='int' is supported"),
    "sparse": (False, "only output_mode='int' is supported"),
    "encoding": ("utf-8", "keys are bytes; a str stands for its UTF-8 bytes"),
    "salt": (None, "see oov_hash"),
    "oov_method": ("floormod", "see oov_hash"),
}


def _magic(path: str | os.PathLike[str]) -> bytes:
    """The first bytes of a file, which tell what it is."""
    with open(path, "rb") as file:
        return file.read(len(_IMAGE_MAGIC))


def keras_keys(layer: keras.layers.Layer) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """The keys of a `keras.layers.StringLookup` and their ids.

    Args:
        layer: With a vocabulary, `output_mode="int"`, at least one OOV index, and without a mask
            token; not inverted. With several OOV indices, without salt.

    Returns:
        Keys [n] as bytes and ids [n], in no particular order.

    Raises:
        TypeError: `layer` is not a `keras.layers.StringLookup`.
        ValueError: It is not as described.
    """
    if not isinstance(layer, keras.layers.StringLookup):
        raise TypeError(f"layer must be a keras.layers.StringLookup; got {type(layer).__name__}")
    for is_refused, what in (
        (layer.invert, "maps rows to keys (invert=True)"),
        (layer.mask_token is not None, f"has a mask token, {layer.mask_token!r}"),
        (layer.output_mode != "int", f"has output_mode {layer.output_mode!r}, not 'int'"),
        (layer.num_oov_indices < 1, "has no row for unknown keys (num_oov_indices=0)"),
        (layer.num_oov_indices > 1 and layer.salt is not None, "hashes unknown keys with a salt"),
    ):
        if is_refused:
            raise ValueError(f"layer {layer.name!r} cannot be converted: it {what}")
    if layer.lookup_table.size() == 0:
        raise ValueError(f"layer {layer.name!r} has no vocabulary yet")
    keys, ids = layer.lookup_table.export()
    return keys.numpy(), ids.numpy()


@keras.saving.register_keras_serializable(package="feedfast")
class StringLookup(keras.layers.Layer):  # type: ignore[misc]
    """Maps strings to table rows, in the place of `keras.layers.StringLookup`.

    Rows `0..k-1` with `k = num_oov_indices` are for unknown keys, known keys start at k. A list or
    text file keeps its order: its i-th key has row `k + i`, as in Keras, at `log2(n)` bits per key
    above the vocabulary; a vocabulary or its file adds `k - 1` to its own rows. An unknown key is
    taken for a known one with probability `2 ** -fingerprint_bits`; otherwise `oov_hash` says
    which of the first k rows it has.

    The keys are not stored. A saved model holds the vocabulary: as an asset of the layer in a
    `.keras` file, as an asset of the SavedModel after `export`.

    Args:
        vocabulary: A list, tuple, numpy array or tensor of distinct keys (when it starts with
            `oov_token` k times, those are left out, as in Keras); an Arrow array of them; the path
            of a text file with one key per line; the path of a file written by `Vocabulary.save`;
            or a Vocabulary. None leaves it to `set_vocabulary`.
        num_oov_indices: Rows for unknown keys, `1 <= k <= 2**62`.
        mask_token: Only None: no row is kept for a mask.
        oov_token: See `vocabulary`; as a key it is nothing special.
        output_mode: Only "int".
        fingerprint_bits: 0, 8, 16 or 32, when keys are given.
        oov_hash: Spreads unknown keys over their rows: "xxh3", as `feedfast.hashing.hash_rows`
            does outside of TensorFlow, or "farmhash", as Keras does, at the price of one more
            hash per key.
        **kwargs: As for `keras.layers.Layer`; other arguments of `keras.layers.StringLookup` only
            with their defaults.

    Raises:
        ValueError: The vocabulary is empty, repeats a key (the message names it) or is not an
            intact file, or another argument is not as above.
        FileNotFoundError: There is no file at the path.
        TypeError: A key is neither str nor bytes.
    """

    def __init__(
        self,
        *,
        vocabulary: Any = None,
        num_oov_indices: int = 1,
        mask_token: None = None,
        oov_token: str = "[UNK]",
        output_mode: Literal["int"] = "int",
        fingerprint_bits: FingerprintBits = 16,
        oov_hash: OovHash = "xxh3",
        **kwargs: Any,
    ) -> None:
        for argument, (default, reason) in _KERAS_ONLY.items():
            value = kwargs.pop(argument, default)
            if not isinstance(value, type(default)) or value != default:
                raise ValueError(f"{argument} is not supported: {reason}")
        if mask_token is not None:
            raise ValueError(
                f"mask_token must be None; got {mask_token!r}. Mask before the lookup, for example "
                "with tf.where or a RaggedTensor"
            )
        if output_mode != "int":
            raise ValueError(
                f"output_mode must be 'int'; got {output_mode!r}. For encodings, put "
                "keras.layers.CategoryEncoding behind this layer"
            )
        super().__init__(**kwargs)
        self.num_oov_indices = checked_num_oov(num_oov_indices)
        self.oov_token = oov_token
        self.fingerprint_bits = fingerprint_bits
        self.oov_hash = oov_hash
        self.table: VocabularyTable | None = None
        self.supports_jit = False  # strings have no XLA kernels
        self._convert_input_args = False  # strings are not for the dtype policy
        self._allow_non_tensor_positional_args = True
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    @classmethod
    def from_keras(
        cls, layer: keras.layers.Layer, *, fingerprint_bits: FingerprintBits = 16
    ) -> StringLookup:
        """The layer that gives the rows of a `keras.layers.StringLookup`.

        So an embedding trained behind that layer stays valid: known keys have the same rows, and
        so have unknown ones, but for the `2 ** -fingerprint_bits` of them that are taken for known
        (`oov_hash="farmhash"` where there are several rows for them). The name is kept too.

        Args:
            layer: As `keras_keys` takes it.
            fingerprint_bits: As of the class.

        Raises:
            TypeError, ValueError: As `keras_keys`.
        """
        keys, ids = keras_keys(layer)
        own = cls(
            num_oov_indices=layer.num_oov_indices,
            oov_token=layer.oov_token,
            fingerprint_bits=fingerprint_bits,
            oov_hash="farmhash" if layer.num_oov_indices > 1 else "xxh3",
            name=layer.name,
        )
        rows = ids - (own.num_oov_indices - 1)
        own._use(Vocabulary.build(keys, fingerprint_bits=fingerprint_bits, rows=rows))
        return own

    @classmethod
    def from_text(cls, path: str | os.PathLike[str], **kwargs: Any) -> StringLookup:
        """The layer of a text file with one key per line; `kwargs` as of the class.

        Raises:
            ValueError, FileNotFoundError: As of the class.
        """
        own = cls(vocabulary=None, **kwargs)
        own._build_text(path)
        return own

    def set_vocabulary(self, vocabulary: Any) -> None:
        """Takes or replaces the vocabulary; see the class for what it may be and for errors.

        A function or dataset that was traced with this layer keeps the vocabulary it was traced
        with.
        """
        if isinstance(vocabulary, Vocabulary):
            self._use(vocabulary)
        elif isinstance(vocabulary, str | os.PathLike):
            if _magic(vocabulary) == _IMAGE_MAGIC:
                self._use(Vocabulary.open(vocabulary))
            else:
                self._build_text(vocabulary)
        else:
            self._build(self._without_oov_tokens(vocabulary))

    def _build_text(self, path: str | os.PathLike[str]) -> None:
        try:
            if _magic(path) == _IMAGE_MAGIC:
                raise ValueError("it is a file of Vocabulary.save, not text; pass it as vocabulary")
            if _magic(path) == _LIVE_MAGIC:
                raise ValueError(
                    "it is a file of LiveVocabulary.save, not text; its snapshot is a vocabulary"
                )
            self._build(read_lines(path))
        except ValueError as error:
            raise ValueError(f"vocabulary file {os.fspath(path)!r}: {error}") from None

    def _without_oov_tokens(self, keys: Any) -> Any:
        if tf.is_tensor(keys):
            keys = keys.numpy()
        if isinstance(keys, np.ndarray) and keys.ndim != 1:
            raise ValueError(f"vocabulary must have 1 dimension; got {keys.ndim}")
        k = self.num_oov_indices
        if not isinstance(keys, list | tuple | np.ndarray) or len(keys) < k:
            return keys
        head = [key.decode(errors="replace") if isinstance(key, bytes) else key for key in keys[:k]]
        return keys[k:] if head == [self.oov_token] * k else keys

    def _build(self, keys: Any) -> None:
        if not hasattr(keys, "__len__"):
            raise TypeError(
                f"vocabulary is a {type(keys).__name__}; allowed: a list, tuple, array or tensor "
                "of strings, the path of a file, a feedfast.Vocabulary"
            )
        rows = np.arange(1, len(keys) + 1)
        self._use(Vocabulary.build(keys, fingerprint_bits=self.fingerprint_bits, rows=rows))

    def _use(self, vocabulary: Vocabulary) -> None:
        if len(vocabulary) == 0:
            raise ValueError("the vocabulary is empty; it needs at least one key")
        self._vocabulary = vocabulary
        self.table = VocabularyTable(
            vocabulary, num_oov_indices=self.num_oov_indices, oov_hash=self.oov_hash
        )

    def call(self, inputs: StringTensor) -> StringTensor:
        """The row of every string.

        Args:
            inputs: Strings of any shape: a tensor, an array, a list, a RaggedTensor or a
                SparseTensor.

        Returns:
            int64 rows of the same shape, in `[0, vocabulary_size())`; ragged or sparse as the
            inputs.

        Raises:
            TypeError: `inputs` are not strings.
            ValueError: The layer has no vocabulary, or `inputs` do not convert to a tensor.
        """
        return self._table().lookup(inputs)

    def _table(self) -> VocabularyTable:
        if self.table is None:
            raise ValueError(
                f"layer {self.name!r} has no vocabulary (a layer made from a config, as by "
                "clone_model, has none); pass vocabulary= or call set_vocabulary"
            )
        return self.table

    @property
    def compute_dtype(self) -> str:
        """The dtype that a Sequential model gives its input when this is its first layer."""
        return "string"

    @property
    def variable_dtype(self) -> str:
        """As `compute_dtype`, so that Keras casts nothing; there are no variables."""
        return "string"

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """int64 of the shape and kind of the inputs; needs no vocabulary."""
        return keras.KerasTensor(
            inputs.shape,
            dtype="int64",
            sparse=getattr(inputs, "sparse", False),
            ragged=getattr(inputs, "ragged", False),
            ragged_rank=getattr(inputs, "ragged_rank", None),
        )

    def vocabulary_size(self) -> int:
        """Rows of the embedding table behind this layer, those for unknown keys included.

        Raises:
            ValueError: The layer has no vocabulary.
        """
        return self._table().num_rows

    def get_vocabulary(self, include_special_tokens: bool = True) -> NoReturn:
        """Always raises: the keys are not stored.

        Raises:
            NotImplementedError: Always.
        """
        del include_special_tokens
        raise NotImplementedError(KEYS_ARE_NOT_STORED)

    def adapt(self, data: Any, steps: int | None = None) -> NoReturn:
        """Always raises: a vocabulary is built from distinct keys, not counted from batches.

        Raises:
            NotImplementedError: Always.
        """
        del data, steps
        raise NotImplementedError(
            "StringLookup does not learn from batches: build a vocabulary of the distinct keys "
            "with feedfast.Vocabulary.build, or adapt a keras.layers.StringLookup and "
            "convert it with StringLookup.from_keras"
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments but for the vocabulary, which `save_assets` saves."""
        return {
            **super().get_config(),
            "num_oov_indices": self.num_oov_indices,
            "oov_token": self.oov_token,
            "fingerprint_bits": self.fingerprint_bits,
            "oov_hash": self.oov_hash,
        }

    def save_assets(self, dir_path: str) -> None:
        """Writes the vocabulary into a folder; Keras calls it when it saves a model."""
        if self.table is not None:
            self._vocabulary.save(Path(dir_path) / _ASSET)

    def load_assets(self, dir_path: str) -> None:
        """Takes the vocabulary of `save_assets`, checked in full; Keras removes the folder later.

        Raises:
            ValueError: The file is truncated or altered.
        """
        path = Path(dir_path) / _ASSET
        if path.exists():
            self._use(Vocabulary.open(path, verify="full"))
