"""An embedding of keys that nobody listed: rows by hashing, two vectors combined per key."""

from __future__ import annotations

import operator
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from feedfast.hashing import METHODS, Method, split_rows
from feedfast.tf.hashing import double_hash_rows, hash_rows, quotient_remainder_rows
from feedfast.tf.pooled_lookup import pooled_lookup

__all__ = ["CompositionalEmbedding"]

Combiner = Literal["add", "multiply", "concat"]

_COMBINERS: dict[Method, tuple[Combiner, ...]] = {
    "single": ("add",),  # of one vector
    "double": ("add", "concat"),
    "quotient_remainder": ("add", "multiply", "concat"),
}


@keras.saving.register_keras_serializable(package="feedfast")
class CompositionalEmbedding(keras.layers.Layer):  # type: ignore[misc]
    """Vectors of strings or integers by hashing alone, without a vocabulary.

    Every key has a vector, also one that was never seen; keys with the same rows share theirs.
    `feedfast.hashing` says how keys become rows, and `feedfast inspect --hashing` how many of yours
    would collide. Of one table size, two rows per key collide far less than one:

    - `single`: one row of a table of `num_rows`.
    - `double`: two rows of it, by hashes with `seed` and `seed + 1`.
    - `quotient_remainder`: a row of each of two tables (Shi et al. 2020, arXiv 1909.02107).
      Integer inputs are ids below the product of their sizes and are split without hashing.

    The gradient by the table is sparse. As the first layer of a Sequential model it needs a
    `keras.Input(shape, dtype="string")` (or "int64") before it.

    Args:
        num_rows: Rows of all tables together. For `quotient_remainder` also the pair
            `(num_quotients, num_remainders)`; one number is split into halves, which gives the
            most pairs.
        dim: Length of the vectors.
        method: How keys become rows.
        combiner: "add" sums the two vectors, "multiply" takes their product (quotient and
            remainder alone), "concat" puts two of `dim / 2` side by side.
        seed: Of the hash, `0 <= seed < 2**64`.
        embeddings_initializer: Keras initializer of the table.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: A size is too small, the method unknown, the combiner not one of its method, or
            `dim` odd for "concat".
        TypeError: A size, `dim` or `seed` is no integer.
    """

    def __init__(
        self,
        num_rows: int | tuple[int, int],
        dim: int,
        method: Method = "quotient_remainder",
        combiner: Combiner = "add",
        seed: int = 0,
        *,
        embeddings_initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
        if combiner not in _COMBINERS[method]:
            allowed = ", ".join(_COMBINERS[method])
            raise ValueError(f"combiner of method {method!r} must be {allowed}; got {combiner!r}")
        dim, seed = operator.index(dim), operator.index(seed)
        if dim < 1 or (combiner == "concat" and dim % 2 != 0):
            even = ", and even for 'concat'" if combiner == "concat" else ""
            raise ValueError(f"dim must be at least 1{even}; got {dim}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed = {seed} is not in 0..2**64 - 1")
        sizes: tuple[int, ...]
        if isinstance(num_rows, int | np.integer):
            num_rows = int(num_rows)
            sizes = split_rows(num_rows) if method == "quotient_remainder" else (num_rows,)
        elif (
            isinstance(num_rows, tuple | list)
            and method == "quotient_remainder"
            and len(num_rows) == 2
        ):
            sizes = tuple(map(operator.index, num_rows))
        else:
            raise ValueError(
                "num_rows must be an integer, or a pair for 'quotient_remainder'; got "
                f"{num_rows!r} for {method!r}"
            )
        if min(sizes) < 1:
            raise ValueError(f"every table needs at least 1 row; got num_rows = {num_rows!r}")
        self.num_rows = num_rows
        self.dim = dim
        self.method: Method = method
        self.combiner: Combiner = combiner
        self.seed = seed
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self._sizes = sizes
        self.supports_jit = False  # the ops have no XLA kernels
        self._convert_input_args = False  # keys are not for the dtype policy
        self._allow_non_tensor_positional_args = True

    def build(self, keys_shape: Any = None) -> None:
        """Creates the table; remainders stand behind quotients."""
        del keys_shape
        # autocast would hand the op a cast copy of the table instead of the variable.
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(sum(self._sizes), self.dim // 2 if self.combiner == "concat" else self.dim),
            initializer=self.embeddings_initializer,
            autocast=False,
        )

    def call(self, keys: Any) -> Any:
        """The vector of every key.

        Args:
            keys: Strings or integers of any shape: a tensor, an array, a list or a
                RaggedTensor.

        Returns:
            The shape of the keys with a last dimension of `dim`, in the layer's compute dtype;
            ragged as the keys.

        Raises:
            TypeError: Keys are neither strings nor integers.
            ValueError: Keys do not convert to a tensor.
            tf.errors.InvalidArgumentError: An integer id is not in `[0, product of the two sizes)`.
        """
        if isinstance(keys, tf.RaggedTensor):
            return keys.with_flat_values(self.call(keys.flat_values))
        keys = tf.convert_to_tensor(keys, dtype_hint=tf.string)  # the hint is for []
        rows = self._rows(keys)
        values = tf.reshape(rows, [-1])
        # Bags of two are summed inside the lookup; otherwise every row is a bag of its own.
        bag_length = 2 if self.method != "single" and self.combiner == "add" else 1
        offsets = tf.range(0, tf.size(values, tf.int64) + 1, bag_length)
        vectors = pooled_lookup(self.embeddings, values, offsets, pooling="sum")
        if self.combiner == "multiply":
            pairs = tf.reshape(vectors, [-1, 2, self.dim])
            vectors = pairs[:, 0] * pairs[:, 1]
        keys_shape = tf.shape(rows) if self.method == "single" else tf.shape(rows)[:-1]
        combined = tf.reshape(vectors, tf.concat([keys_shape, [self.dim]], 0))
        combined.set_shape(self.compute_output_shape(keys.shape))
        return tf.cast(combined, self.compute_dtype)

    def _rows(self, keys: Any) -> tf.Tensor:
        """Rows of the table: [..., 2], or [...] for a single hash."""
        if self.method == "single":
            return hash_rows(keys, self._sizes[0], seed=self.seed)
        if self.method == "double":
            seeds = (self.seed, (self.seed + 1) % 2**64)
            return double_hash_rows(keys, self._sizes[0], seeds=seeds)
        num_quotients, num_remainders = self._sizes
        rows = quotient_remainder_rows(keys, num_quotients, num_remainders, seed=self.seed)
        return rows + tf.constant([0, num_quotients], tf.int64)

    def compute_output_shape(self, keys_shape: Any) -> tuple[int | None, ...]:
        """The shape of the keys with a last dimension of `dim`."""
        return (*keys_shape, self.dim)

    def compute_output_spec(self, keys: Any) -> keras.KerasTensor:
        """Ragged as the keys, in the layer's compute dtype."""
        return keras.KerasTensor(
            self.compute_output_shape(keys.shape),
            dtype=self.compute_dtype,
            ragged=getattr(keys, "ragged", False),
            ragged_rank=getattr(keys, "ragged_rank", None),
        )

    def get_config(self) -> dict[str, Any]:
        """Everything `from_config` needs."""
        return {
            **super().get_config(),
            "num_rows": self.num_rows,
            "dim": self.dim,
            "method": self.method,
            "combiner": self.combiner,
            "seed": self.seed,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }
