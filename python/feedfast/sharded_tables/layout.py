"""Which rank holds which part of the rows of all tables, as the exchanges need it.

Keys number the rows of all tables through: row r of table t has key `first_keys[t] + r`. A block is
a range of keys of one table that the same ranks hold, each some of its columns (its pieces), or all
ranks in full (a replica: data-parallel tables and hot rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feedfast.bags import IntArray
from feedfast.sharded_tables.table_spec import TableSpec
from feedfast.sharding import ShardingPlan

_MAX_PART_ROWS = 2**31


@dataclass(frozen=True, slots=True)
class Piece:
    """Some columns of a block, on one rank; a replica has one piece, with rank -1."""

    block: int
    table: int
    rank: int
    row_begin: int
    row_end: int
    column_begin: int
    column_end: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.row_end - self.row_begin

    @property
    def columns(self) -> int:
        """Number of columns."""
        return self.column_end - self.column_begin


@dataclass(frozen=True, slots=True)
class Layout:
    """A plan as the exchanges need it; the same on all ranks.

    Attributes:
        num_ranks: Ranks.
        first_keys: [tables + 1] key of row 0 of every table, and the number of keys.
        first_blocks: [tables + 1] number of the first block of every table, and of blocks.
        block_keys: [blocks + 1] first key of every block, and the number of keys.
        pieces_of_block: The pieces of every block, by column; empty for replicas.
        pieces_of_rank: The pieces of every rank, by block.
        replicas: The replicated blocks.
    """

    num_ranks: int
    first_keys: IntArray
    first_blocks: tuple[int, ...]
    block_keys: IntArray
    pieces_of_block: tuple[tuple[Piece, ...], ...]
    pieces_of_rank: tuple[tuple[Piece, ...], ...]
    replicas: tuple[Piece, ...]

    @classmethod
    def create(cls, specs: Sequence[TableSpec], plan: ShardingPlan) -> Layout:
        """The layout of `specs` under `plan`.

        Raises:
            ValueError: The plan is of other tables, or a rank would hold 2^31 rows of one.
        """
        _check_tables(specs, plan)
        first_keys = np.zeros(len(specs) + 1, np.int64)
        np.cumsum([spec.rows for spec in specs], out=first_keys[1:])
        first_blocks = [0]
        block_keys: list[int] = []
        by_block: list[tuple[Piece, ...]] = []
        by_rank: list[list[Piece]] = [[] for _ in range(plan.num_ranks)]
        replicas: list[Piece] = []
        for table, spec in enumerate(specs):
            placement = plan.placement(spec.name)
            replicated = spec.rows if placement.kind == "data_parallel" else placement.hot_rows
            if replicated:
                replicas.append(Piece(len(by_block), table, -1, 0, replicated, 0, spec.dim))
                block_keys.append(int(first_keys[table]))
                by_block.append(())
            ranges = () if placement.kind == "data_parallel" else placement.row_ranges
            for begin, end in ranges:
                shards = [shard for shard in placement.shards if shard.row_begin == begin]
                pieces = tuple(
                    Piece(
                        len(by_block),
                        table,
                        shard.rank,
                        begin,
                        end,
                        shard.column_begin,
                        shard.column_end,
                    )
                    for shard in sorted(shards, key=lambda shard: shard.column_begin)
                )
                block_keys.append(int(first_keys[table]) + begin)
                by_block.append(pieces)
                for piece in pieces:
                    by_rank[piece.rank].append(piece)
            first_blocks.append(len(by_block))
        for piece in [*replicas, *(piece for pieces in by_block for piece in pieces)]:
            if piece.rows >= _MAX_PART_ROWS:
                raise ValueError(
                    f"table {specs[piece.table].name!r}: {piece.rows} rows on one rank; their "
                    f"numbers travel as 32 bits, so at most {_MAX_PART_ROWS - 1}"
                )
        return cls(
            plan.num_ranks,
            first_keys,
            tuple(first_blocks),
            np.array([*block_keys, first_keys[-1]], np.int64),
            tuple(by_block),
            tuple(map(tuple, by_rank)),
            tuple(replicas),
        )


def _check_tables(specs: Sequence[TableSpec], plan: ShardingPlan) -> None:
    if not specs:
        raise ValueError("there are no tables")
    names = [spec.name for spec in specs]
    planned = [shape.name for shape in plan.tables]
    if sorted(names) != sorted(planned):
        raise ValueError(f"the plan is of tables {planned}; the model has {names}")
    for spec in specs:
        shape = plan.table(spec.name)
        if (shape.rows, shape.dim) != (spec.rows, spec.dim):
            raise ValueError(
                f"table {spec.name!r} is [{spec.rows}, {spec.dim}]; the plan has it as "
                f"[{shape.rows}, {shape.dim}]"
            )
