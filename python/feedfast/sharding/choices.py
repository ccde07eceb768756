"""What a planner can do with one table, and what each costs wherever it is put.

A contribution does not depend on which ranks hold the parts, only on how many there are: it is
computed once on the first ranks and put on the others from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feedfast.sharding.placement import (
    Kind,
    Placement,
    column_wise,
    data_parallel,
    row_column,
    row_wise,
    table_wise,
)
from feedfast.sharding.skew import even_boundaries
from feedfast.sharding.step_cost import CostModel, FloatArray, Metric
from feedfast.sharding.table_shape import TableShape

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


class TableChoices:
    """The layouts of one table with their costs.

    Args:
        table: The table.
        model: Of the costs.
        kinds: Kinds that may be chosen.
        min_columns: Narrowest part of a row.
    """

    def __init__(
        self, table: TableShape, model: CostModel, *, kinds: Sequence[Kind], min_columns: int
    ) -> None:
        self.table = table
        self._model = model
        self._lines: dict[Layout, tuple[FloatArray, FloatArray]] = {}
        self.layouts = tuple(self._layouts(kinds, min_columns))

    def placement(self, choice: Choice) -> Placement:
        """The placement that `choice` stands for."""
        table, layout = self.table, choice.layout
        topology = self._model.topology
        if layout.kind == "data_parallel":
            return data_parallel(table, topology.num_ranks)
        if layout.kind == "table":
            return table_wise(table, choice.places[0], hot_rows=layout.hot_rows)
        if layout.kind == "column":
            return column_wise(table, choice.places, hot_rows=layout.hot_rows)
        parts = layout.parts if layout.kind == "row" else topology.ranks_per_host
        ids = self._model.workload.batch_per_rank * table.lookups_per_example
        ends = even_boundaries(table, ids, parts, layout.hot_rows)
        if layout.kind == "row":
            return row_wise(table, choice.places, boundaries=ends, hot_rows=layout.hot_rows)
        return row_column(
            table,
            choice.places,
            topology.ranks_per_host,
            boundaries=ends,
            hot_rows=layout.hot_rows,
        )

    def contributions(self, choices: Sequence[Choice]) -> FloatArray:
        """[len(choices), num_ranks, len(Metric)]."""
        out = np.empty((len(choices), self._model.topology.num_ranks, len(Metric)))
        for index, choice in enumerate(choices):
            everywhere, lines = self._cost(choice.layout)
            out[index] = everywhere
            if len(lines):
                out[index, self.ranks(choice)] = lines
        return out

    def ranks(self, choice: Choice) -> NDArray[np.int64]:
        """The ranks that hold parts, in the order of the parts; none for data_parallel."""
        places = np.asarray(choice.places, np.int64)
        if choice.layout.kind != "row_column":
            return places
        per_host = self._model.topology.ranks_per_host
        return (places[:, None] * per_host + np.arange(per_host)).ravel()

    def on_least(self, layout: Layout, load: FloatArray) -> Choice:
        """`layout` on the ranks (hosts) with the least `load` [num_ranks], ascending."""
        if layout.kind == "data_parallel":
            return Choice(layout, ())
        if layout.kind == "row_column":
            topology = self._model.topology
            load = load.reshape(topology.num_hosts, topology.ranks_per_host).max(axis=1)
        least = np.argsort(load, kind="stable")[: layout.parts]
        return Choice(layout, tuple(sorted(int(place) for place in least)))

    def _cost(self, layout: Layout) -> tuple[FloatArray, FloatArray]:
        """What every rank has, [len(Metric)], and what the ranks with parts have instead,
        [ranks, len(Metric)]."""
        known = self._lines.get(layout)
        if known is None:
            choice = Choice(
                layout, () if layout.kind == "data_parallel" else tuple(range(layout.parts))
            )
            placement = self.placement(choice)
            everything = self._model.contribution(self.table, placement)
            if layout.kind == "data_parallel":
                known = everything[0], everything[:0]
            else:
                bare = Placement(self.table.name, layout.kind, (), layout.hot_rows)
                everywhere = self._model.contribution(self.table, bare)[0]
                known = everywhere, everything[self.ranks(choice)]
            self._lines[layout] = known
        return known

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
