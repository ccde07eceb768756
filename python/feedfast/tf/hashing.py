"""The functions of `feedfast.hashing` as TensorFlow ops, with equal results."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from feedfast.tf import _library

__all__ = ["double_hash_rows", "hash_keys", "hash_rows", "quotient_remainder_rows"]


def hash_keys(keys: Any, *, seed: int = 0) -> tf.Tensor:
    """The 64-bit codes that a `Vocabulary` of this seed knows keys by.

    Args:
        keys: Strings of any shape.
        seed: Of the hash, `0 <= seed < 2**64`.

    Returns:
        uint64 codes of the shape of the keys.
    """
    return _library.ops().feedfast_hash_keys(keys, seed=_seed_bits(seed))


def hash_rows(keys: Any, num_rows: int, *, seed: int = 0) -> Any:
    """`feedfast.hashing.hash_rows`: one row per key.

    Args:
        keys: Strings or integers of any shape: a tensor (or what converts to one) or a
            RaggedTensor.
        num_rows: Rows of the table, `1 <= num_rows <= 2**62`.
        seed: Of the hash, `0 <= seed < 2**64`.

    Returns:
        int64 rows of the same kind and shape.

    Raises:
        TypeError: Keys are neither strings nor integers.
        ValueError: `seed` or `num_rows` is out of range.
    """
    if isinstance(keys, tf.RaggedTensor):
        return keys.with_flat_values(hash_rows(keys.flat_values, num_rows, seed=seed))
    return tf.squeeze(_hash_rows(keys, num_rows, [seed]), -1)


def double_hash_rows(keys: Any, num_rows: int, *, seeds: tuple[int, int] = (0, 1)) -> Any:
    """`feedfast.hashing.double_hash_rows`: two rows of one table per key.

    Args:
        keys: As `hash_rows`.
        num_rows: As `hash_rows`.
        seeds: Of the two hashes, different.

    Returns:
        int64 rows of the shape of the keys with a last dimension of 2.

    Raises:
        TypeError, ValueError: As `hash_rows`; there are not two different seeds.
    """
    if len(seeds) != 2 or seeds[0] == seeds[1]:
        raise ValueError(f"seeds must be two different integers; got {seeds!r}")
    if isinstance(keys, tf.RaggedTensor):
        return keys.with_flat_values(double_hash_rows(keys.flat_values, num_rows, seeds=seeds))
    return _hash_rows(keys, num_rows, seeds)


def quotient_remainder_rows(
    keys: Any, num_quotients: int, num_remainders: int, *, seed: int = 0
) -> Any:
    """`feedfast.hashing.quotient_remainder_rows`: a row of each of two tables per key.

    Args:
        keys: Strings, or integer ids in `[0, num_quotients * num_remainders)`, of any shape; a
            tensor or a RaggedTensor.
        num_quotients: Rows of the table of quotients, at least 1.
        num_remainders: Rows of the table of remainders, at least 1; the product is at most 2**62.
        seed: Of the hash, `0 <= seed < 2**64`.

    Returns:
        int64 rows of the shape of the keys with a last dimension of 2.

    Raises:
        TypeError, ValueError: As `hash_rows`.
        tf.errors.InvalidArgumentError: An integer id is out of range; the message gives its
            position.
    """
    if isinstance(keys, tf.RaggedTensor):
        flat = keys.flat_values
        return keys.with_flat_values(
            quotient_remainder_rows(flat, num_quotients, num_remainders, seed=seed)
        )
    num_quotients, num_remainders = map(operator.index, (num_quotients, num_remainders))
    if min(num_quotients, num_remainders) < 1:
        raise ValueError(
            "num_quotients and num_remainders must be at least 1; got "
            f"{num_quotients} and {num_remainders}"
        )
    if num_quotients * num_remainders > 2**62:
        raise ValueError(f"{num_quotients} * {num_remainders} pairs are more than 2**62")
    return _library.ops().feedfast_quotient_remainder_rows(
        _as_keys(keys),
        seed=_seed_bits(seed),
        num_quotients=num_quotients,
        num_remainders=num_remainders,
    )


def _hash_rows(keys: Any, num_rows: int, seeds: Sequence[int]) -> tf.Tensor:
    num_rows = operator.index(num_rows)
    if not 1 <= num_rows <= 2**62:
        raise ValueError(f"num_rows = {num_rows} is not in 1..2**62")
    return _library.ops().feedfast_hash_rows(
        _as_keys(keys), seeds=[_seed_bits(seed) for seed in seeds], num_rows=num_rows
    )


def _as_keys(keys: Any) -> tf.Tensor:
    keys = tf.convert_to_tensor(keys, dtype_hint=tf.string)  # the hint is for []
    if keys.dtype == tf.string:
        return keys
    if not keys.dtype.is_integer or keys.dtype == tf.uint64:
        raise TypeError(f"keys must be strings or integers that fit int64; got {keys.dtype.name}")
    return tf.cast(keys, tf.int64)


def _seed_bits(seed: int) -> int:
    """The seed as the signed integer of the same 64 bits, which attributes of ops are."""
    seed = operator.index(seed)
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed = {seed} is not in 0..2**64 - 1")
    return seed if seed < 2**63 else seed - 2**64


tf.no_gradient("FeedfastHashRows")
tf.no_gradient("FeedfastQuotientRemainderRows")
