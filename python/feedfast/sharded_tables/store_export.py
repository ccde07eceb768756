"""Sharded tables into the model store, without a table whole on any rank.

Tables lie in the store as blocks of rows. Every block has a writer: the rank that holds most of its
weights, the less busy one of equals. In rounds, every rank takes the next of its blocks; one
all-to-all brings the parts that others hold to the writers, who encode the block and write its
blob. Rank 0 then names all blobs in one manifest. A rank holds one block at a time, and of tables
divided by rows in large ranges it already has what it writes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from feedfast import _core
from feedfast.bags import FloatArray
from feedfast.sharded_tables.agreement import all_or_none
from feedfast.sharded_tables.layout import Layout, Piece
from feedfast.sharded_tables.sharded_tables import ShardedTables
from feedfast.sharded_tables.vocabulary_export import export_vocabulary
from feedfast.store import BlobRef, ModelWriter, Section, encode_table
from feedfast.store import Layout as RowFormat
from feedfast.store.layouts import row_layout
from feedfast.store.writer import rows_per_block

_BLOCK = "block"
_VOCABULARY = "vocabulary"  # the layout that readers expect of such an image


@dataclass(frozen=True, slots=True)
class Block:
    """Rows [begin, end) of a table, the number-th block of it."""

    table: int
    number: int
    begin: int
    end: int


def export_tables(
    tables: ShardedTables,
    store: str | os.PathLike[str],
    model: str,
    *,
    layouts: Mapping[str, RowFormat] | None = None,
    vocabulary_sections: Mapping[str, str] | None = None,
    add_rest: Callable[[ModelWriter], None] | None = None,
    description: Mapping[str, Any] | None = None,
) -> str:
    """Publishes the tables as sections of their names in a new version; collective.

    The blobs are those that an export of the whole tables would write, under any plan.

    Args:
        tables: The tables; their optimizer states are left out.
        store: The store's folder, which all ranks see.
        model: Name of the model in the store.
        layouts: How rows are stored, by table; default as the table has them.
        vocabulary_sections: By table, the section for its vocabulary, which `export_vocabulary`
            makes whole on rank 0, in files of the folder for temporary data.
        add_rest: Adds the other sections; called on rank 0 alone.
        description: What the model's reader needs; of rank 0.

    Returns:
        The number of the version, on all ranks.

    Raises:
        OSError: A file of this rank cannot be written.
        ValueError: An unknown layout or name, or weights that the layout cannot hold.
        RuntimeError: One of these on another rank. Nothing is published then; the store collects
            the blobs as garbage.
    """
    engine = tables.engine
    layouts = layouts or {}
    writer, _ = all_or_none(
        engine,
        "sharded_export_begin",
        lambda: _begin(tables, store, model, layouts, vocabulary_sections or {}),
        share=lambda _: "",
    )
    with writer, tempfile.TemporaryDirectory() as temporary:
        formats = [layouts.get(spec.name, spec.dtype) for spec in tables.specs]

        def write(block: Block, rows: FloatArray) -> str:
            # A writer that publishes nothing; that of the export keeps garbage from collection.
            with ModelWriter(store, model) as one:
                layout, dim = formats[block.table], tables.specs[block.table].dim
                one.add_table(_BLOCK, encode_table(rows, layout), layout=layout, dim=dim)
                (blob,) = one.manifest().sections[_BLOCK].blobs
            return json.dumps([blob.sha256, blob.num_bytes, blob.num_rows])

        refs = [
            (block, BlobRef(*json.loads(text)))
            for block, text in visit_blocks(tables, formats, write)
        ]

        images = _whole_vocabularies(tables, vocabulary_sections or {}, temporary)

        def publish() -> str:
            if engine.rank != 0:
                return ""
            for section, image in images.items():
                writer.add_image(section, memoryview(image), layout=_VOCABULARY)
            if add_rest is not None:
                add_rest(writer)
            for table, spec in enumerate(tables.specs):
                blobs = sorted((block.number, ref) for block, ref in refs if block.table == table)
                writer.add_present(
                    Section(
                        spec.name,
                        "table",
                        tuple(ref for _, ref in blobs),
                        formats[table],
                        (spec.rows, spec.dim),
                    )
                )
            return writer.publish(description)

        # Writers of other ranks are open until then, so that no blob is collected as garbage.
        _, versions = all_or_none(engine, "sharded_export_end", publish, share=str)
    return versions[0]


def _whole_vocabularies(
    tables: ShardedTables, sections: Mapping[str, str], folder: str
) -> dict[str, _core.Vocabulary]:
    """On rank 0 the whole vocabularies of tables by section, mapped; none on others."""
    images = {}
    for number, (table, section) in enumerate(sections.items()):
        path = Path(folder, f"{number}.ffv")
        export_vocabulary(tables.vocabularies[table], path)
        if tables.engine.rank == 0:
            images[section] = _core.Vocabulary.open(os.fsencode(path), "header")
    return images


def visit_blocks(
    tables: ShardedTables, formats: Sequence[RowFormat], visit: Callable[[Block, FloatArray], str]
) -> list[tuple[Block, str]]:
    """Puts blocks of whole rows together, each on one rank, and visits them there; collective.

    Args:
        tables: The tables.
        formats: By table; a block is one of a section in this layout.
        visit: Called with the blocks of this rank and their rows [block.end - block.begin, dim].

    Returns:
        All blocks of all ranks with what `visit` returned.

    Raises:
        Exception: What `visit` raised here.
        RuntimeError: `visit` failed on another rank.
    """
    engine = tables.engine
    visited: list[tuple[Block, str]] = []
    for round_blocks in _rounds(tables, formats):
        received = engine.all_to_all(_parts_for(tables, round_blocks), name="sharded_export")

        def work(
            block: Block | None = round_blocks[engine.rank],
            received: Sequence[FloatArray] = received,
        ) -> str:
            return "" if block is None else visit(block, _assemble(tables, block, received))

        _, texts = all_or_none(engine, "sharded_export_blobs", work, share=str)
        visited += [
            (block, text)
            for block, text in zip(round_blocks, texts, strict=True)
            if block is not None
        ]
    return visited


def _begin(
    tables: ShardedTables,
    store: str | os.PathLike[str],
    model: str,
    layouts: Mapping[str, RowFormat],
    vocabulary_sections: Mapping[str, str],
) -> ModelWriter:
    without = sorted(set(vocabulary_sections) - set(tables.vocabularies))
    if without:
        raise ValueError(f"tables have no sharded vocabulary: {', '.join(without)}")
    unknown = sorted(set(layouts) - {spec.name for spec in tables.specs})
    if unknown:
        raise ValueError(f"layouts are given for unknown tables: {', '.join(unknown)}")
    for layout in layouts.values():
        row_layout(layout)
    return ModelWriter(store, model)


def _rounds(
    tables: ShardedTables, formats: Sequence[RowFormat]
) -> Iterator[tuple[Block | None, ...]]:
    """The block that each rank writes in each round; the same on all ranks."""
    layout = tables.layout
    queues: list[deque[Block]] = [deque() for _ in range(layout.num_ranks)]
    for table, spec in enumerate(tables.specs):
        step = rows_per_block(row_layout(formats[table]).row_bytes(spec.dim))
        for number, begin in enumerate(range(0, spec.rows, step)):
            block = Block(table, number, begin, min(begin + step, spec.rows))
            held = _cells_of_ranks(layout, block)
            # A fair share of the work, among those that have most of the block.
            writer = min(
                range(layout.num_ranks), key=lambda rank: (-held[rank], len(queues[rank]), rank)
            )
            queues[writer].append(block)
    while any(queues):
        yield tuple(queue.popleft() if queue else None for queue in queues)


def _cells_of_ranks(layout: Layout, block: Block) -> list[int]:
    """How many weights of the block each rank holds, apart from replicas."""
    cells = [0] * layout.num_ranks
    for rank, pieces in enumerate(layout.pieces_of_rank):
        for piece in pieces:
            if piece.table == block.table:
                rows = min(piece.row_end, block.end) - max(piece.row_begin, block.begin)
                cells[rank] += max(0, rows) * piece.columns
    return cells


def _pieces_in(layout: Layout, block: Block, rank: int) -> Iterator[tuple[Piece, int, int]]:
    """The pieces of a rank in a block, with the rows of the table that both have."""
    for piece in layout.pieces_of_rank[rank]:
        low, high = max(piece.row_begin, block.begin), min(piece.row_end, block.end)
        if piece.table == block.table and low < high:
            yield piece, low, high


def _parts_for(tables: ShardedTables, round_blocks: Sequence[Block | None]) -> list[FloatArray]:
    """What this rank has of the block of each rank; its own stays where it is."""
    me = tables.engine.rank
    parts = []
    for rank, block in enumerate(round_blocks):
        cells = [np.empty(0, np.float32)]
        if block is not None and rank != me:
            for piece, low, high in _pieces_in(tables.layout, block, me):
                begin = piece.row_begin
                cells.append(tables.parts[piece].values(low - begin, high - begin).reshape(-1))
        parts.append(np.concatenate(cells))
    return parts


def _assemble(tables: ShardedTables, block: Block, received: Sequence[FloatArray]) -> FloatArray:
    """The rows of a block, from what others sent and what is here."""
    me = tables.engine.rank
    rows = np.empty((block.end - block.begin, tables.specs[block.table].dim), np.float32)
    for rank, values in enumerate(received):
        at = 0
        for piece, low, high in _pieces_in(tables.layout, block, rank):
            out = rows[low - block.begin : high - block.begin]
            if rank == me:
                begin = piece.row_begin
                part = tables.parts[piece].values(low - begin, high - begin)
            else:
                size = (high - low) * piece.columns
                part = values[at : at + size].reshape(high - low, piece.columns)
                at += size
            out[:, piece.column_begin : piece.column_end] = part
    for piece, replica in tables.replicas.items():
        low, high = max(piece.row_begin, block.begin), min(piece.row_end, block.end)
        if piece.table == block.table and low < high:
            first = piece.row_begin
            rows[low - block.begin : high - block.begin] = replica.values(low - first, high - first)
    return rows
