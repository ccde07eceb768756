"""Keys to table rows by hashing alone: no vocabulary to build or keep, and keys that collide.

Each function maps a key to one row, or to two whose vectors are combined, the same on every machine
and in every version. Nothing is stored and nothing is unknown; the price is that keys with the same
rows share a vector. `collision_rates` says how many do. `feedfast.tf.layers.CompositionalEmbedding`
is the embedding on these rows.

Strings are hashed with XXH3 (64 bits) as their UTF-8 bytes; an integer stands for its 8
little-endian bytes. With `scale(h, m) = floor(h * m / 2**64)`, the row of a key is
`scale(XXH3(key, seed), num_rows)`: uniform, without the division and the bias of a remainder.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.vocab import Keys

__all__ = [
    "METHODS",
    "CollisionRate",
    "HashedKeys",
    "Method",
    "collision_rates",
    "double_hash_rows",
    "expected_collision_rate",
    "hash_rows",
    "quotient_remainder_rows",
    "split_rows",
]

HashedKeys: TypeAlias = Keys | NDArray[np.integer[Any]]
"""As `feedfast.vocab.Keys`, or a 1-d numpy array of integers that fit int64."""

Method: TypeAlias = Literal["single", "double", "quotient_remainder"]
METHODS: tuple[Method, ...] = ("single", "double", "quotient_remainder")

_MAX_MEASURED_ROWS = 1 << 31  # pairs of rows are counted as one int64


def hash_rows(keys: HashedKeys, num_rows: int, *, seed: int = 0) -> NDArray[np.int64]:
    """One row per key: the hashing trick (Weinberger et al. 2009, arXiv 0902.2206).

    Args:
        keys: [n] keys.
        num_rows: Rows of the table, `1 <= num_rows <= 2**62`.
        seed: Of the hash, `0 <= seed < 2**64`.

    Returns:
        [n] int64, each in `[0, num_rows)`.

    Raises:
        ValueError: `num_rows` or `seed` is out of range, or keys are as `Vocabulary.lookup`
            refuses them.
        TypeError: Keys are neither strings nor integers.
    """
    return _hash_rows(keys, num_rows, [seed])[:, 0]


def double_hash_rows(
    keys: HashedKeys, num_rows: int, *, seeds: tuple[int, int] = (0, 1)
) -> NDArray[np.int64]:
    """Two rows of one table per key, whose vectors are added.

    Two keys share a vector only when they share both rows: about `2 / num_rows**2` of all pairs
    instead of `1 / num_rows` (Zhang et al. 2020, arXiv 2007.14523; Svenstrup et al. 2017, arXiv
    1709.03933).

    Args:
        keys: [n] keys.
        num_rows: Rows of the table, `1 <= num_rows <= 2**62`.
        seeds: Of the two hashes, different.

    Returns:
        [n, 2] int64: `hash_rows` with each of the seeds.

    Raises:
        ValueError, TypeError: As `hash_rows`; there are not two different seeds.
    """
    if len(seeds) != 2 or seeds[0] == seeds[1]:
        raise ValueError(f"seeds must be two different integers; got {seeds!r}")
    return _hash_rows(keys, num_rows, seeds)


def quotient_remainder_rows(
    keys: HashedKeys, num_quotients: int, num_remainders: int, *, seed: int = 0
) -> NDArray[np.int64]:
    """A row of each of two tables per key, by quotient and remainder (Shi et al. 2020, 1909.02107).

    The paper splits an integer id into `id // num_remainders` and `id % num_remainders`, so that
    every id below `num_quotients * num_remainders` has a pair of its own. A string has no such id:
    it is hashed to one of that many, `hash_rows(key, num_quotients * num_remainders)`, and two keys
    share their pair only when they share this id. Integer keys are ids already and are not hashed.

    Args:
        keys: [n] strings, or integer ids in `[0, num_quotients * num_remainders)`.
        num_quotients: Rows of the table of quotients, at least 1.
        num_remainders: Rows of the table of remainders, at least 1; the product is at most 2**62.
        seed: Of the hash, `0 <= seed < 2**64`.

    Returns:
        [n, 2] int64: quotient and remainder.

    Raises:
        ValueError, TypeError: As `hash_rows`.
        IndexError: An integer id is out of range; the message gives its position.
    """
    return _core.quotient_remainder_rows(
        _checked_keys(keys),
        seed=_checked_seed(seed),
        num_quotients=num_quotients,
        num_remainders=num_remainders,
    )


def split_rows(num_rows: int) -> tuple[int, int]:
    """`(num_quotients, num_remainders)` with `num_rows` together and the most pairs: the halves.

    Raises:
        ValueError: `num_rows` is below 2.
    """
    if num_rows < 2:
        raise ValueError(f"quotients and remainders need at least 2 rows; got {num_rows}")
    return num_rows // 2, num_rows - num_rows // 2


@dataclass(frozen=True, kw_only=True, slots=True)
class CollisionRate:
    """Share of keys that have the rows, and so the vector, of another key.

    Attributes:
        method: How keys become rows.
        num_rows: Rows of all tables of the method together.
        expected: For hashes that are uniform and independent.
        measured: On the given keys.
    """

    method: Method
    num_rows: int
    expected: float
    measured: float


def expected_collision_rate(method: Method, num_keys: int, num_rows: int) -> float:
    """The share of `num_keys` distinct keys that collide, by theory.

    A key is alone with probability `(1 - p)**(num_keys - 1)`, where p is the probability that
    another key has its rows (the birthday problem, seen from one key): `1 / num_rows` for a single
    hash, `1 / (num_quotients * num_remainders)` for quotient and remainder, and for a double hash
    `2 / num_rows**2`, or `1 / num_rows**2` when its own two rows are the same (the sum of two rows
    does not know their order).

    Raises:
        ValueError: `num_keys` is negative, `num_rows` below 1 (2 for quotient and remainder), or
            the method unknown.
    """
    if num_keys < 0:
        raise ValueError(f"num_keys must not be negative; got {num_keys}")
    if num_rows < 1:
        raise ValueError(f"num_rows must be at least 1; got {num_rows}")
    if method == "single":
        return _collision_probability(1 / num_rows, num_keys)
    if method == "double":
        pair = 1 / num_rows**2
        equal = _collision_probability(pair, num_keys) / num_rows
        if num_rows == 1:
            return equal
        return equal + (1 - 1 / num_rows) * _collision_probability(2 * pair, num_keys)
    if method == "quotient_remainder":
        return _collision_probability(1 / math.prod(split_rows(num_rows)), num_keys)
    raise ValueError(f"method {method!r} is unknown; allowed: {', '.join(METHODS)}")


def _collision_probability(p: float, num_keys: int) -> float:
    if num_keys < 2:
        return 0.0
    return 1.0 if p >= 1 else -math.expm1((num_keys - 1) * math.log1p(-p))


def collision_rates(keys: HashedKeys, num_rows: int, *, seed: int = 0) -> list[CollisionRate]:
    """Expected and measured collisions of every method, each with `num_rows` rows in all.

    Quotient and remainder get half of the rows each (`split_rows`) and, for integer keys, the hash
    of their bytes like the others: ids that are split as they are never collide.

    Args:
        keys: [n] distinct keys; a repeated key counts as a collision.
        num_rows: Rows of the table, `2 <= num_rows <= 2**31`.
        seed: Of the hash; the double hash takes `seed` and `seed + 1`.

    Raises:
        ValueError, TypeError: As `hash_rows`.
    """
    if not 2 <= num_rows <= _MAX_MEASURED_ROWS:
        raise ValueError(f"num_rows = {num_rows} is not in 2..2**31")
    pairs = np.sort(double_hash_rows(keys, num_rows, seeds=(seed, (seed + 1) % 2**64)), axis=1)
    cells: dict[Method, NDArray[np.int64]] = {
        "single": hash_rows(keys, num_rows, seed=seed),
        "double": pairs[:, 0] * num_rows + pairs[:, 1],
        "quotient_remainder": hash_rows(keys, math.prod(split_rows(num_rows)), seed=seed),
    }
    return [
        CollisionRate(
            method=method,
            num_rows=num_rows,
            expected=expected_collision_rate(method, len(cells[method]), num_rows),
            measured=_share_of_shared(cells[method]),
        )
        for method in METHODS
    ]


def _share_of_shared(cells: NDArray[np.int64]) -> float:
    """The share of elements that occur more than once; 0 without elements."""
    if cells.size == 0:
        return 0.0
    ordered = np.sort(cells)
    equal = ordered[1:] == ordered[:-1]
    shared = np.zeros(cells.size, np.bool_)
    shared[1:] |= equal
    shared[:-1] |= equal
    return float(np.mean(shared))


def _hash_rows(keys: HashedKeys, num_rows: int, seeds: Sequence[int]) -> NDArray[np.int64]:
    checked = np.array([_checked_seed(seed) for seed in seeds], np.uint64)
    return _core.hash_rows(_checked_keys(keys), seeds=checked, num_rows=num_rows)


def _checked_keys(keys: HashedKeys) -> object:
    """Integers as a contiguous int64 array, other keys as they are."""
    if not isinstance(keys, np.ndarray) or keys.dtype.kind not in "iu":
        return keys
    if not np.can_cast(keys.dtype, np.int64):
        raise TypeError(f"keys have dtype {keys.dtype}; allowed: strings, integers that fit int64")
    return np.ascontiguousarray(keys, dtype=np.int64)


def _checked_seed(seed: int) -> int:
    checked = operator.index(seed)
    if not 0 <= checked < 2**64:
        raise ValueError(f"seed = {checked} is not in 0..2**64 - 1")
    return checked
