"""A vocabulary whose parts live on the ranks that hold the rows of its keys."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from feedfast import _core
from feedfast.bags import IntArray
from feedfast.comm import Engine
from feedfast.sharded_tables import messages
from feedfast.sharded_tables.agreement import all_or_none
from feedfast.sharded_tables.key_codes import Codes, first_parts, hash_keys, part_of, partition
from feedfast.sharded_tables.messages import exchange_requests
from feedfast.sharded_tables.vocabulary_build import gather_codes
from feedfast.sharded_tables.vocabulary_part import VocabularyPart
from feedfast.sharding import Placement, TableShape, data_parallel, row_wise
from feedfast.vocab import Keys, Preset

_MAX_ROWS = 2**31 - 1
MAX_PARTS = 1 << 16


class ShardedVocabulary:
    """A map from byte strings to rows of a table that is divided by rows, of the same ranks.

    Keys belong to parts by their hash; a rank has a run of whole parts, and the rows of a part
    follow those of the part before: row 0 is for unknown keys, part 0 has rows from 1 on. So the
    rows of a rank lie together, `boundaries` says where, and `placement` puts the rows of the table
    on the same ranks, row 0 on all of them.

    Parts are `feedfast.Vocabulary` images of the hash of keys alone: what travels of a key is its
    64-bit code, and a key is known or unknown as in one `Vocabulary` of all keys. The rows do not
    depend on the number of ranks, only on that of the parts.

    Attributes:
        engine: Of the ranks.
        num_parts: Number of parts.
        seed: Of the hash of keys.
        first_rows: [num_parts + 1] the first row of every part, and the number of rows.
        boundaries: [ranks + 1] the first row of every rank, and the number of rows.
        parts: The parts of this rank, by number.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        seed: int,
        sizes: Sequence[int],
        parts: Mapping[int, VocabularyPart],
    ) -> None:
        """For `build` and `open_vocabulary`: the sizes of all parts, and the parts of this rank.

        Raises:
            ValueError: A rank would have 2^31 rows.
        """
        self.engine = engine
        self.seed = seed
        self.num_parts = len(sizes)
        self.first_rows: IntArray = np.cumsum([1, *sizes], dtype=np.int64)
        self._first_parts = first_parts(self.num_parts, engine.size)
        self.boundaries = tuple(self.first_rows[self._first_parts].tolist())
        self.parts = dict(parts)
        rows_of_rank = np.diff(self.boundaries)
        if rows_of_rank.max() > _MAX_ROWS:
            raise ValueError(
                f"{rows_of_rank.max()} keys on one rank; their numbers travel as 32 bits, so at "
                f"most {_MAX_ROWS}: use more ranks"
            )
        # Parts of ranks without keys belong to nobody, so that nobody is asked for them.
        ranks = np.where(rows_of_rank > 0, np.arange(engine.size), engine.size)
        self._rank_of_part: IntArray = np.repeat(ranks, np.diff(self._first_parts))

    @classmethod
    def build(
        cls,
        batches: Iterable[Keys],
        engine: Engine,
        *,
        num_parts: int | None = None,
        fingerprint_bits: Literal[0, 8, 16, 32] = 16,
        preset: Preset = "compact",
        seed: int | None = 0,
        threads: int = 1,
        chunk_keys: int = 1 << 20,
    ) -> ShardedVocabulary:
        """Builds the vocabulary of the distinct keys of all ranks; collective.

        Equal keys and arguments give equal parts, whoever brings the keys, how often and in which
        order, and whatever the number of ranks. A rank needs at most about 64 bytes for each key
        that it owns, and 80 for each of a chunk; strings are neither sent nor kept.

        Args:
            batches: Keys of this rank, as `Vocabulary.build` takes them, in batches of any size;
                taken once. Which rank brings a key does not matter.
            engine: Of the ranks; the other arguments are the same on all of them.
            num_parts: By default one for each rank. The vocabulary can be opened by any number of
                ranks later, evenly by those that divide `num_parts`.
            fingerprint_bits, preset: As in `Vocabulary.build`.
            seed: As there; None draws one.
            threads: Threads of a rank.
            chunk_keys: Keys that a rank sends at once, 16 bytes each.

        Raises:
            TypeError, ValueError: As `Vocabulary.build`, but that keys may repeat. Or two keys have
                one 64-bit hash, about once in 40 builds of 10^9 keys: build with another seed.
            RuntimeError: One of these on another rank.
        """
        num_parts = engine.size if num_parts is None else num_parts
        seed = _agree(engine, seed, num_parts, chunk_keys, [fingerprint_bits, preset])
        codes = gather_codes(batches, engine, seed=seed, num_parts=num_parts, chunk_keys=chunk_keys)

        def build_parts() -> dict[int, VocabularyPart]:
            return {
                number: VocabularyPart.build(
                    of_part,
                    fingerprint_bits=fingerprint_bits,
                    preset=preset,
                    seed=seed,
                    threads=threads,
                )
                for number, of_part in codes.items()
            }

        parts, texts = all_or_none(
            engine,
            "vocabulary_parts",
            build_parts,
            share=lambda parts: json.dumps([len(part) for part in parts.values()]),
        )
        sizes = [size for text in texts for size in json.loads(text)]
        return cls(engine, seed=seed, sizes=sizes, parts=parts)

    def __len__(self) -> int:
        return self.num_rows - 1

    @property
    def num_rows(self) -> int:
        """Rows of the table that the vocabulary indexes, row 0 included."""
        return int(self.first_rows[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of this rank's parts; 8 for each of its keys more until they are saved."""
        return sum(part.nbytes for part in self.parts.values())

    def placement(self, table: TableShape) -> Placement:
        """The rows of `table` on the ranks that have their keys, row 0 on all.

        Raises:
            ValueError: The table has another number of rows.
        """
        if table.rows != self.num_rows:
            raise ValueError(
                f"table {table.name!r} has {table.rows} rows; its vocabulary has {self.num_rows}"
            )
        if self.num_rows == 1:
            return data_parallel(table, self.engine.size)
        ranks = range(self.engine.size)
        return row_wise(table, ranks, boundaries=self.boundaries, hot_rows=1)

    def hash_keys(self, keys: Keys) -> Codes:
        """The codes [n] of keys, which stand for them in lookups.

        Raises:
            TypeError, ValueError: As `Vocabulary.lookup`.
        """
        return hash_keys(keys, self.seed)

    def lookup(self, keys: Keys) -> IntArray:
        """The rows [n] of `keys`, 0 for unknown ones; collective. See `lookup_rows`."""
        return lookup_rows([self], [keys])[0]

    def divide(self, codes: Codes, positions: IntArray) -> tuple[Codes, IntArray, IntArray]:
        """Codes by the rank that has their part.

        Args:
            codes: [n], each once.
            positions: [nnz] of each key among them.

        Returns:
            The codes, those of rank r from offsets[r] up to offsets[r + 1]; the offsets
            [ranks + 2], where the last codes belong to no rank and are unknown; and the positions
            of the keys among these codes.
        """
        ranks = self._rank_of_part[part_of(codes, self.num_parts)]
        divided, offsets, order = partition(codes, ranks, self.engine.size + 1)
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        return divided, offsets, place[positions]

    def find(self, codes: Codes) -> IntArray:
        """Rows of codes [n], from the first row of this rank; -1 for unknown ones.

        Codes are of parts of this rank; others are looked up in a part that does not know them.
        """
        first = self._first_parts[self.engine.rank]
        if len(self.parts) == 1:
            return self.parts[first].find(codes)
        rows = np.full(codes.size, -1, np.int64)
        if not self.parts:
            return rows
        numbers = np.clip(part_of(codes, self.num_parts) - first, 0, len(self.parts) - 1)
        grouped, offsets, order = partition(codes, numbers, len(self.parts))
        for number, part in self.parts.items():
            of_part = slice(*offsets[number - first : number - first + 2].tolist())
            found = part.find(grouped[of_part])
            found[found >= 0] += self.first_rows[number] - self.first_rows[first]
            rows[order[of_part]] = found
        return rows


def lookup_rows(vocabularies: Sequence[ShardedVocabulary], keys: Sequence[Keys]) -> list[IntArray]:
    """The rows of the keys of several columns, each of one vocabulary; two exchanges; collective.

    Bytes that a rank sends to others, with k(c, r) distinct keys of column c that belong to rank r:

    - "vocabulary_keys": sum over other ranks r of 4 (1 + C) and 8 k(c, r) for each of the C columns
    - "vocabulary_rows": 4 for every key that others asked for here

    Args:
        vocabularies: For each column; the same vocabulary may stand there several times. All have
            one engine.
        keys: For each column [n_c].

    Returns:
        For each column [n_c] int64 rows; 0 for unknown keys.

    Raises:
        BadBagsError: Some rank's keys are not as `Vocabulary.lookup` takes them; on all ranks, and
            the next lookup is possible.
        RuntimeError: A message of another rank has a wrong size.
    """
    if not vocabularies:
        return []
    engine = vocabularies[0].engine
    columns: list[tuple[Codes, IntArray, IntArray]] = []  # codes, their offsets, positions
    try:
        for vocabulary, of_column in zip(vocabularies, keys, strict=True):
            codes, positions = _core.unique_codes(vocabulary.hash_keys(of_column))
            columns.append(vocabulary.divide(codes, positions))
    except (TypeError, ValueError) as error:
        problem = messages.problem(f"column {len(columns)}: {error}")
        exchange_requests(engine, [problem] * engine.size, name="vocabulary_keys")
    requests = exchange_requests(
        engine,
        [
            messages.request(
                [codes[offsets[rank] : offsets[rank + 1]] for codes, offsets, _ in columns]
            )
            for rank in range(engine.size)
        ],
        name="vocabulary_keys",
    )
    answers = []
    for rank, message in enumerate(requests):
        asked = messages.requested(message, len(columns), sender=rank)
        found = [
            vocabulary.find(messages.as_codes(codes, sender=rank)).astype(np.int32)
            for vocabulary, codes in zip(vocabularies, asked, strict=True)
        ]
        answers.append(np.concatenate(found))
    received = engine.all_to_all(answers, name="vocabulary_rows")

    starts = [0] * engine.size
    rows = []
    for vocabulary, (codes, offsets, positions) in zip(vocabularies, columns, strict=True):
        of_codes = np.zeros(codes.size, np.int64)
        for rank, first_row in enumerate(vocabulary.boundaries[:-1]):
            begin, end = offsets[rank : rank + 2].tolist()
            local = received[rank][starts[rank] : starts[rank] + end - begin]
            messages.check_size(local.size, end - begin, sender=rank)
            starts[rank] += end - begin
            of_codes[begin:end] = np.where(local < 0, 0, local.astype(np.int64) + first_row)
        rows.append(of_codes[positions])
    return rows


def _agree(
    engine: Engine, seed: int | None, num_parts: int, chunk_keys: int, others: list[object]
) -> int:
    """The seed of all ranks, which must have the same arguments."""

    def check() -> int:
        if not 1 <= num_parts <= MAX_PARTS:
            raise ValueError(f"num_parts = {num_parts} is not in 1..{MAX_PARTS}")
        if chunk_keys < 1:
            raise ValueError(f"chunk_keys = {chunk_keys} is below 1")
        if seed is not None and not 0 <= seed < 2**64:
            raise ValueError(f"seed = {seed} is not in 0..2**64 - 1")
        return secrets.randbits(64) if seed is None else seed

    said = json.dumps([seed, num_parts, chunk_keys, *others])
    _, texts = all_or_none(engine, "vocabulary_begin", check, share=lambda drawn: f"{drawn} {said}")
    for rank, text in enumerate(texts):
        other = text.partition(" ")[2]
        if other != said:
            raise ValueError(
                f"rank {rank} builds with {other}, rank {engine.rank} with {said}: seed, parts, "
                "chunk, fingerprint bits and preset"
            )
    return int(texts[0].partition(" ")[0])
