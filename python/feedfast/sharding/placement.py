"""Where the parts of one table live: the five kinds of placement."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from feedfast.sharding.table_shape import TableShape

Kind = Literal["data_parallel", "table", "column", "row", "row_column"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Shard:
    """The part [row_begin, row_end) x [column_begin, column_end) of a table, held by one rank."""

    table: str
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

    @property
    def cells(self) -> int:
        """Number of weights."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Placement:
    """One table and its shards.

    A rank holds at most one shard of a table. The ranges of all but data-parallel placements form
    a grid: every range of rows meets every range of columns in exactly one shard.

    Attributes:
        table: Name of the table.
        kind: "data_parallel": all of it on every rank, gradients summed over the ranks.
            "table": all of it on one rank. "column": all rows, some columns on each of several
            ranks. "row": some rows with all columns on each of several ranks. "row_column": the
            columns divided between hosts, the rows between the ranks of a host (one range of
            columns: a table by rows on one host).
        shards: What each rank holds, by rank for data_parallel; empty parts are left out.
        hot_rows: Rows [0, hot_rows) are a replica on every rank, trained as data_parallel is; the
            shards then cover rows [hot_rows, rows).
    """

    table: str
    kind: Kind
    shards: tuple[Shard, ...]
    hot_rows: int = 0

    def shard_of(self, rank: int) -> Shard | None:
        """What `rank` holds of the table beside its hot rows; None when nothing."""
        return next((shard for shard in self.shards if shard.rank == rank), None)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that hold a shard, ascending."""
        return tuple(sorted(shard.rank for shard in self.shards))

    @property
    def row_ranges(self) -> tuple[Range, ...]:
        """The ranges of rows, ascending."""
        return tuple(sorted({(shard.row_begin, shard.row_end) for shard in self.shards}))

    @property
    def column_ranges(self) -> tuple[Range, ...]:
        """The ranges of columns, ascending."""
        return tuple(sorted({(shard.column_begin, shard.column_end) for shard in self.shards}))

    def validate(self, table: TableShape, *, num_ranks: int, ranks_per_host: int) -> None:
        """Checks that every cell of `table` has exactly one home, or one on each rank.

        Raises:
            ValueError: A rank, range or number does not fit; names the table, the range, the rank.
        """
        where = f"table {table.name!r}"
        if self.table != table.name:
            raise ValueError(f"{where}: its placement is of table {self.table!r}")
        if self.kind not in KINDS:
            raise ValueError(f"{where}: kind {self.kind!r} is unknown; allowed: {', '.join(KINDS)}")
        highest = 0 if self.kind == "data_parallel" else table.rows - 1
        if not 0 <= self.hot_rows <= highest:
            raise ValueError(
                f"{where}: hot_rows must be in [0, {highest}] for kind {self.kind!r}; "
                f"got {self.hot_rows}"
            )
        held: set[int] = set()
        for shard in self.shards:
            _check_shard(where, shard, table, self.hot_rows, num_ranks)
            if shard.rank in held:
                raise ValueError(f"{where}: rank {shard.rank} holds two shards; allowed: one")
            held.add(shard.rank)
        if self.kind == "data_parallel":
            _check_replicas(where, self.shards, table, num_ranks)
            return
        rows = _check_contiguous(where, "rows", self.row_ranges, self.hot_rows, table.rows)
        columns = _check_contiguous(where, "columns", self.column_ranges, 0, table.dim)
        _check_grid(where, self.shards, rows, columns)
        _check_kind(where, self, ranks_per_host)


def _check_shard(
    where: str, shard: Shard, table: TableShape, first_row: int, num_ranks: int
) -> None:
    if shard.table != table.name:
        raise ValueError(f"{where}: a shard of rank {shard.rank} is of table {shard.table!r}")
    if not 0 <= shard.rank < num_ranks:
        raise ValueError(f"{where}: rank {shard.rank} is not in 0..{num_ranks - 1}")
    for what, begin, end, low, high in (
        ("rows", shard.row_begin, shard.row_end, first_row, table.rows),
        ("columns", shard.column_begin, shard.column_end, 0, table.dim),
    ):
        if not low <= begin < end <= high:
            raise ValueError(
                f"{where}, rank {shard.rank}: {what} [{begin}, {end}) must be a range of at "
                f"least one within [{low}, {high})"
            )


def _check_replicas(where: str, shards: Sequence[Shard], table: TableShape, num_ranks: int) -> None:
    full = (0, table.rows, 0, table.dim)
    for shard in shards:
        if (shard.row_begin, shard.row_end, shard.column_begin, shard.column_end) != full:
            raise ValueError(
                f"{where}, rank {shard.rank}: a data_parallel shard must be the whole table; got "
                f"rows [{shard.row_begin}, {shard.row_end}), "
                f"columns [{shard.column_begin}, {shard.column_end})"
            )
    missing = sorted(set(range(num_ranks)) - {shard.rank for shard in shards})
    if missing:
        raise ValueError(f"{where}: data_parallel, but rank {missing[0]} has no replica")


def _check_contiguous(
    where: str, what: str, ranges: Sequence[Range], first: int, last: int
) -> Sequence[Range]:
    expected = first
    for begin, end in ranges:
        if begin > expected:
            raise ValueError(f"{where}: {what} [{expected}, {begin}) are on no rank")
        if begin < expected:
            raise ValueError(
                f"{where}: {what} [{begin}, {min(end, expected)}) are in two different ranges"
            )
        expected = end
    if expected < last:
        raise ValueError(f"{where}: {what} [{expected}, {last}) are on no rank")
    return ranges


def _check_grid(
    where: str, shards: Sequence[Shard], rows: Sequence[Range], columns: Sequence[Range]
) -> None:
    homes: dict[tuple[Range, Range], int] = {}
    for shard in shards:
        cell = ((shard.row_begin, shard.row_end), (shard.column_begin, shard.column_end))
        if cell in homes:
            raise ValueError(
                f"{where}: rows [{cell[0][0]}, {cell[0][1]}), columns [{cell[1][0]}, "
                f"{cell[1][1]}) are on ranks {homes[cell]} and {shard.rank}"
            )
        homes[cell] = shard.rank
    for cell in itertools.product(rows, columns):
        if cell not in homes:
            raise ValueError(
                f"{where}: rows [{cell[0][0]}, {cell[0][1]}), columns [{cell[1][0]}, "
                f"{cell[1][1]}) are on no rank"
            )


def _check_kind(where: str, placement: Placement, ranks_per_host: int) -> None:
    row_ranges, column_ranges = placement.row_ranges, placement.column_ranges
    if placement.kind in ("table", "column") and len(row_ranges) > 1:
        raise ValueError(f"{where}: kind {placement.kind!r} has {len(row_ranges)} ranges of rows")
    if placement.kind in ("table", "row") and len(column_ranges) > 1:
        raise ValueError(
            f"{where}: kind {placement.kind!r} has {len(column_ranges)} ranges of columns"
        )
    if placement.kind == "row_column":
        for columns in column_ranges:
            hosts = {
                shard.rank // ranks_per_host
                for shard in placement.shards
                if (shard.column_begin, shard.column_end) == columns
            }
            if len(hosts) > 1:
                raise ValueError(
                    f"{where}: columns [{columns[0]}, {columns[1]}) are on hosts "
                    f"{sorted(hosts)}; allowed in kind 'row_column': one host"
                )


def divide(first: int, last: int, parts: int) -> Iterator[Range]:
    """[first, last) in `parts` contiguous ranges whose lengths differ by at most 1, longest first;
    empty ranges at the end when there are more parts than elements."""
    size, longer = divmod(last - first, parts)
    begin = first
    for part in range(parts):
        end = begin + size + (part < longer)
        yield begin, end
        begin = end


def data_parallel(table: TableShape, num_ranks: int) -> Placement:
    """All of `table` on each of `num_ranks` ranks."""
    shards = tuple(
        Shard(table.name, rank, 0, table.rows, 0, table.dim) for rank in range(num_ranks)
    )
    return Placement(table.name, "data_parallel", shards)


def table_wise(table: TableShape, rank: int, *, hot_rows: int = 0) -> Placement:
    """All of `table` on `rank`."""
    shard = Shard(table.name, rank, hot_rows, table.rows, 0, table.dim)
    return Placement(table.name, "table", (shard,), hot_rows)


def column_wise(table: TableShape, ranks: Sequence[int], *, hot_rows: int = 0) -> Placement:
    """The columns of `table` divided between `ranks`, in their order; the first are one wider.

    Raises:
        ValueError: More ranks than columns, or none.
    """
    if not 1 <= len(ranks) <= table.dim:
        raise ValueError(
            f"table {table.name!r}: columns are divided between 1 to {table.dim} ranks; "
            f"got {len(ranks)}"
        )
    shards = tuple(
        Shard(table.name, rank, hot_rows, table.rows, begin, end)
        for rank, (begin, end) in zip(ranks, divide(0, table.dim, len(ranks)), strict=True)
    )
    return Placement(table.name, "column", shards, hot_rows)


def row_wise(
    table: TableShape,
    ranks: Sequence[int],
    *,
    boundaries: Sequence[int] | None = None,
    hot_rows: int = 0,
) -> Placement:
    """The rows of `table` divided between `ranks`, in their order.

    Args:
        table: The table.
        ranks: At least one. Ranks whose range is empty get no shard.
        boundaries: [len(ranks) + 1], ascending from `hot_rows` to `table.rows`; default: ranges of
            equal length, the first ones one longer.
        hot_rows: Rows that stay on every rank.

    Raises:
        ValueError: No ranks, or boundaries that do not fit.
    """
    return Placement(
        table.name, "row", _rows(table, ranks, (0, table.dim), boundaries, hot_rows), hot_rows
    )


def row_column(
    table: TableShape,
    hosts: Sequence[int],
    ranks_per_host: int,
    *,
    boundaries: Sequence[int] | None = None,
    hot_rows: int = 0,
) -> Placement:
    """The columns of `table` divided between `hosts`, the rows of each part between the ranks of
    its host. One host: a table by rows on that host.

    Args:
        table: The table.
        hosts: Numbers of the hosts, in the order of the columns; 1 to `table.dim`.
        ranks_per_host: Host h has ranks [h * ranks_per_host, (h + 1) * ranks_per_host).
        boundaries: As in `row_wise`, [ranks_per_host + 1]; the same on every host.
        hot_rows: Rows that stay on every rank.

    Raises:
        ValueError: As `column_wise` and `row_wise`.
    """
    if not 1 <= len(hosts) <= table.dim:
        raise ValueError(
            f"table {table.name!r}: columns are divided between 1 to {table.dim} hosts; "
            f"got {len(hosts)}"
        )
    shards: list[Shard] = []
    for host, columns in zip(hosts, divide(0, table.dim, len(hosts)), strict=True):
        ranks = range(host * ranks_per_host, (host + 1) * ranks_per_host)
        shards.extend(_rows(table, ranks, columns, boundaries, hot_rows))
    return Placement(table.name, "row_column", tuple(shards), hot_rows)


def _rows(
    table: TableShape,
    ranks: Sequence[int],
    columns: Range,
    boundaries: Sequence[int] | None,
    hot_rows: int,
) -> tuple[Shard, ...]:
    if not ranks:
        raise ValueError(f"table {table.name!r}: rows are divided between at least 1 rank; got 0")
    if boundaries is None:
        ranges = list(divide(hot_rows, table.rows, len(ranks)))
    else:
        ranges = list(itertools.pairwise(boundaries))
        if (
            len(boundaries) != len(ranks) + 1
            or boundaries[0] != hot_rows
            or boundaries[-1] != table.rows
            or any(begin > end for begin, end in ranges)
        ):
            raise ValueError(
                f"table {table.name!r}: boundaries must be {len(ranks) + 1} ascending rows from "
                f"{hot_rows} to {table.rows}; got {list(boundaries)}"
            )
    return tuple(
        Shard(table.name, rank, begin, end, *columns)
        for rank, (begin, end) in zip(ranks, ranges, strict=True)
        if begin < end
    )
