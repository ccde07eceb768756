"""Measures the rates of a `Topology` on the machines at hand, through the engine that trains.

Every rank measures the same things at the same time, as in a step, where the ranks of a host share
its cores and its memory; how many really run at once (`workers`) is measured too, and taken out of
the rates. Two row widths separate what a row costs from what its bytes cost. All ranks get the
same topology: the mean of their rates.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from feedfast import _core
from feedfast.comm import Engine
from feedfast.comm.sparse_rows import RowAccumulator
from feedfast.row_optimizers import RowUpdater
from feedfast.sharding.topology import Topology

_NARROW, _WIDE = 8, 64
_NUM_ROWS = 200_000
_NUM_READ = 100_000
_REPEATS = 7
_LATENCY_REPEATS = 30
_TINY = 8
# Of one exchange, what a rank sends to each other.
_EXCHANGE_BYTES = 1 << 20
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
    read = [_row_seconds(engine, rng, dim) for dim in (_NARROW, _WIDE)]
    update = [_update_seconds(engine, rng, dim) for dim in (_NARROW, _WIDE)]
    rates = np.array(
        [
            _id_seconds(engine, rng),
            *_per_row_and_byte(read, [4 * _NARROW, 4 * _WIDE]),
            # A gradient added: read and written; a row updated: weights and one state number.
            *_per_row_and_byte(update, [8 * _NARROW + 4, 8 * _WIDE + 4]),
            _copy_seconds(engine) / _COPY_BYTES,
            _table_seconds(engine),
            _workers(engine, rng),
        ]
    )
    rates = np.mean(engine.all_gather(rates, name="calibrate_rates"), axis=0)
    workers = min(float(per_host), max(1.0, float(rates[-1])))
    crowd = per_host / workers
    of_id, of_row, row_byte, of_update, update_byte, copy_byte, of_table = rates[:-1] / crowd
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
        row_seconds=float(of_row),
        row_bandwidth=1.0 / float(row_byte),
        update_seconds=float(of_update),
        update_bandwidth=1.0 / float(update_byte),
        copy_bandwidth=1.0 / float(copy_byte),
        table_seconds=float(of_table),
        workers=workers,
    )


def _together(engine: Engine, work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Median seconds of `work` while all ranks do it."""
    seconds = []
    for _ in range(repeats):
        engine.barrier(name="calibrate_barrier")
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _per_row_and_byte(seconds: list[float], num_bytes: list[int]) -> tuple[float, float]:
    """(per row, per byte) of a line through the seconds of a narrow and a wide row."""
    per_byte = max(_SMALLEST, (seconds[1] - seconds[0]) / (num_bytes[1] - num_bytes[0]))
    return max(0.0, seconds[0] - per_byte * num_bytes[0]), per_byte


def _row_seconds(engine: Engine, rng: np.random.Generator, dim: int) -> float:
    """Of one row of `dim` numbers read at random."""
    return _together(engine, _reader(rng, dim)) / _NUM_READ


def _reader(rng: np.random.Generator, dim: int) -> Callable[[], object]:
    table = rng.standard_normal((_NUM_ROWS, dim), np.float32)
    rows = rng.integers(0, _NUM_ROWS, _NUM_READ)
    out = np.empty((_NUM_READ, dim), np.float32)
    return lambda: np.take(table, rows, axis=0, out=out, mode="clip")


def _update_seconds(engine: Engine, rng: np.random.Generator, dim: int) -> float:
    """Half of one row gradient of `dim` numbers added to a window and one row updated."""
    table = rng.standard_normal((_NUM_ROWS, dim), np.float32)
    updater = RowUpdater("rowwise_adagrad")
    states = updater.states(table)
    rows = rng.permutation(_NUM_ROWS)[:_NUM_READ]
    gradients = rng.standard_normal((_NUM_READ, dim), np.float32)
    window = RowAccumulator(dim)

    def update() -> None:
        window.add(rows, gradients)
        sums = window.take()
        updater.apply_rows(table, states, sums.rows, sums.sums, learning_rate=0.0, step=1)

    return _together(engine, update) / (2 * _NUM_READ)


def _id_seconds(engine: Engine, rng: np.random.Generator) -> float:
    """Of one id made unique, divided by owner and put back in place."""
    ids = np.minimum(rng.zipf(1.2, _NUM_READ), _NUM_ROWS) - 1
    firsts = np.linspace(0, _NUM_ROWS, engine.size + 1).astype(np.int64)

    def find() -> None:
        unique, positions = _core.unique_rows(ids)
        _, order = _core.partition_rows(unique, firsts)
        rank_of = np.empty_like(order)
        rank_of[order] = np.arange(order.size)
        rank_of[positions]

    return _together(engine, find) / _NUM_READ


def _copy_seconds(engine: Engine) -> float:
    source = np.zeros(_COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    return _together(engine, lambda: np.copyto(target, source))


def _table_seconds(engine: Engine) -> float:
    """Of one table in one pass with next to no rows: an answer assembled, a window of gradients."""
    rows = np.arange(_TINY)
    values = np.ones((_TINY, _NARROW), np.float32)
    window = RowAccumulator(_NARROW)

    def pass_through() -> None:
        out = np.empty((_TINY, _NARROW), np.float32)
        np.take(values, rows, axis=0, out=out, mode="clip")
        np.concatenate([rows, rows])
        window.add(rows, out)
        window.take()

    return _together(engine, pass_through, _LATENCY_REPEATS)


def _workers(engine: Engine, rng: np.random.Generator) -> float:
    """Ranks of a host that run at once: what all do together over what one does alone."""
    read = _reader(rng, _WIDE)
    together = _together(engine, read)
    alone: list[float] = []
    for rank in range(engine.local_size):
        engine.barrier(name="calibrate_barrier")
        if engine.local_rank == rank:
            for _ in range(_REPEATS):
                start = time.perf_counter()
                read()
                alone.append(time.perf_counter() - start)
        engine.barrier(name="calibrate_barrier")
    return engine.local_size * float(np.median(alone)) / together


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
    latency = _together(
        engine, lambda: engine.all_to_all(tiny, name="calibrate_latency"), _LATENCY_REPEATS
    )
    seconds = _together(engine, lambda: engine.all_to_all(large, name="calibrate_bandwidth"))
    sent = (engine.size - 1) * _EXCHANGE_BYTES
    return latency, sent / max(_SMALLEST, seconds - latency)
