"""Seconds of a training step and bytes of memory of a plan; docs/sharding.md has the formulas.

What a table costs is linear in its shards: `contribution` gives, for one placement, an array
[num_ranks, number of metrics] and the arrays of all tables add up. A step is a chain of phases that
end together (every exchange waits for the last rank), so its time is the sum over the phases of
the slowest rank's: `part_seconds`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from feedfast.sharding.placement import Placement
from feedfast.sharding.sharding_plan import ShardingPlan
from feedfast.sharding.skew import FloatArray, IntArray, distinct_rows, lookup_share
from feedfast.sharding.table_shape import TableShape
from feedfast.sharding.topology import Topology

Exchange = Literal["rows", "pooled"]

_ID_BYTES = 4
_POOLED_ID_BYTES = 8
_GRADIENT_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What a step does beside the tables.

    Attributes:
        batch_per_rank: Examples of a micro-batch on one rank.
        window: Micro-batches between two updates.
        exchange: "rows": every rank sends each different id once, gets its row and pools itself
            (`ShardedEmbedding`). "pooled": all ids go to the owners, pooled vectors come back
            (TorchRec, distributed-embeddings).
        wire_bytes: Of an exchanged number: 4, or 2 for bfloat16.
        dense_seconds: Forward and backward of everything else, of one micro-batch on one rank.
        dense_bytes: Of the replicated gradients that are summed over the ranks at each update.
    """

    batch_per_rank: int
    window: int = 1
    exchange: Exchange = "rows"
    wire_bytes: int = 4
    dense_seconds: float = 0.0
    dense_bytes: int = 0

    def __post_init__(self) -> None:
        for what, value in (("batch_per_rank", self.batch_per_rank), ("window", self.window)):
            if value < 1:
                raise ValueError(f"workload: {what} must be >= 1; got {value}")
        if self.exchange not in ("rows", "pooled"):
            raise ValueError(
                f"workload: exchange must be 'rows' or 'pooled'; got {self.exchange!r}"
            )
        if self.wire_bytes not in (2, 4):
            raise ValueError(f"workload: wire_bytes must be 2 or 4; got {self.wire_bytes}")
        if not (math.isfinite(self.dense_seconds) and self.dense_seconds >= 0):
            raise ValueError(
                f"workload: dense_seconds must be finite and >= 0; got {self.dense_seconds}"
            )
        if self.dense_bytes < 0:
            raise ValueError(f"workload: dense_bytes must be >= 0; got {self.dense_bytes}")


class Metric(IntEnum):
    """Columns of a contribution; per rank."""

    SOURCE_SECONDS = 0  # of a micro-batch: own ids made unique, rows pooled, gradients spread
    ID_BYTES = 1  # of a micro-batch, from each source to this owner
    LOOKUP_SECONDS = 2  # of a micro-batch, as owner
    ROW_BYTES = 3  # of a micro-batch, from this owner to each source
    REDUCE_BYTES = 4  # of a micro-batch, partial sums within the host (pooled, row_column)
    GRADIENT_BYTES = 5  # of a window, from each source to this owner
    UPDATE_SECONDS = 6  # of a window: sums of row gradients and optimizer
    REPLICA_GATHER_BYTES = 7  # of a window: row gradients of replicas, gathered by all
    REPLICA_SUM_BYTES = 8  # of a window: dense gradients of replicas, summed over all
    ROW_SQUARE_BYTES = 9  # of a window, per other rank: row-wise rules divided by columns
    WINDOW_SECONDS = 10  # of a window: own row gradients added and packed
    MEMORY_BYTES = 11  # weights, optimizer state, exchange buffers


_EXCHANGED = (
    *(Metric.ID_BYTES, Metric.ROW_BYTES),
    *(Metric.GRADIENT_BYTES, Metric.ROW_SQUARE_BYTES),
)

PARTS: tuple[str, ...] = (
    *("source", "id exchange", "lookup", "row exchange"),
    *("gradient exchange", "update", "replica exchange", "dense"),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Parts:
    """Parts of one table that are not on ranks yet; of one placement or of many.

    Attributes:
        row_begin, row_end: [parts] rows of each.
        columns: [parts] its columns.
        row_ranges, column_ranges: [parts] into how many its placement divides rows and columns.
        within_host: [parts] whether the ranges of rows are on one host (row_column).
    """

    row_begin: IntArray
    row_end: IntArray
    columns: IntArray
    row_ranges: IntArray
    column_ranges: IntArray
    within_host: NDArray[np.bool_]


class CostModel:
    """Costs of placements on one topology under one workload."""

    def __init__(self, topology: Topology, workload: Workload) -> None:
        self.topology = topology
        self.workload = workload

    def contribution(self, table: TableShape, placement: Placement) -> FloatArray:
        """[num_ranks, len(Metric)]: what `placement` of `table` adds to each rank."""
        total = np.zeros((self.topology.num_ranks, len(Metric)))
        if placement.kind == "data_parallel":
            total += self.everywhere(table, hot_rows=table.rows)
            return total
        shards = placement.shards
        columns = len(placement.column_ranges)
        total += self.everywhere(table, hot_rows=placement.hot_rows, column_ranges=columns)
        count = len(shards)
        parts = Parts(
            row_begin=np.array([shard.row_begin for shard in shards], np.int64),
            row_end=np.array([shard.row_end for shard in shards], np.int64),
            columns=np.array([shard.columns for shard in shards], np.int64),
            row_ranges=np.full(count, len(placement.row_ranges)),
            column_ranges=np.full(count, columns),
            within_host=np.full(count, placement.kind == "row_column"),
        )
        total[[shard.rank for shard in shards]] += self.owned(table, parts)
        return total

    def everywhere(self, table: TableShape, *, hot_rows: int, column_ranges: int = 1) -> FloatArray:
        """[len(Metric)]: what `table` adds to every rank, whoever owns it.

        Args:
            table: The table.
            hot_rows: Rows on every rank; all of them: a data-parallel table.
            column_ranges: Into how many the columns of the others are divided.
        """
        line = np.zeros(len(Metric))
        if hot_rows:
            self._add_replica(line, table, hot_rows)
        if hot_rows == table.rows:
            return line
        if self.workload.exchange == "pooled":
            line[Metric.SOURCE_SECONDS] += 2.0 * self.topology.table_seconds
            return line
        work, first = self.workload, hot_rows
        ids = work.batch_per_rank * table.lookups_per_example
        cold = lookup_share(table, first, table.rows) if first else 1.0
        own = distinct_rows(table, ids, first, table.rows)
        own_window = distinct_rows(table, ids * work.window, first, table.rows)
        # Rows that came are put in place, those of several ranges of columns piece by piece.
        line[Metric.SOURCE_SECONDS] += self._source(table, ids * cold) + own * (
            (column_ranges - 1) * self.topology.row_seconds
            + table.dim * _GRADIENT_BYTES / self.topology.copy_bandwidth
        )
        line[Metric.WINDOW_SECONDS] += self._window(table, own_window, own, column_ranges)
        line[Metric.MEMORY_BYTES] += own * table.dim * work.wire_bytes + 2.0 * own_window * (
            _ID_BYTES + table.dim * _GRADIENT_BYTES
        )
        return line

    def owned(self, table: TableShape, parts: Parts) -> FloatArray:
        """[parts, len(Metric)]: what the owner of each part has beside `everywhere`."""
        lines = np.zeros((parts.columns.size, len(Metric)))
        if self.workload.exchange == "rows":
            self._add_rows(lines, table, parts)
        else:
            self._add_pooled(lines, table, parts)
        lines[:, Metric.MEMORY_BYTES] += table.part_bytes(
            parts.row_end - parts.row_begin, parts.columns
        )
        return lines

    def part_seconds(self, totals: FloatArray) -> FloatArray:
        """Seconds of each of `PARTS` in a micro-batch, those of a window divided by its length.

        Args:
            totals: [..., num_ranks, len(Metric)], contributions added up.

        Returns:
            [..., len(PARTS)].
        """
        window = self.workload.window
        dense = np.full(totals.shape[:-2], self.workload.dense_seconds)
        replicas = self._gather_seconds(totals[..., 0, Metric.REPLICA_GATHER_BYTES])
        replicas = replicas + self._sum_seconds(
            totals[..., 0, Metric.REPLICA_SUM_BYTES] + self.workload.dense_bytes
        )
        ranks_first = np.moveaxis(totals, -2, 0)
        source, lookup, update, local = self._slowest(
            np.stack(
                [
                    ranks_first[..., Metric.SOURCE_SECONDS]
                    + ranks_first[..., Metric.WINDOW_SECONDS] / window,
                    ranks_first[..., Metric.LOOKUP_SECONDS],
                    ranks_first[..., Metric.UPDATE_SECONDS],
                    ranks_first[..., Metric.REDUCE_BYTES] / self.topology.local_bandwidth,
                ],
                axis=1,
            )
        )
        ids, rows, gradients, squares = self._exchange_seconds(
            np.stack([ranks_first[..., metric] for metric in _EXCHANGED], axis=1)
        )
        return np.stack(
            [
                source,
                ids,
                lookup,
                rows + local,
                (gradients + squares) / window,
                update / window,
                replicas / window,
                dense,
            ],
            axis=-1,
        )

    def _slowest(self, seconds: FloatArray) -> FloatArray:
        """[num_ranks, ...] -> [...]: until the last rank is done, ranks of a host sharing cores."""
        longest: FloatArray = seconds.max(axis=0)
        if self.topology.workers < self.topology.ranks_per_host:
            shared = self._by_host(seconds).sum(axis=1).max(axis=0) / self.topology.workers
            longest = np.maximum(longest, shared)
        return longest

    def _exchange_seconds(self, out: FloatArray) -> FloatArray:
        """All-to-all in which rank r sends out[r, ...] bytes to every rank (or gets them)."""
        topology = self.topology
        ranks, per_host = topology.num_ranks, topology.ranks_per_host
        if ranks == 1:
            return np.zeros(out.shape[1:])
        hosts = self._by_host(out)
        of_host, most = hosts.sum(axis=1), hosts.max(axis=1)
        # Sent by the rank that sends most; received by the one that keeps least for itself.
        busy = np.maximum((per_host - 1) * most, of_host - hosts.min(axis=1))
        shared = (per_host - 1) * of_host / topology.workers
        seconds = np.maximum(busy, shared).max(axis=0) / topology.local_bandwidth
        largest = most.max(axis=0)
        if topology.num_hosts > 1:
            received = of_host.sum(axis=0) - of_host.min(axis=0)
            across = np.maximum((ranks - per_host) * largest, received)
            seconds = np.maximum(seconds, across / topology.host_bandwidth)
        return np.where(largest > 0, seconds + self._latency, 0.0)

    def _gather_seconds(self, num_bytes: FloatArray) -> FloatArray:
        """All-gather of `num_bytes` from every rank."""
        topology = self.topology
        per_host = topology.ranks_per_host
        crowd = max(1.0, per_host / topology.workers)
        seconds = (per_host - 1) * num_bytes * crowd / topology.local_bandwidth
        across = (topology.num_ranks - per_host) * num_bytes / topology.host_bandwidth
        busy = np.maximum(seconds, across) + self._latency
        return np.where((num_bytes > 0) & (topology.num_ranks > 1), busy, 0.0)

    def _sum_seconds(self, num_bytes: FloatArray) -> FloatArray:
        """All-reduce of `num_bytes`: scattered sums within the host, across hosts, gathered."""
        topology = self.topology
        per_host, hosts = topology.ranks_per_host, topology.num_hosts
        crowd = max(1.0, per_host / topology.workers)
        seconds = 2.0 * (per_host - 1) / per_host * num_bytes * crowd / topology.local_bandwidth
        across = 2.0 * (hosts - 1) / hosts * num_bytes / per_host / topology.host_bandwidth
        busy = seconds + across + self._latency
        return np.where((num_bytes > 0) & (topology.num_ranks > 1), busy, 0.0)

    @property
    def _latency(self) -> float:
        topology = self.topology
        return topology.host_latency if topology.num_hosts > 1 else topology.local_latency

    def _by_host(self, ranks: FloatArray) -> FloatArray:
        topology = self.topology
        return ranks.reshape(topology.num_hosts, topology.ranks_per_host, *ranks.shape[1:])

    def _add_replica(self, line: FloatArray, table: TableShape, rows: int) -> None:
        """Rows [0, rows) on every rank: read and pooled at home, gradients exchanged by all."""
        work, ranks = self.workload, self.topology.num_ranks
        ids = work.batch_per_rank * table.lookups_per_example
        share = 1.0 if rows == table.rows else lookup_share(table, 0, rows)
        seen = distinct_rows(table, ids * work.window, 0, rows)
        once = distinct_rows(table, ids, 0, rows)
        updated = distinct_rows(table, ids * work.window * ranks, 0, rows)
        gather = seen * (_ID_BYTES + table.dim * work.wire_bytes)
        dense = rows * table.dim * work.wire_bytes
        # As `AccumulatingGradientTape` decides: all-gather when it moves fewer bytes.
        if ranks > 1 and (ranks - 1) * gather < 2.0 * (ranks - 1) / ranks * dense:
            line[Metric.REPLICA_GATHER_BYTES] += gather
            summed = ranks * seen
        else:
            line[Metric.REPLICA_SUM_BYTES] += dense if ranks > 1 else 0.0
            summed, updated = seen, float(rows) if ranks > 1 else updated
        row = float(self._row(np.array(table.dim * table.bytes_per_element)))
        line[Metric.SOURCE_SECONDS] += self._source(table, ids * share) + once * row
        copies = ranks if summed > seen else 1
        line[Metric.WINDOW_SECONDS] += self._window(table, seen, once, copies=copies)
        columns = np.array([table.dim])
        line[Metric.UPDATE_SECONDS] += self._update(
            table, columns, np.array([summed]), np.array([updated])
        )[0]
        line[Metric.MEMORY_BYTES] += table.part_bytes(rows, table.dim) + summed * (
            _ID_BYTES + table.dim * _GRADIENT_BYTES
        )

    def _add_rows(self, lines: FloatArray, table: TableShape, parts: Parts) -> None:
        """Unique ids in, rows out; unique row gradients in and the optimizer once a window."""
        work, topology = self.workload, self.topology
        ranks = topology.num_ranks
        ids = work.batch_per_rank * table.lookups_per_example
        row_bytes = parts.columns * work.wire_bytes
        rows = (parts.row_begin, parts.row_end)
        seen = distinct_rows(table, ids, *rows)
        in_window = distinct_rows(table, ids * work.window, *rows)
        updated = distinct_rows(table, ids * work.window * ranks, *rows)
        lines[:, Metric.ID_BYTES] = seen * _ID_BYTES
        lines[:, Metric.ROW_BYTES] = seen * row_bytes
        lines[:, Metric.GRADIENT_BYTES] = in_window * (_ID_BYTES + row_bytes)
        lines[:, Metric.LOOKUP_SECONDS] = topology.table_seconds + ranks * seen * (
            self._row(parts.columns * table.bytes_per_element) + row_bytes / topology.copy_bandwidth
        )
        lines[:, Metric.UPDATE_SECONDS] = topology.table_seconds + self._update(
            table, parts.columns, ranks * in_window, updated
        )
        if table.optimizer.startswith("rowwise_"):
            others = parts.column_ranges - 1
            lines[:, Metric.ROW_SQUARE_BYTES] = updated * _GRADIENT_BYTES * others / ranks
            # Squares of the own columns, then those of each other rank added.
            lines[:, Metric.UPDATE_SECONDS] += others * updated * topology.row_seconds
        lines[:, Metric.MEMORY_BYTES] = ranks * (
            seen * row_bytes + in_window * (_ID_BYTES + parts.columns * _GRADIENT_BYTES)
        )

    def _add_pooled(self, lines: FloatArray, table: TableShape, parts: Parts) -> None:
        """All ids in, pooled vectors out, their gradients in again; each micro-batch."""
        work, topology = self.workload, self.topology
        ranks, batch = topology.num_ranks, work.batch_per_rank
        ids = batch * table.lookups_per_example
        rows = (parts.row_begin, parts.row_end)
        share = np.where(
            parts.row_end - parts.row_begin == table.rows, 1.0, lookup_share(table, *rows)
        )
        read = ranks * ids * share
        vectors = (batch * work.wire_bytes) * parts.columns.astype(np.float64)
        # Of row_column, partial sums meet within the host first, then one of them crosses.
        pooled = np.where(parts.within_host, vectors / parts.row_ranges, vectors)
        updated = distinct_rows(table, ranks * ids * work.window, *rows)
        lines[:, Metric.ID_BYTES] = ids * share * _POOLED_ID_BYTES
        lines[:, Metric.REDUCE_BYTES] = 2.0 * ranks * (vectors - pooled)
        lines[:, Metric.ROW_BYTES] = pooled
        lines[:, Metric.GRADIENT_BYTES] = pooled * work.window
        lines[:, Metric.LOOKUP_SECONDS] = (
            topology.table_seconds
            + read * self._row(parts.columns * table.bytes_per_element)
            + ranks * pooled / topology.copy_bandwidth
        )
        lines[:, Metric.UPDATE_SECONDS] = topology.table_seconds * work.window + self._update(
            table, parts.columns, read * work.window, updated
        )
        lines[:, Metric.MEMORY_BYTES] = 2.0 * ranks * (ids * share * _POOLED_ID_BYTES + pooled)

    def _row(self, num_bytes: IntArray) -> FloatArray:
        return self.topology.row_seconds + num_bytes / self.topology.row_bandwidth

    def _source(self, table: TableShape, ids: float) -> float:
        """`ids` made unique and pooled, gradients spread to the rows."""
        topology, row_bytes = self.topology, table.dim * _GRADIENT_BYTES
        of_id = topology.id_seconds + 3 * row_bytes / topology.row_bandwidth
        return ids * of_id + 2.0 * topology.table_seconds

    def _window(
        self, table: TableShape, own: float, added: float, columns: int = 1, copies: int = 1
    ) -> float:
        """The `own` row gradients of a rank's window packed as so many ranges of columns for so
        many receivers; in a window of several micro-batches those of each, `added`, are added."""
        topology, row_bytes = self.topology, table.dim * _GRADIENT_BYTES
        window = self.workload.window
        sums = window * added if window > 1 else 0.0
        return sums * (topology.sum_seconds + 2 * row_bytes / topology.sum_bandwidth) + own * (
            topology.window_seconds
            + (columns - 1) * topology.row_seconds
            + 2 * row_bytes / topology.window_bandwidth
            + (copies - 1) * row_bytes / topology.copy_bandwidth
        )

    def _update(
        self, table: TableShape, columns: IntArray, summed: FloatArray, updated: FloatArray
    ) -> FloatArray:
        """`summed` row gradients unpacked and added, then `updated` rows and states written."""
        topology = self.topology
        state = columns * table.bytes_per_element + table.state_row_bytes(columns)
        of_sum = topology.sum_seconds + 2 * columns * _GRADIENT_BYTES / topology.sum_bandwidth
        of_row = topology.update_seconds + 2 * state / topology.update_bandwidth
        return summed * of_sum + updated * of_row


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """What a plan is expected to cost.

    Attributes:
        part_seconds: By name of `PARTS`; of a micro-batch, what a window does once divided by its
            micro-batches.
        memory_bytes: [num_ranks] weights, optimizer state and exchange buffers.
        load_seconds: [num_ranks] lookups and updates as an owner, of a micro-batch.
        sent_bytes: [num_ranks] rows sent as an owner to other ranks, of a micro-batch.
        examples_per_second: Of all ranks.
    """

    part_seconds: dict[str, float]
    memory_bytes: FloatArray
    load_seconds: FloatArray
    sent_bytes: FloatArray
    examples_per_second: float

    @property
    def step_seconds(self) -> float:
        """Seconds of a micro-batch."""
        return sum(self.part_seconds.values())

    @property
    def imbalance(self) -> float:
        """Largest load over mean load, minus 1; 0 when no rank owns anything."""
        mean = float(self.load_seconds.mean())
        return float(self.load_seconds.max()) / mean - 1.0 if mean > 0 else 0.0


def summarize(model: CostModel, totals: FloatArray) -> Prediction:
    """The prediction for contributions added up, [num_ranks, len(Metric)]."""
    parts = model.part_seconds(totals)
    work = model.workload
    ranks = model.topology.num_ranks
    step = float(parts.sum())
    examples = ranks * work.batch_per_rank
    return Prediction(
        part_seconds=dict(zip(PARTS, map(float, parts), strict=True)),
        memory_bytes=totals[:, Metric.MEMORY_BYTES].copy(),
        load_seconds=totals[:, Metric.LOOKUP_SECONDS]
        + totals[:, Metric.UPDATE_SECONDS] / work.window,
        sent_bytes=totals[:, Metric.ROW_BYTES] * (ranks - 1),
        examples_per_second=examples / step if step > 0 else math.inf,
    )


def predict(plan: ShardingPlan, topology: Topology, workload: Workload) -> Prediction:
    """What `plan` costs on `topology` under `workload`.

    Raises:
        ValueError: The plan is for another number of ranks or hosts.
    """
    found = (plan.num_hosts, plan.ranks_per_host)
    wanted = (topology.num_hosts, topology.ranks_per_host)
    if found != wanted:
        raise ValueError(
            f"the plan is for {found[0]} hosts of {found[1]} ranks, "
            f"the topology has {wanted[0]} of {wanted[1]}"
        )
    model = CostModel(topology, workload)
    return summarize(model, total_of(model, plan.tables, plan.placements))


def total_of(
    model: CostModel, tables: Sequence[TableShape], placements: Sequence[Placement]
) -> FloatArray:
    """[num_ranks, len(Metric)]: the contributions of all tables."""
    total = np.zeros((model.topology.num_ranks, len(Metric)))
    for table, placement in zip(tables, placements, strict=True):
        total += model.contribution(table, placement)
    return total
