"""Lookups by string keys in tables whose vocabularies are divided with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from feedfast import _core
from feedfast.bags import Bags, FloatArray, IndexArray, IntArray
from feedfast.comm import Engine
from feedfast.sharded_tables import messages
from feedfast.sharded_tables.key_codes import Codes
from feedfast.sharded_tables.layout import Layout, Piece
from feedfast.sharded_tables.sharded_vocabulary import ShardedVocabulary
from feedfast.sharded_tables.table_spec import TableSpec
from feedfast.vocab import Keys


@dataclass(frozen=True, eq=False, slots=True)
class KeyBags:
    """String keys of many bags, for a table with a `ShardedVocabulary`.

    Attributes:
        keys: [nnz] keys as `Vocabulary.lookup` takes them, or the uint64 codes that
            `ShardedVocabulary.hash_keys` gives for them.
        offsets: [num_bags + 1], ascending from 0 to nnz.
        weights: [nnz] float32 or None, when every weight is 1.
    """

    keys: Keys | Codes
    offsets: IndexArray
    weights: FloatArray | None = None


@dataclass(frozen=True, eq=False, slots=True)
class AskedKeys:
    """What one rank looks up in one table by keys.

    Attributes:
        codes: [k] distinct codes, those of rank r from offsets[r] up to offsets[r + 1].
        offsets: [ranks + 2]; the last codes belong to no rank and are unknown.
        positions: [nnz] of each key among the codes.
    """

    codes: Codes
    offsets: IntArray
    positions: IntArray

    def of_rank(self, rank: int) -> slice:
        """Where the codes of a rank lie."""
        return slice(int(self.offsets[rank]), int(self.offsets[rank + 1]))


Asked: TypeAlias = Bags | AskedKeys
"""What one rank looks up in one table, checked."""


class KeyTables:
    """The tables of `ShardedTables` that have a `ShardedVocabulary`.

    Their plan is that of `ShardedVocabulary.placement`, so the rank that has the codes of some keys
    has their rows, and row 0, of unknown keys, is a replica. An owner that is asked for codes
    answers with the row of each, from the first of its piece and -1 where there is none, and with
    the distinct ones of these rows, ascending.

    Args:
        vocabularies: By table.
        specs, layout, engine: Of the tables.

    Raises:
        ValueError: There is no such table, it is divided in another way than its vocabulary, or
            that is of another engine.
    """

    def __init__(
        self,
        vocabularies: Mapping[str, ShardedVocabulary],
        specs: Sequence[TableSpec],
        layout: Layout,
        engine: Engine,
    ) -> None:
        numbers = {spec.name: table for table, spec in enumerate(specs)}
        unknown = sorted(set(vocabularies) - set(numbers))
        if unknown:
            raise ValueError(f"vocabularies are given for unknown tables: {', '.join(unknown)}")
        self._specs, self._layout, self._engine = specs, layout, engine
        self._vocabularies = {
            numbers[name]: vocabulary for name, vocabulary in vocabularies.items()
        }
        for table, vocabulary in self._vocabularies.items():
            self._check_division(table, vocabulary)
        self._distinct = _core.DistinctRows()

    def described(self) -> dict[str, str]:
        """What all ranks must have in common, by name."""
        return {
            f"the vocabulary of {self._specs[table].name!r}": (
                f"seed {vocabulary.seed}, {len(vocabulary)} keys in {vocabulary.num_parts} parts "
                f"{hashlib.sha256(vocabulary.first_rows.tobytes()).hexdigest()[:16]}"
            )
            for table, vocabulary in self._vocabularies.items()
        }

    def asked(self, table: int, bags: Bags | KeyBags) -> Asked:
        """What to look up in a table.

        Raises:
            IndexError, TypeError, ValueError: `bags` are no lookup in it.
        """
        rows = self._specs[table].rows
        if isinstance(bags, Bags):
            bags.validate(rows)
            return bags
        vocabulary = self._vocabularies.get(table)
        if vocabulary is None:
            raise ValueError("its bags must be of rows: it has no sharded vocabulary")
        if not isinstance(bags, KeyBags):
            raise TypeError(f"needs Bags or KeyBags; got {type(bags).__name__}")
        keys = bags.keys
        if not (isinstance(keys, np.ndarray) and keys.dtype == np.uint64):
            keys = vocabulary.hash_keys(keys)
        Bags(np.zeros(keys.size, np.int64), bags.offsets, bags.weights).validate(rows)
        codes, positions = _core.unique_codes(np.ascontiguousarray(keys))
        return AskedKeys(*vocabulary.divide(codes, positions))

    def find(self, piece: Piece, codes: Codes) -> IntArray:
        """The row of each code, from the first of an own piece; -1 where it is unknown."""
        return self._vocabularies[piece.table].find(codes)

    def distinct(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """The distinct known ones of `rows` [k], ascending, and the position of each known one."""
        return self._distinct.find(rows[rows >= 0])

    def resolve(
        self,
        asked: Sequence[Asked],
        received: list[messages.Words],
        of_block: list[IntArray],
    ) -> dict[int, IntArray]:
        """Makes rows of the answers to keys.

        Args:
            asked: For each table.
            received: From each other rank the rows of its keys, then weights; the rows are taken
                away.
            of_block: For each block the distinct rows, from its first; those of tables that were
                asked for keys are set.

        Returns:
            For these tables the position [nnz] of every key among the distinct rows of the table.

        Raises:
            RuntimeError: An answer has a wrong size, or rows that are not there; names the sender.
        """
        of_key = {
            table: np.full(keys.codes.size, -1, np.int64)
            for table, keys in enumerate(asked)
            if isinstance(keys, AskedKeys)
        }
        for rank, pieces in enumerate(self._layout.pieces_of_rank):
            at = 0
            for piece in pieces:
                keys = asked[piece.table]
                if not isinstance(keys, AskedKeys):
                    continue
                own = keys.of_rank(rank)
                if rank == self._engine.rank:
                    of_key[piece.table][own] = self.find(piece, keys.codes[own])
                    continue
                size = own.stop - own.start
                rows = received[rank][at : at + size]
                messages.check_size(rows.size, size, sender=rank)
                if size and not -1 <= int(rows.min()) <= int(rows.max()) < piece.rows:
                    raise RuntimeError(f"rank {rank} answered with rows that it does not have")
                of_key[piece.table][own] = rows
                at += size
            received[rank] = received[rank][at:]
        return {
            table: self._positions(asked[table], rows, table, of_block)
            for table, rows in of_key.items()
        }

    def _positions(
        self, keys: Asked, of_key: IntArray, table: int, of_block: list[IntArray]
    ) -> IntArray:
        """Sets `of_block` for a table, from the row of each key in the piece of its rank."""
        assert isinstance(keys, AskedKeys)
        layout = self._layout
        is_known = of_key >= 0
        replica = layout.first_blocks[table]
        of_block[replica] = np.zeros(0 if is_known.all() else 1, np.int64)
        first = of_block[replica].size
        among = np.zeros(of_key.size, np.int64)
        for block in range(replica + 1, layout.first_blocks[table + 1]):
            (piece,) = layout.pieces_of_block[block]
            own = keys.of_rank(piece.rank)
            of_block[block], positions = self.distinct(of_key[own])
            among[own][is_known[own]] = first + positions
            first += of_block[block].size
        return among[keys.positions]

    def _check_division(self, table: int, vocabulary: ShardedVocabulary) -> None:
        name, engine = self._specs[table].name, self._engine
        if vocabulary.engine is not engine:
            raise ValueError(f"table {name!r}: its vocabulary is of another engine")
        blocks = range(self._layout.first_blocks[table], self._layout.first_blocks[table + 1])
        found = [
            [
                (piece.rank, piece.row_begin, piece.row_end)
                for piece in self._layout.pieces_of_block[b]
            ]
            for b in blocks
        ]
        rows = vocabulary.boundaries
        ranges = [(rank, rows[rank], rows[rank + 1]) for rank in range(engine.size)]
        expected = [[], *([part] for part in ranges if part[1] < part[2])]
        if found != expected or self._specs[table].rows != vocabulary.num_rows:
            raise ValueError(
                f"table {name!r} is not divided as its vocabulary; use "
                "ShardedVocabulary.placement for its plan"
            )
