"""Brings the codes of keys to the ranks that own them, each once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from feedfast.comm import Engine
from feedfast.sharded_tables.agreement import all_or_none
from feedfast.sharded_tables.key_codes import (
    Codes,
    first_parts,
    hash_keys,
    part_of,
    partition,
)
from feedfast.vocab import Keys

_CHECK_SEED = 0x9E3779B97F4A7C15  # added to the seed of the codes
_MIN_MERGE = 1 << 16


def gather_codes(
    batches: Iterable[Keys], engine: Engine, *, seed: int, num_parts: int, chunk_keys: int
) -> dict[int, Codes]:
    """The distinct codes of all ranks' keys, ascending, of each part of this rank; collective.

    In rounds of two exchanges, every rank sends the next `chunk_keys` codes of its keys, with a
    second hash of each: 16 bytes a key. Two keys whose codes are equal but whose second hashes
    differ are told apart so, and are an error.

    Raises:
        ValueError: Two keys have one code.
        Exception: What `batches` or the keys raise on this rank.
        RuntimeError: One of these on another rank.
    """
    size = engine.size
    bounds = first_parts(num_parts, size)
    rank_of_part = np.repeat(np.arange(size), np.diff(bounds))
    distinct = _DistinctCodes(seed)
    chunks = _hashed(batches, seed, chunk_keys)
    nothing = np.empty((0, 2), np.uint64)
    received: list[Codes] = []

    def take() -> Codes | None:
        for chunk in received:
            distinct.add(chunk)
        received.clear()
        return next(chunks, None)

    while True:
        chunk, texts = all_or_none(
            engine, "vocabulary_batch", take, share=lambda chunk: "" if chunk is None else "more"
        )
        if not any(texts):
            break
        sent = nothing if chunk is None else chunk
        ranks = rank_of_part[part_of(sent[:, 0], num_parts)]
        sent, offsets, _ = partition(sent, ranks, size)
        received = engine.all_to_all(np.split(sent, offsets[1:-1]), name="vocabulary_codes")
    codes, _ = all_or_none(engine, "vocabulary_merge", distinct.take, share=lambda _: "")
    first, end = bounds[engine.rank : engine.rank + 2]
    codes, offsets, _ = partition(codes, part_of(codes, num_parts) - first, end - first)
    return {first + i: codes[offsets[i] : offsets[i + 1]] for i in range(end - first)}


def _hashed(batches: Iterable[Keys], seed: int, chunk_keys: int) -> Iterator[Codes]:
    """Codes and second hashes [n, 2] of at most `chunk_keys` keys, those of a chunk distinct."""
    for batch in batches:
        codes = hash_keys(batch, seed)
        checks = hash_keys(batch, (seed + _CHECK_SEED) % 2**64)
        pairs = np.stack([codes, checks], axis=1)
        for begin in range(0, codes.size, chunk_keys):
            yield _distinct(pairs[begin : begin + chunk_keys], seed)


class _DistinctCodes:
    """Distinct codes out of chunks, in at most about 64 bytes for each of them and a chunk."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._pairs: Codes = np.empty((0, 2), np.uint64)
        self._waiting: list[Codes] = []
        self._num_waiting = 0

    def add(self, pairs: Codes) -> None:
        """Adds codes with their second hashes, [n, 2]."""
        self._waiting.append(pairs)
        self._num_waiting += len(pairs)
        if self._num_waiting > max(_MIN_MERGE, len(self._pairs)):
            self._merge()

    def take(self) -> Codes:
        """The codes, ascending; there are none afterwards."""
        self._merge()
        codes = self._pairs[:, 0].copy()
        self._pairs = self._pairs[:0].copy()
        return codes

    def _merge(self) -> None:
        together = np.concatenate([self._pairs, *self._waiting])
        self._waiting, self._num_waiting = [], 0
        self._pairs = _distinct(together, self._seed)


def _distinct(pairs: Codes, seed: int) -> Codes:
    """The pairs with each code once, by ascending code.

    Raises:
        ValueError: Two pairs differ in their second hash alone.
    """
    pairs = pairs[np.argsort(pairs[:, 0])]
    repeats = pairs[1:, 0] == pairs[:-1, 0]
    if np.any(repeats & (pairs[1:, 1] != pairs[:-1, 1])):
        raise ValueError(
            f"two different keys have one 64-bit code under seed {seed} (it happens about once in "
            "40 builds of 10^9 keys); build with another seed"
        )
    first: Codes = pairs[np.concatenate([np.ones(min(1, len(pairs)), bool), ~repeats])]
    return first
