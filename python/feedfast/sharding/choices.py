"""What a planner can do with one table, and what each costs wherever it is put.

A contribution does not depend on which ranks hold the parts, only on how many there are: those of
all layouts of a table are computed at once and put on ranks from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feedfast.sharding.placement import (
    Kind,
    Placement,
    column_wise,
    data_parallel,
    divide,
    row_column,
    row_wise,
    table_wise,
)
from feedfast.sharding.skew import FloatArray, even_boundaries
from feedfast.sharding.step_cost import CostModel, Metric, Parts
from feedfast.sharding.table_shape import TableShape
from feedfast.sharding.topology import Topology

# Rows that a table ordered by frequency may have on every rank.
_HOT_ROWS = (1_000, 10_000, 100_000)


@dataclass(frozen=True, slots=True)
class Layout:
    """A kind of placement with its number of parts, before its ranks are chosen.

    Attributes:
        kind: Kind of the placement.
        parts: Ranks that hold a part; for row_column hosts.
        hot_rows: As in `Placement`.
    """

    kind: Kind
    parts: int
    hot_rows: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """A layout on certain ranks; of row_column, on certain hosts.

    Attributes:
        layout: What.
        places: [layout.parts] ranks (hosts for row_column), in the order of the parts; empty for
            data_parallel.
    """

    layout: Layout
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """Ranks, and hosts by their largest rank, with least of something first."""

    ranks: list[int]
    hosts: list[int]

    @classmethod
    def of(cls, load: FloatArray, topology: Topology) -> PlaceOrder:
        """By `load` [num_ranks], equal ones by their number."""
        hosts = load.reshape(topology.num_hosts, topology.ranks_per_host).max(axis=1)
        return cls(
            np.argsort(load, kind="stable").tolist(), np.argsort(hosts, kind="stable").tolist()
        )


class TableChoices:
    """The layouts of the tables of one shape with their costs; names do not matter.

    Args:
        table: One of the tables.
        model: Of the costs.
        kinds: Kinds that may be chosen.
        min_columns: Narrowest part of a row.
    """

    def __init__(
        self, table: TableShape, model: CostModel, *, kinds: Sequence[Kind], min_columns: int
    ) -> None:
        self.table = table
        self._model = model
        self.layouts = tuple(self._layouts(kinds, min_columns))
        self._everywhere: dict[Layout, FloatArray] = {}
        self._lines: dict[Layout, FloatArray] = {}
        self._measure()
        # Of each layout, bytes of the fullest rank.
        self.most_memory = {
            layout: float(
                self._everywhere[layout][Metric.MEMORY_BYTES]
                + lines[:, Metric.MEMORY_BYTES].max(initial=0.0)
            )
            for layout, lines in self._lines.items()
        }

    def placement(self, table: TableShape, choice: Choice) -> Placement:
        """The placement of `table`, which is of this shape, that `choice` stands for."""
        layout, hot_rows = choice.layout, choice.layout.hot_rows
        topology = self._model.topology
        if layout.kind == "data_parallel":
            return data_parallel(table, topology.num_ranks)
        if layout.kind == "table":
            return table_wise(table, choice.places[0], hot_rows=hot_rows)
        if layout.kind == "column":
            return column_wise(table, choice.places, hot_rows=hot_rows)
        ends = self._row_ends(layout)
        if layout.kind == "row":
            return row_wise(table, choice.places, boundaries=ends, hot_rows=hot_rows)
        return row_column(
            table, choice.places, topology.ranks_per_host, boundaries=ends, hot_rows=hot_rows
        )

    def contributions(self, choices: Sequence[Choice]) -> FloatArray:
        """[len(choices), num_ranks, len(Metric)]; in memory metrics come first and choices last,
        so that sums over ranks are sums of vectors."""
        if not choices:
            return np.empty((0, self._model.topology.num_ranks, len(Metric)))
        out = np.empty((len(Metric), self._model.topology.num_ranks, len(choices)))
        out[:] = np.array([self._everywhere[choice.layout] for choice in choices]).T[:, None]
        ranks: list[int] = []
        counts: list[int] = []
        for choice in choices:
            before = len(ranks)
            ranks += self.ranks(choice)
            counts.append(len(ranks) - before)
        if ranks:
            lines = np.concatenate([self._lines[choice.layout] for choice in choices])
            out[:, ranks, np.repeat(np.arange(len(choices)), counts)] += lines.T
        return out.transpose(2, 1, 0)

    def ranks(self, choice: Choice) -> Sequence[int]:
        """The ranks that hold parts, in the order of the parts; none for data_parallel."""
        if choice.layout.kind != "row_column":
            return choice.places
        per_host = self._model.topology.ranks_per_host
        return [
            rank for host in choice.places for rank in range(host * per_host, (host + 1) * per_host)
        ]

    def on_least(self, layout: Layout, order: PlaceOrder) -> Choice:
        """`layout` on the first places of `order`, ascending."""
        if layout.kind == "data_parallel":
            return Choice(layout, ())
        places = order.hosts if layout.kind == "row_column" else order.ranks
        return Choice(layout, tuple(sorted(places[: layout.parts])))

    def _row_ends(self, layout: Layout) -> list[int]:
        ids = self._model.workload.batch_per_rank * self.table.lookups_per_example
        parts = layout.parts if layout.kind == "row" else self._model.topology.ranks_per_host
        return even_boundaries(self.table, ids, parts, layout.hot_rows)

    def _measure(self) -> None:
        """What every layout adds to all ranks and, beside it, to those with parts."""
        table, model = self.table, self._model
        parted: list[Layout] = []
        begins, ends, widths, shape = [], [], [], []
        for layout in self.layouts:
            if layout.kind == "data_parallel":
                self._everywhere[layout] = model.everywhere(table, hot_rows=table.rows)
                self._lines[layout] = np.zeros((0, len(Metric)))
                continue
            by_columns = layout.kind in ("column", "row_column")
            column_ranges = layout.parts if by_columns else 1
            row_ends = [layout.hot_rows, table.rows]
            if layout.kind in ("row", "row_column"):
                row_ends = self._row_ends(layout)
            columns = [end - begin for begin, end in divide(0, table.dim, column_ranges)]
            begins.append(np.tile(row_ends[:-1], column_ranges))
            ends.append(np.tile(row_ends[1:], column_ranges))
            widths.append(np.repeat(columns, len(row_ends) - 1))
            row_ranges = len({*row_ends}) - 1  # empty ones do not count
            shape += [(row_ranges, column_ranges, layout.kind == "row_column")] * widths[-1].size
            self._everywhere[layout] = model.everywhere(
                table, hot_rows=layout.hot_rows, column_ranges=column_ranges
            )
            parted.append(layout)
        if not parted:
            return
        row_ranges_of, column_ranges_of, within = np.array(shape).T
        row_begin, row_end = np.concatenate(begins), np.concatenate(ends)
        lines = model.owned(
            table,
            Parts(
                row_begin=row_begin,
                row_end=row_end,
                columns=np.concatenate(widths),
                row_ranges=row_ranges_of,
                column_ranges=column_ranges_of,
                within_host=within.astype(np.bool_),
            ),
        )
        lines[row_begin == row_end] = 0.0  # placements leave empty parts out
        stops = np.cumsum([width.size for width in widths])[:-1]
        self._lines.update(zip(parted, np.split(lines, stops), strict=True))

    def _layouts(self, kinds: Sequence[Kind], min_columns: int) -> list[Layout]:
        table, topology = self.table, self._model.topology
        ranks, hosts = topology.num_ranks, topology.num_hosts
        layouts = []
        if "data_parallel" in kinds:
            layouts.append(Layout("data_parallel", 0))
        hot = [0]
        if table.order == "frequency":
            hot += [rows for rows in _HOT_ROWS if 2 * rows <= table.rows]
        widest = max(1, table.dim // max(1, min_columns))
        for hot_rows in hot:
            if "table" in kinds:
                layouts.append(Layout("table", 1, hot_rows))
            if "column" in kinds:
                layouts += [
                    Layout("column", parts, hot_rows) for parts in _counts(min(ranks, widest))
                ]
            if "row" in kinds:
                layouts += [
                    Layout("row", parts, hot_rows)
                    for parts in _counts(ranks)
                    if parts <= table.rows - hot_rows
                ]
            # With one rank a host it is a split by columns; on one host of one, one by rows.
            if "row_column" in kinds and hosts > 1 and topology.ranks_per_host > 1:
                layouts += [
                    Layout("row_column", parts, hot_rows)
                    for parts in (1, *_counts(min(hosts, widest)))
                ]
        return layouts


def _counts(most: int) -> list[int]:
    """2, 3, 4, 6, 8, 12, ... and `most`: numbers of parts, ascending; none for `most` below 2."""
    counts = {most} | {base << shift for base in (2, 3) for shift in range(most.bit_length())}
    return sorted(count for count in counts if 2 <= count <= most)
