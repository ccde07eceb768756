"""All embedding tables of a model, divided between the processes of an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from feedfast import _core
from feedfast.bags import Bags, FloatArray, IntArray
from feedfast.comm import Engine
from feedfast.sharded_tables import messages
from feedfast.sharded_tables.agreement import check_agreement
from feedfast.sharded_tables.layout import Layout, Piece
from feedfast.sharded_tables.messages import Words, exchange_requests
from feedfast.sharded_tables.replicas import ReplicaExchange
from feedfast.sharded_tables.row_window import RowWindow
from feedfast.sharded_tables.table_part import TablePart
from feedfast.sharded_tables.table_spec import RowOptimization, TableSpec
from feedfast.sharding import ShardingPlan

_LINE_FLOATS = 16


class FetchedRows(NamedTuple):
    """The rows of one table that a lookup found, each once.

    Attributes:
        ids: [unique] int64 logical rows, ascending.
        rows: [unique, dim] float32, rows[i] is row ids[i] of the table.
        positions: [nnz] int64; the row of `values[i]` is rows[positions[i]].
    """

    ids: IntArray
    rows: FloatArray
    positions: IntArray


class ShardedTables:
    """Tables whose parts live on the ranks of an engine, as a plan says.

    A lookup makes two exchanges whatever the number of tables, a window of lookups one more. All
    ranks make the same calls in the same order, the constructor among them; what they look up, and
    how much, is their own affair: empty batches are fine. One thread at a time.

    Bytes that a rank sends to others, as `engine.traffic` counts them, where u(p) is the number of
    distinct rows of piece p that this rank looked up and S(r) the number of pieces of rank r:

    - "sharded_ids": sum over other ranks r of 4 (1 + S(r) + sum of u(p) over the pieces of r)
    - "sharded_rows": what others looked up here: sum over other ranks and own pieces p of
      4 columns(p) u(p) of that rank
    - "sharded_gradients", per window, u over the window: sum over other ranks r of
      4 (S(r) + R + sum of u(p) (1 + columns(p)) over the pieces of r and the R replicas)
    - "sharded_row_squares", per window where a table with a row-wise rule is divided by columns: 4
      bytes for each row of an own piece of such a table with a gradient and each other rank that
      holds columns of it.
    - "sharded_replicas": see `ReplicaExchange`; replicas that travel so count no rows above.

    Args:
        specs: The tables, in the order of the exchanges: the same on all ranks.
        plan: Where their parts live; of the same tables.
        engine: Of as many ranks as the plan has.
        initialize: Set the weights to their first values; not needed before `load_tables`.

    Raises:
        ValueError: Plan, tables and engine do not fit, or ranks differ in them; or a table with a
            row-wise rule is divided by columns and has "l2" decay or `max_value`, which look at the
            weights of all columns.
    """

    def __init__(
        self,
        specs: Sequence[TableSpec],
        plan: ShardingPlan,
        engine: Engine,
        *,
        initialize: bool = True,
    ) -> None:
        self.specs = tuple(specs)
        self.plan = plan
        self.engine = engine
        if engine.size != plan.num_ranks:
            raise ValueError(f"the plan has {plan.num_ranks} ranks, the engine {engine.size}")
        self.layout = Layout.create(self.specs, plan)
        for pieces in self.layout.pieces_of_block:
            _check_rule(self.specs, pieces)
        self._own = self.layout.pieces_of_rank[engine.rank]
        self.parts = {piece: TablePart(self.specs[piece.table], piece) for piece in self._own}
        self.replicas = {
            piece: TablePart(self.specs[piece.table], piece) for piece in self.layout.replicas
        }
        check_agreement(self.specs, plan, engine, initialize=initialize)
        if initialize:
            for part in [*self.parts.values(), *self.replicas.values()]:
                part.initialize()
        self._distinct = _core.DistinctRows()
        self._window = [RowWindow(spec.dim) for spec in self.specs]
        self._replica_exchange = ReplicaExchange(self.layout.replicas, engine)
        self._shares_row_squares = any(
            _shares_row_squares(self.specs, pieces) for pieces in self.layout.pieces_of_block
        )
        self.updates = 0

    @property
    def nbytes(self) -> int:
        """Bytes of weights and states on this rank."""
        parts = [*self.parts.values(), *self.replicas.values()]
        return sum(
            part.weights.nbytes + sum(state.nbytes for state in part.states) for part in parts
        )

    def lookup(self, bags: Sequence[Bags]) -> list[FetchedRows]:
        """Fetches the rows of `bags`, one for each table; two exchanges.

        Raises:
            BadBagsError: Bags of any rank have an id that is no row of its table, offsets that do
                not ascend from 0 to nnz, or weights that are not nnz finite numbers; the message
                names rank, table, position and value. Nothing else was exchanged then, and the
                next lookup is possible.
        """
        problem = self._problem(bags)
        if problem is not None:  # all ranks hear of it, so that none waits for this one
            refused = [messages.problem(problem)] * self.engine.size
            exchange_requests(self.engine, refused, name="sharded_ids")
        layout = self.layout
        keys = np.concatenate(
            [
                bag.values + first
                for bag, first in zip(bags, layout.first_keys[:-1].tolist(), strict=True)
            ]
        ).astype(np.int64, copy=False)
        unique, positions = self._distinct.find(keys)
        ends = np.searchsorted(unique, layout.block_keys).tolist()
        of_block = [
            unique[ends[block] : ends[block + 1]] - first
            for block, first in enumerate(layout.block_keys[:-1].tolist())
        ]
        requests = exchange_requests(
            self.engine,
            [
                messages.request([of_block[piece.block] for piece in pieces])
                for pieces in layout.pieces_of_rank
            ],
            name="sharded_ids",
        )
        received = self.engine.all_to_all(
            [self._answer(rank, request) for rank, request in enumerate(requests)],
            name="sharded_rows",
        )
        return self._assemble(bags, of_block, positions, received)

    def accumulate(
        self,
        ids: Sequence[IntArray],
        gradients: Sequence[FloatArray],
        *,
        tables: Sequence[int] | None = None,
    ) -> None:
        """Adds the gradients of one micro-batch to the window.

        Args:
            ids: For each table [unique], as `lookup` gave them.
            gradients: For each table [unique, dim], by `FetchedRows.rows`. They are not copied and
                must stay as they are until the window is exchanged or discarded.
            tables: Positions of the tables that these are of; default: all.
        """
        windows = self._window if tables is None else [self._window[table] for table in tables]
        for window, rows, gradient in zip(windows, ids, gradients, strict=True):
            window.add(rows, np.ascontiguousarray(gradient, np.float32))

    def exchange_window(self, scale: float) -> float:
        """Sends the gradients of the window to the ranks that hold their rows; collective.

        Returns:
            Sum of the squares of the scaled gradients of this rank's rows; those of replicas count
            on rank 0.
        """
        layout, engine = self.layout, self.engine
        sums = [window.take() for window in self._window]
        of_block: list[tuple[IntArray, FloatArray]] = []
        for table, (rows, values) in enumerate(sums):
            blocks = slice(layout.first_blocks[table], layout.first_blocks[table + 1] + 1)
            bounds = layout.block_keys[blocks] - layout.first_keys[table]
            ends = np.searchsorted(rows, bounds).tolist()
            for first, low, high in zip(bounds.tolist(), ends, ends[1:], strict=False):
                of_block.append((rows[low:high] - first, values[low:high]))
        is_dense = self._replica_exchange.is_dense
        reduced = self._replica_exchange.reduce([of_block[p.block] for p in layout.replicas])
        received = engine.all_to_all(
            [
                messages.gradients(pieces, layout.replicas, is_dense, of_block)
                if rank != engine.rank
                else np.empty(0, np.int32)
                for rank, pieces in enumerate(layout.pieces_of_rank)
            ],
            name="sharded_gradients",
        )
        replica_counts = np.zeros(len(layout.replicas), np.int64)
        for rank, message in enumerate(received):
            if rank == engine.rank:
                counts, parts = self._own_gradients(of_block, is_dense)
            else:
                counts, parts = messages.gradients_of(message, self._own, layout.replicas, is_dense)
            replica_counts += counts
            for piece, rows, values in parts:
                (self.replicas if piece.rank < 0 else self.parts)[piece].add(rows, values)
        self._replica_exchange.note_counts(replica_counts)

        squares = sum(part.take_window(scale) for part in self.parts.values())
        replica_squares = 0.0
        for piece, part in self.replicas.items():
            if piece in reduced:
                rows, values = reduced[piece]
                values *= np.float32(scale)
                replica_squares += part.set_window(rows, values)
            else:
                replica_squares += part.take_window(scale)
        if self._shares_row_squares:
            self._exchange_row_squares()
        return float(squares + (replica_squares if engine.rank == 0 else 0.0))

    def apply_window(self, multiplier: float) -> None:
        """Updates the rows of this rank with the gradients of `exchange_window` times `multiplier`.

        Replicas get the same bits on all ranks.
        """
        for part in [*self.parts.values(), *self.replicas.values()]:
            part.apply(multiplier, updates=self.updates)
        self.updates += 1

    def scale(self, share: float) -> None:
        """Multiplies the weights of all rows by `share`; no exchange, but all ranks must do it."""
        for part in [*self.parts.values(), *self.replicas.values()]:
            part.scale(share)

    def discard_window(self) -> None:
        """Forgets the gradients of the window; not collective."""
        for window in self._window:
            window.discard()
        for part in [*self.parts.values(), *self.replicas.values()]:
            part.discard_window()

    def reset_choices(self) -> None:
        """Lets the replicas' next gradients travel as rows, like those of the first window.

        All ranks do it wherever a checkpoint is written or read: how gradients travel may decide
        the order of additions, so a run that goes on from a checkpoint is the same to the bit.
        """
        self._replica_exchange.forget_counts()

    def _problem(self, bags: Sequence[Bags]) -> str | None:
        if len(bags) != len(self.specs):
            return f"bags of {len(bags)} tables; there are {len(self.specs)}"
        for spec, bag in zip(self.specs, bags, strict=True):
            try:
                bag.validate(spec.rows)
            except (IndexError, ValueError) as error:
                return f"table {spec.name!r}: {error}"
        return None

    def _answer(self, rank: int, request: Words) -> FloatArray:
        """The rows that another rank asked for, piece after piece; `_assemble` has its own."""
        if rank == self.engine.rank:
            return np.empty(0, np.float32)
        asked = messages.requested(request, len(self._own), sender=rank)
        sizes = [rows.size * piece.columns for rows, piece in zip(asked, self._own, strict=True)]
        answer = np.empty(sum(sizes), np.float32)
        at = 0
        for rows, piece, size in zip(asked, self._own, sizes, strict=True):
            out = answer[at : at + size].reshape(rows.size, piece.columns)
            self.parts[piece].read(rows, out)
            at += size
        return answer

    def _assemble(
        self,
        bags: Sequence[Bags],
        of_block: Sequence[IntArray],
        positions: IntArray,
        received: Sequence[FloatArray],
    ) -> list[FetchedRows]:
        """The fetched rows of every table, block after block.

        Args:
            bags: For each table.
            of_block: For each block the distinct rows, from its first.
            positions: [nnz of all tables] of each id among the distinct rows of all tables.
            received: From each other rank the rows of its pieces.
        """
        layout = self.layout
        ends = np.cumsum([0, *(rows.size for rows in of_block)]).tolist()
        fetched = []
        out_of_block: list[FloatArray] = []
        first_value = 0
        for table, (spec, bag) in enumerate(zip(self.specs, bags, strict=True)):
            blocks = range(layout.first_blocks[table], layout.first_blocks[table + 1])
            first = ends[blocks.start]
            rows = _aligned_rows(ends[blocks.stop] - first, spec.dim)
            out_of_block += [rows[ends[b] - first : ends[b + 1] - first] for b in blocks]
            ids = [of_block[b] + (layout.block_keys[b] - layout.first_keys[table]) for b in blocks]
            of_bags = positions[first_value : first_value + bag.values.size]
            first_value += bag.values.size
            fetched.append(FetchedRows(np.concatenate(ids), rows, of_bags - first))
        for piece, part in self.parts.items():
            out = out_of_block[piece.block]
            part.read(of_block[piece.block], out[:, piece.column_begin : piece.column_end])
        for rank, (values, pieces) in enumerate(zip(received, layout.pieces_of_rank, strict=True)):
            at = 0
            for piece in pieces if rank != self.engine.rank else ():
                out = out_of_block[piece.block]
                size = out.shape[0] * piece.columns
                out[:, piece.column_begin : piece.column_end] = values[at : at + size].reshape(
                    -1, piece.columns
                )
                at += size
        for piece, replica in self.replicas.items():
            replica.read(of_block[piece.block], out_of_block[piece.block])
        return fetched

    def _own_gradients(
        self, of_block: Sequence[tuple[IntArray, FloatArray]], is_dense: Sequence[bool]
    ) -> tuple[IntArray, Iterator[tuple[Piece, IntArray, FloatArray]]]:
        """What `messages.gradients_of` would say of a message from this rank to itself."""
        replicas = self.layout.replicas
        counts = np.array([of_block[piece.block][0].size for piece in replicas], np.int64)
        sparse = [piece for piece, dense in zip(replicas, is_dense, strict=True) if not dense]

        def parts() -> Iterator[tuple[Piece, IntArray, FloatArray]]:
            for piece in (*self._own, *sparse):
                rows, values = of_block[piece.block]
                columns = values[:, piece.column_begin : piece.column_end]
                yield piece, rows, np.ascontiguousarray(columns)

        return counts, parts()

    def _exchange_row_squares(self) -> None:
        """Sums the squares of rows over the ranks that hold their columns.

        The ranks of a block got gradients of the same rows, so that no ids travel.
        """
        size = self.engine.size
        of_rank: list[list[FloatArray]] = [[] for _ in range(size)]
        sharing = [piece for piece in self._own if self.parts[piece].shares_row_squares]
        for piece in sharing:
            squares = self.parts[piece].row_squares()
            for other in self.layout.pieces_of_block[piece.block]:
                of_rank[other.rank].append(squares)
        empty = np.empty(0, np.float32)
        received = self.engine.all_to_all(
            [np.concatenate([empty, *squares]) for squares in of_rank], name="sharded_row_squares"
        )
        starts = [0] * size
        for piece in sharing:
            count = self.parts[piece].row_squares().size
            total = np.zeros(count, np.float32)
            for other in self.layout.pieces_of_block[piece.block]:
                start = starts[other.rank]
                total += received[other.rank][start : start + count]
                starts[other.rank] = start + count
            self.parts[piece].share_row_squares(total)


def _check_rule(specs: Sequence[TableSpec], pieces: Sequence[Piece]) -> None:
    if not _shares_row_squares(specs, pieces):
        return
    spec = specs[pieces[0].table]
    optimizer: RowOptimization = spec.optimizer
    if optimizer.max_value is not None or (
        optimizer.weight_decay and optimizer.weight_decay_mode == "l2"
    ):
        raise ValueError(
            f"table {spec.name!r}: divided by columns, rule {optimizer.rule!r} cannot have "
            "max_value or 'l2' decay; divide it by rows, or use 'decouple'"
        )


def _shares_row_squares(specs: Sequence[TableSpec], pieces: Sequence[Piece]) -> bool:
    return len(pieces) > 1 and specs[pieces[0].table].optimizer.is_rowwise


def _aligned_rows(num_rows: int, dim: int) -> FloatArray:
    """New [num_rows, dim] on a cache line, where TensorFlow takes arrays without a copy."""
    size = num_rows * dim
    memory = np.empty(size + _LINE_FLOATS, np.float32)
    first = -memory.ctypes.data // 4 % _LINE_FLOATS
    return memory[first : first + size].reshape(num_rows, dim)
