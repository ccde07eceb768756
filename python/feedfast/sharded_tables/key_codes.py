"""The 64-bit codes of keys, and which part of a divided vocabulary a code belongs to."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.bags import IntArray
from feedfast.vocab import Keys

Codes: TypeAlias = NDArray[np.uint64]


def hash_keys(keys: Keys, seed: int, *, threads: int = 1) -> Codes:
    """The codes [n] of keys: what a `Vocabulary` of this seed knows of them.

    Raises:
        TypeError, ValueError: As `Vocabulary.lookup`.
    """
    return _core.hash_keys(keys, seed=seed, threads=threads)


def part_of(codes: Codes, num_parts: int) -> IntArray:
    """For each of the codes [n] its part, in [0, num_parts).

    It is floor(mix(code) / 2^32 * num_parts / 2^32), where mix is the finalizer of MurmurHash3. The
    hash functions of the parts use the high bits of codes, and of another mixture of them on their
    second level: among the codes of one part, both are as random as among all.
    """
    if num_parts == 1:
        return np.zeros(codes.size, np.int64)
    mixed = codes ^ (codes >> np.uint64(33))
    mixed *= np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    mixed >>= np.uint64(32)
    mixed *= np.uint64(num_parts)
    mixed >>= np.uint64(32)
    return mixed.view(np.int64)


def first_parts(num_parts: int, num_ranks: int) -> list[int]:
    """[num_ranks + 1]: rank r has the parts from number first_parts[r] up to first_parts[r + 1]."""
    return [num_parts * rank // num_ranks for rank in range(num_ranks + 1)]


def partition(codes: Codes, groups: IntArray, num_groups: int) -> tuple[Codes, IntArray, IntArray]:
    """Sorts codes [n] by their `groups`, in [0, num_groups), stably.

    Returns:
        The sorted codes, the offsets [num_groups + 1] of the groups, and for each sorted code where
        it was.
    """
    if num_groups == 0:  # of a rank without parts, which has no codes
        return codes, np.zeros(1, np.int64), np.empty(0, np.int64)
    offsets, order = _core.partition_rows(groups, np.arange(num_groups + 1))
    return codes[order], offsets, order
