"""All embedding tables of a model, divided between the processes of an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.bags import Bags, FloatArray, IntArray
from feedfast.comm import Engine
from feedfast.sharded_tables import messages
from feedfast.sharded_tables.agreement import check_agreement
from feedfast.sharded_tables.key_codes import Codes
from feedfast.sharded_tables.key_tables import Asked, AskedKeys, KeyBags, KeyTables
from feedfast.sharded_tables.layout import Layout, Piece
from feedfast.sharded_tables.messages import BadBagsError, Words, exchange_requests
from feedfast.sharded_tables.replicas import ReplicaExchange
from feedfast.sharded_tables.row_window import RowWindow
from feedfast.sharded_tables.sharded_vocabulary import ShardedVocabulary
from feedfast.sharded_tables.table_part import TablePart
from feedfast.sharded_tables.table_spec import RowOptimization, TableSpec
from feedfast.sharded_tables.weight_format import as_float32, weights_dtype
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
      4 columns(p) u(p) of that rank; with 16-bit weights half, up to the next multiple of 4. For a
      piece that is looked up by keys, k(p) distinct ones of its rank, the request has 8 k(p) in
      place of 4 u(p) and the answer 4 k(p) more; the rows of the known ones are the u(p), and all
      others are row 0, a replica.
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
        vocabularies: By table, for lookups by keys. The plan has such tables where
            `ShardedVocabulary.placement` puts them.

    Raises:
        ValueError: Plan, tables, vocabularies and engine do not fit, or ranks differ in them; or a
            table with a row-wise rule is divided by columns and has "l2" decay or `max_value`,
            which look at the weights of all columns.
        MemoryError: There is too little for this rank's parts.
        RuntimeError: One of these on another rank alone.
    """

    def __init__(
        self,
        specs: Sequence[TableSpec],
        plan: ShardingPlan,
        engine: Engine,
        *,
        initialize: bool = True,
        vocabularies: Mapping[str, ShardedVocabulary] | None = None,
    ) -> None:
        self.specs = tuple(specs)
        self.plan = plan
        self.engine = engine
        self.vocabularies = dict(vocabularies or {})
        check_agreement(self.specs, plan, engine, initialize=initialize, divide=self._divide)
        if initialize:
            for part in [*self.parts.values(), *self.replicas.values()]:
                part.initialize()
        self._dtypes = [weights_dtype(spec.dtype) for spec in self.specs]
        self._distinct = _core.DistinctRows()
        self._window = [RowWindow(spec.dim) for spec in self.specs]
        self._replica_exchange = ReplicaExchange(self.layout.replicas, engine)
        self._shares_row_squares = any(
            _shares_row_squares(self.specs, pieces) for pieces in self.layout.pieces_of_block
        )
        self.updates = 0

    def _divide(self) -> dict[str, str]:
        """Makes the parts of this rank; what all ranks must have in common, by name."""
        plan, engine = self.plan, self.engine
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
        self._keys = KeyTables(self.vocabularies, self.specs, self.layout, engine)
        return self._keys.described()

    @property
    def nbytes(self) -> int:
        """Bytes of weights and states on this rank."""
        parts = [*self.parts.values(), *self.replicas.values()]
        return sum(
            part.weights.nbytes + sum(state.nbytes for state in part.states) for part in parts
        )

    def lookup(self, bags: Sequence[Bags | KeyBags]) -> list[FetchedRows]:
        """Fetches the rows of `bags`, one for each table; two exchanges.

        Bags of keys have the row 0 where a key is unknown; ranks need not agree about which tables
        they look up by keys.

        Raises:
            BadBagsError: Bags of any rank have an id that is no row of its table, offsets that do
                not ascend from 0 to nnz, or weights that are not nnz finite numbers; or what should
                be keys is not. The message names rank, table, position and value. Nothing else was
                exchanged then, and the next lookup is possible.
            RuntimeError: A message of another rank has a wrong size.
        """
        layout = self.layout
        asked = self._asked(bags)
        if isinstance(asked, str):  # all ranks hear of it, so that none waits for this one
            problems = [messages.problem(asked)] * self.engine.size
            exchange_requests(self.engine, problems, name="sharded_ids")
            raise BadBagsError(asked)
        nothing = np.empty(0, np.int64)
        values = [each.values if isinstance(each, Bags) else nothing for each in asked]
        keys = np.concatenate(
            [
                np.add(ids, first, dtype=np.int64)  # of int32 ids too
                for ids, first in zip(values, layout.first_keys[:-1], strict=True)
            ]
        )
        unique, positions = self._distinct.find(keys)
        ends = np.searchsorted(unique, layout.block_keys).tolist()
        of_block = [
            unique[ends[block] : ends[block + 1]] - first
            for block, first in enumerate(layout.block_keys[:-1].tolist())
        ]
        of_table = [
            of_bags - ends[first]
            for of_bags, first in zip(
                np.split(positions, np.cumsum([ids.size for ids in values])[:-1]),
                layout.first_blocks[:-1],
                strict=True,
            )
        ]
        requests = exchange_requests(
            self.engine,
            [
                messages.request([_asked_of(piece, asked, of_block) for piece in pieces])
                for pieces in layout.pieces_of_rank
            ],
            name="sharded_ids",
        )
        received = self.engine.all_to_all(
            [self._answer(rank, request) for rank, request in enumerate(requests)],
            name="sharded_rows",
        )
        for table, of_keys in self._keys.resolve(asked, received, of_block).items():
            of_table[table] = of_keys
        return self._assemble(of_block, of_table, received)

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

        Raises:
            ValueError: Gradients of a table have another shape; those of tables before it count.
        """
        numbers = range(len(self.specs)) if tables is None else tables
        for table, rows, gradient in zip(numbers, ids, gradients, strict=True):
            spec = self.specs[table]
            if gradient.shape != (rows.size, spec.dim):
                raise ValueError(
                    f"table {spec.name!r}: gradients of {rows.size} rows have shape "
                    f"{gradient.shape}; needs {(rows.size, spec.dim)}"
                )
            self._window[table].add(rows, np.ascontiguousarray(gradient, np.float32))

    def exchange_window(self, scale: float) -> float:
        """Sends the gradients of the window to the ranks that hold their rows; collective.

        Returns:
            Sum of the squares of the scaled gradients of this rank's rows; those of replicas count
            on rank 0.

        Raises:
            RuntimeError: A message of another rank has a wrong size.
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
                counts, parts = messages.gradients_of(
                    message, self._own, layout.replicas, is_dense, sender=rank
                )
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

    def _asked(self, bags: Sequence[Bags | KeyBags]) -> list[Asked] | str:
        """The bags, checked; or what is wrong with them."""
        if len(bags) != len(self.specs):
            return f"bags of {len(bags)} tables; there are {len(self.specs)}"
        asked = []
        for table, (spec, bag) in enumerate(zip(self.specs, bags, strict=True)):
            try:
                asked.append(self._keys.asked(table, bag))
            except (IndexError, TypeError, ValueError) as error:
                return f"table {spec.name!r}: {error}"
        return asked

    def _answer(self, rank: int, request: Words) -> Words:
        """What another rank asked for: the rows of keys, then weights piece after piece.

        Nothing for this rank itself: `KeyTables.resolve` and `_assemble` have its own.
        """
        if rank == self.engine.rank:
            return np.empty(0, np.int32)
        asked = messages.requested(request, len(self._own), sender=rank)
        of_keys = [np.empty(0, np.int32)]
        of_piece: list[NDArray[np.integer[Any]]] = []
        for piece, rows in zip(self._own, asked, strict=True):
            if rows.dtype == np.uint64:
                found = self._keys.find(piece, messages.as_codes(rows, sender=rank))
                of_keys.append(found.astype(np.int32))
                of_piece.append(self._keys.distinct(found)[0])
            else:
                of_piece.append(rows)
        rows_of_keys = np.concatenate(of_keys)
        counts = [wanted.size for wanted in of_piece]
        size = messages.size_of_rows(self._own, counts, self._dtypes)
        answer = np.empty(rows_of_keys.size + size, np.int32)
        answer[: rows_of_keys.size] = rows_of_keys
        views = messages.views_of_rows(answer[rows_of_keys.size :], self._own, counts, self._dtypes)
        for wanted, piece, view in zip(of_piece, self._own, views, strict=True):
            self.parts[piece].copy(wanted, view)
        return answer

    def _assemble(
        self,
        of_block: Sequence[IntArray],
        of_table: Sequence[IntArray],
        received: Sequence[Words],
    ) -> list[FetchedRows]:
        """The fetched rows of every table, block after block.

        Args:
            of_block: For each block the distinct rows, from its first.
            of_table: For each table the position of each id among its distinct rows.
            received: From each other rank the rows of its pieces, as `_answer` wrote them.
        """
        layout = self.layout
        ends = np.cumsum([0, *(rows.size for rows in of_block)]).tolist()
        fetched = []
        out_of_block: list[FloatArray] = []
        for table, (spec, positions) in enumerate(zip(self.specs, of_table, strict=True)):
            blocks = range(layout.first_blocks[table], layout.first_blocks[table + 1])
            first = ends[blocks.start]
            rows = _aligned_rows(ends[blocks.stop] - first, spec.dim)
            out_of_block += [rows[ends[b] - first : ends[b + 1] - first] for b in blocks]
            ids = [of_block[b] + (layout.block_keys[b] - layout.first_keys[table]) for b in blocks]
            fetched.append(FetchedRows(np.concatenate(ids), rows, positions))
        for piece, part in self.parts.items():
            out = out_of_block[piece.block]
            part.read(of_block[piece.block], out[:, piece.column_begin : piece.column_end])
        for rank, (answer, pieces) in enumerate(zip(received, layout.pieces_of_rank, strict=True)):
            if rank == self.engine.rank:
                continue
            counts = [of_block[piece.block].size for piece in pieces]
            wanted = messages.size_of_rows(pieces, counts, self._dtypes)
            messages.check_size(answer.size, wanted, sender=rank)
            views = messages.views_of_rows(answer, pieces, counts, self._dtypes)
            for piece, view in zip(pieces, views, strict=True):
                out = out_of_block[piece.block][:, piece.column_begin : piece.column_end]
                out[...] = as_float32(view, self.specs[piece.table].dtype)
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
                squares = received[other.rank][start : start + count]
                messages.check_size(squares.size, count, sender=other.rank)
                total += squares
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


def _asked_of(
    piece: Piece, asked: Sequence[Asked], of_block: Sequence[IntArray]
) -> IntArray | Codes:
    """What to ask the rank of a piece for: rows, or codes of keys."""
    keys = asked[piece.table]
    return (
        keys.codes[keys.of_rank(piece.rank)]
        if isinstance(keys, AskedKeys)
        else of_block[piece.block]
    )


def _aligned_rows(num_rows: int, dim: int) -> FloatArray:
    """New [num_rows, dim] on a cache line, where TensorFlow takes arrays without a copy."""
    size = num_rows * dim
    memory = np.empty(size + _LINE_FLOATS, np.float32)
    first = -memory.ctypes.data // 4 % _LINE_FLOATS
    return memory[first : first + size].reshape(num_rows, dim)
