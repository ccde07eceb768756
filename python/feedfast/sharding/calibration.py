"""Measures the rates of a `Topology` on the machines at hand, through the engine that trains.

Every rank measures the same things at the same time, as in a step, where the ranks of a host share
its cores and its memory; how many really run at once (`workers`) is measured too, and taken out of
the rates. Two row widths separate what a row costs from what its bytes cost. All ranks get the
same topology: the mean of their rates.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np

from feedfast import _core
from feedfast.bags import FloatArray, IntArray
from feedfast.comm import Engine
from feedfast.comm.sparse_rows import merge_rows
from feedfast.row_optimizers import RowUpdater
from feedfast.sharding.topology import Topology

RowSums = tuple[IntArray, FloatArray]

_NARROW, _WIDE = 8, 64
# A table that no cache holds, and so many sets of rows in turn that each one is cold.
_NUM_ROWS = 1_000_000
_ROW_SETS = 4
_NUM_IDS = 200_000
_NUM_READ = 100_000
_REPEATS = 7
_EXCHANGES = 50
_TABLES = 500
_TINY = 8
# Of the work that shows how many ranks run at once: long beside a barrier.
_FINDS = 8
_WORKER_REPEATS = 15
# Of one exchange, what a rank sends to each other.
_EXCHANGE_BYTES = 4 << 20
_COPY_BYTES = 16 << 20
_SMALLEST = 1e-12


def calibrate(engine: Engine, *, memory_bytes: int, name: str = "measured") -> Topology:
    """The rates of this job's processes; about 20 s. Collective.

    Args:
        engine: Of all ranks; hosts have `engine.local_size` ranks each.
        memory_bytes: What one rank may use for tables, states and exchange buffers.
        name: Of the topology.

    Raises:
        ValueError: Hosts have different numbers of ranks.
        RuntimeError: As the engine.
    """
    per_host = engine.local_size
    if engine.size % per_host:
        raise ValueError(f"{engine.size} ranks are not hosts of {per_host} ranks each")
    hosts = engine.size // per_host
    rng = np.random.default_rng(engine.rank)
    find = _finder(rng)
    read = [_row_seconds(engine, rng, dim) for dim in (_NARROW, _WIDE)]
    gradients = np.array([_gradient_seconds(engine, rng, dim) for dim in (_NARROW, _WIDE)])
    # A gradient is read and written; a row with weights, gradient and one state number as well.
    moved = [8 * _NARROW, 8 * _WIDE]
    rates = np.array(
        [
            _together(engine, find) / _NUM_READ,
            *_per_row_and_byte(read, [4 * _NARROW, 4 * _WIDE]),
            *_per_row_and_byte(gradients[:, 0], moved),
            *_per_row_and_byte(gradients[:, 1], moved),
            *_per_row_and_byte(gradients[:, 2], [num_bytes + 8 for num_bytes in moved]),
            _copy_seconds(engine) / _COPY_BYTES,
            _table_seconds(engine),
            _workers(engine, lambda: [find() for _ in range(_FINDS)]),
        ]
    )
    rates = np.mean(engine.all_gather(rates, name="calibrate_rates"), axis=0)
    workers = min(float(per_host), max(1.0, float(rates[-1])))
    crowd = per_host / workers
    of_id, *pairs, copy_byte, of_table = rates[:-1] / crowd
    of_row, of_window, of_sum, of_update = np.reshape(pairs, (4, 2))
    local_latency, local_bandwidth = _link(_neighbours(engine, hosts))
    local_bandwidth *= crowd
    host_latency, host_bandwidth = local_latency, local_bandwidth
    if hosts > 1:
        host_latency, host_bandwidth = _link(_counterparts(engine))
    links = np.array([local_latency, local_bandwidth, host_latency, host_bandwidth])
    links = np.mean(engine.all_gather(links, name="calibrate_links"), axis=0)
    return Topology(
        name=name,
        source="measured",
        num_hosts=hosts,
        ranks_per_host=per_host,
        memory_bytes=memory_bytes,
        local_latency=float(links[0]),
        local_bandwidth=float(links[1]),
        host_latency=float(links[2]),
        host_bandwidth=float(links[3]),
        id_seconds=float(of_id),
        row_seconds=float(of_row[0]),
        row_bandwidth=1.0 / float(of_row[1]),
        window_seconds=float(of_window[0]),
        window_bandwidth=1.0 / float(of_window[1]),
        sum_seconds=float(of_sum[0]),
        sum_bandwidth=1.0 / float(of_sum[1]),
        update_seconds=float(of_update[0]),
        update_bandwidth=1.0 / float(of_update[1]),
        copy_bandwidth=1.0 / float(copy_byte),
        table_seconds=float(of_table),
        workers=workers,
    )


def _together(engine: Engine, work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Median seconds until all ranks have done `work`: a rank that waits for a core counts too."""
    seconds = []
    for _ in range(repeats):
        engine.barrier(name="calibrate_barrier")
        start = time.perf_counter()
        work()
        engine.barrier(name="calibrate_barrier")
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _per_row_and_byte(
    seconds: Sequence[float] | FloatArray, num_bytes: Sequence[int]
) -> tuple[float, float]:
    """(per row, per byte) of a line through the seconds of a narrow and a wide row."""
    per_byte = max(_SMALLEST, float(seconds[1] - seconds[0]) / (num_bytes[1] - num_bytes[0]))
    return max(0.0, float(seconds[0]) - per_byte * num_bytes[0]), per_byte


def _row_seconds(engine: Engine, rng: np.random.Generator, dim: int) -> float:
    """Of one row of `dim` numbers read at random."""
    table = np.ones((_NUM_ROWS, dim), np.float32)
    rows = itertools.cycle([_some_rows(rng) for _ in range(_ROW_SETS)])
    out = np.empty((_NUM_READ, dim), np.float32)
    seconds = _together(engine, lambda: _core.gather_rows(table, next(rows), out))
    return seconds / _NUM_READ


def _gradient_seconds(
    engine: Engine, rng: np.random.Generator, dim: int
) -> tuple[float, float, float]:
    """Of one row gradient of `dim` numbers: taken from a rank's window and packed; unpacked and
    added by its owner; its row updated."""
    table = np.ones((_NUM_ROWS, dim), np.float32)
    updater = RowUpdater("rowwise_adagrad")
    states = updater.states(table)
    gradients = rng.standard_normal((_NUM_READ, dim), np.float32)
    # Two sources that have half of their rows in common, each in ascending order.
    some = np.arange(0, 2 * _NUM_READ, 2)
    others = np.arange(_NUM_READ)
    received = [_packed(rows, gradients) for rows in (some, others)]

    def pack() -> None:
        _packed(some, gradients)

    def add() -> RowSums:
        lists = [
            (
                message[:_NUM_READ].view(np.int32).astype(np.int64),
                message[_NUM_READ:].reshape(_NUM_READ, dim),
            )
            for message in received
        ]
        rows, sums = merge_rows(lists, dim, scale=0.5)
        np.einsum("ij,ij->i", sums, sums)
        return rows, sums

    _, sums = add()
    updated = itertools.cycle([_some_rows(rng) for _ in range(_ROW_SETS)])

    def update() -> None:
        gradient = sums[:_NUM_READ]
        updater.apply_rows(table, states, next(updated), gradient, learning_rate=0.0, step=1)

    packing, adding, updating = (_together(engine, work) for work in (pack, add, update))
    return packing / _NUM_READ, adding / (2 * _NUM_READ), updating / _NUM_READ


def _some_rows(rng: np.random.Generator) -> IntArray:
    """[_NUM_READ] rows, ascending, each once."""
    return np.sort(rng.choice(_NUM_ROWS, _NUM_READ, replace=False))


def _packed(rows: IntArray, values: FloatArray) -> FloatArray:
    """One message of row numbers and values."""
    return np.concatenate([rows.astype(np.int32).view(np.float32), values.ravel()])


def _finder(rng: np.random.Generator) -> Callable[[], object]:
    """Ids made unique, with the place of each among them."""
    ids = rng.integers(0, _NUM_IDS, _NUM_READ)
    distinct = _core.DistinctRows()
    return lambda: distinct.find(ids)


def _copy_seconds(engine: Engine) -> float:
    """Of `_COPY_BYTES` copied into memory that is new, as that of messages is."""
    source = np.zeros(_COPY_BYTES, np.uint8)
    return _together(engine, source.copy)


def _table_seconds(engine: Engine) -> float:
    """Of one table in one pass with next to no rows: an answer assembled, a window of gradients."""
    rows = np.arange(_TINY)
    values = np.ones((_TINY, _NARROW), np.float32)

    def pass_through() -> None:
        for _ in range(_TABLES):
            out = np.empty((_TINY, _NARROW), np.float32)
            np.take(values, rows, axis=0, out=out, mode="clip")
            _packed(rows, out)

    return _together(engine, pass_through) / _TABLES


def _workers(engine: Engine, work: Callable[[], object]) -> float:
    """Ranks of a host that run at once: what all do together over what one does alone, in turns."""
    together: list[float] = []
    alone: list[float] = []
    for _ in range(_WORKER_REPEATS):
        together.append(_together(engine, work, repeats=1))
        for rank in range(engine.local_size):
            engine.barrier(name="calibrate_barrier")
            if engine.local_rank == rank:
                start = time.perf_counter()
                work()
                alone.append(time.perf_counter() - start)
            engine.barrier(name="calibrate_barrier")
    return engine.local_size * float(np.median(alone)) / float(np.median(together))


def _neighbours(engine: Engine, hosts: int) -> Engine:
    """The ranks of this host."""
    if hosts == 1:
        return engine
    found = None
    for host in range(hosts):
        first = host * engine.local_size
        group = engine.subgroup(
            range(first, first + engine.local_size), name=f"calibrate_host_{host}"
        )
        found = group if group is not None else found
    assert found is not None
    return found


def _counterparts(engine: Engine) -> Engine:
    """The ranks with this local number on all hosts."""
    found = None
    for local_rank in range(engine.local_size):
        group = engine.subgroup(
            range(local_rank, engine.size, engine.local_size),
            name=f"calibrate_local_rank_{local_rank}",
        )
        found = group if group is not None else found
    assert found is not None
    return found


def _link(engine: Engine) -> tuple[float, float]:
    """Latency and bytes per second of an all-to-all."""
    if engine.size == 1:
        return 0.0, 1.0 / _SMALLEST
    tiny = [np.zeros(1, np.uint8)] * engine.size
    large = [np.zeros(_EXCHANGE_BYTES, np.uint8)] * engine.size

    def exchange_tiny() -> None:
        for _ in range(_EXCHANGES):
            engine.all_to_all(tiny, name="calibrate_latency")

    def exchange_large() -> None:
        engine.all_to_all(large, name="calibrate_bandwidth")

    latency = _together(engine, exchange_tiny) / _EXCHANGES
    seconds = _together(engine, exchange_large)
    sent = (engine.size - 1) * _EXCHANGE_BYTES
    return latency, sent / max(_SMALLEST, seconds - latency)
