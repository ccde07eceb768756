"""What several parts need: tables, batches, calls in turns, and a table beside its peers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np

import feedfast as ff
from feedfast import _core
from feedfast.bench import BenchOptions, BenchRow, row

from .peers import Call, Peers

NUM_BAGS = 512
BAG_LENGTH = 50
NUM_BATCHES = 32  # more ids than a cache holds rows of
LINES_IN_FLIGHT = 192

# Ratios; the nanoseconds are those of the limits and peers measured side by side in one day.
TORCH_TARGET = 1 / 1.3
FBGEMM_TARGET = 1 / 2
FBGEMM_SMALL_PAGES_TARGET = 1 / 2.5
THREADS_TARGET = 1.1  # of the probe on as many threads

STORAGE_PEERS = {
    "fp32": ["torch/fp32", "fbgemm/fp32"],
    "fp16": ["fbgemm/fp16"],
    "bf16": ["torch/bf16"],
    "int8": ["fbgemm/int8"],
    "int4": ["fbgemm/int4"],
}


def probe_target(storage: str, rows: int, dim: int, ids: str) -> float | None:
    """Largest ratio to the probe."""
    if storage != "fp32":
        if ids == "zipf":
            return None
        return 5.0 / 4.2 if rows > 1_000_000 else 3.6 / 2.9
    if dim == 64:
        if ids == "zipf":
            return 3.8 / 2.7
        return 7.2 / 6.4 if rows > 1_000_000 else 7.0 / 6.5
    return {16: 4.8 / 4.2, 32: 5.2 / 4.6, 128: 14.8 / 14}[dim]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Table:
    """Rows of bytes [num_rows, row_bytes] in one of STORAGE_PEERS' formats."""

    rows: np.ndarray
    storage: str
    dim: int

    def pooled(self, threads: int) -> Callable[[ff.Bags], np.ndarray]:
        """The mean of each bag."""
        if self.storage.startswith("int"):
            codes = ff.QuantizedTable(self.rows, int(self.storage[3:]), dim=self.dim)
            return lambda bags: codes.pooled_lookup(
                bags.values, bags.offsets, None, "mean", threads
            )
        dtypes = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16}
        table = self.rows.view(dtypes[self.storage])
        dtype: Any = "bf16" if self.storage == "bf16" else None
        return lambda bags: ff.pooled_lookup(
            table, bags.values, bags.offsets, None, "mean", threads, dtype=dtype
        )

    def probe(self, threads: int) -> Callable[[ff.Bags], object]:
        """Reads the rows and pools nothing."""
        return lambda bags: _core.read_rows(
            self.rows, cast(Any, bags.values), lines_in_flight=LINES_IN_FLIGHT, threads=threads
        )


def timed(call: Callable[[ff.Bags], object], batches: list[ff.Bags]) -> Call:
    """`call` on a batch, timed here."""

    def run(i: int) -> float:
        batch = batches[i % len(batches)]
        before = time.perf_counter()
        call(batch)
        return time.perf_counter() - before

    return run


def in_turns(calls: dict[str, Call], options: BenchOptions, turns: int = 8) -> dict[str, float]:
    """The tenth percentile of the seconds of each call, measured in turns.

    In each turn a side makes sixteen calls, the first half untimed: where a cache has held the page
    tables of another side's 2.5 GB, several calls pass until it holds its own. Every call of a turn
    has another batch, so that no cache keeps its rows.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    half = 1 if options.quick else 8
    for turn in range(2 if options.quick else turns):
        for place, (name, call) in enumerate(calls.items()):
            for repeat in range(2 * half):
                seconds = call(turn + repeat + place * (NUM_BATCHES // 3))
                if repeat >= half:
                    times[name].append(seconds)
    return {name: float(np.percentile(taken, 10)) for name, taken in times.items()}


def make_batches(rows: int, ids: str, lengths: np.ndarray, *, seed: int = 0) -> list[ff.Bags]:
    """NUM_BATCHES batches whose bags have `lengths` ids."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(NUM_BATCHES):
        u = rng.random(int(lengths.sum()))
        if ids == "uniform":
            drawn = (u * rows).astype(np.int64)
        else:
            # Inverse of the continuous distribution with density x^-1.05 on [1, rows + 1).
            ranks = (1 - u * (1 - (rows + 1.0) ** -0.05)) ** -20.0
            drawn = np.minimum(ranks.astype(np.int64) - 1, rows - 1) * 611_953 % rows
        batches.append(ff.Bags.from_lengths(drawn, lengths))
    return batches


def equal_lengths() -> np.ndarray:
    return np.full(NUM_BAGS, BAG_LENGTH)


def sizes(options: BenchOptions) -> list[int]:
    """The largest first, which makes the memory for all."""
    return [20_000] if options.quick else [10_000_000, 1_000_000]


def rows_beside(
    path: str,
    taken: dict[str, float],
    names: dict[str, str],
    targets: dict[str, float | None],
    work: int,
) -> Iterator[BenchRow]:
    """A row for `ours` beside each other call."""
    for name, seconds in taken.items():
        if name != "ours":
            yield row(
                f"{path}/vs={name}/p10",
                1e9 * taken["ours"] / work,
                "ns",
                peer=names[name],
                peer_value=1e9 * seconds / work,
                target=targets.get(name),
            )


def compare(
    path: str,
    table: Table,
    ids: str,
    batches: list[ff.Bags],
    options: BenchOptions,
    peers: Peers,
    *,
    huge: bool = True,
) -> Iterator[BenchRow]:
    """`table` beside the probe of its rows and beside each of its peers, one at a time."""
    pool = table.pooled(options.threads)
    ours = timed(pool, batches)
    work = batches[0].values.size
    rows = len(table.rows)
    path = f"{path}/rows={rows}/dim={table.dim}/ids={ids}/threads={options.threads}"
    path = f"{path}/storage={table.storage}"
    target = THREADS_TARGET
    if options.threads == 1:
        target = cast(float, probe_target(table.storage, rows, table.dim, ids))
    calls = {"ours": ours, "probe": timed(table.probe(options.threads), batches)}
    names = {"probe": "rows read without pooling"}
    yield from rows_beside(path, in_turns(calls, options), names, {"probe": target}, work)
    for kind in STORAGE_PEERS[table.storage]:
        peer = peers.setup(kind, rows, table.dim, batches, threads=options.threads, huge=huge)
        if peer is None:
            continue
        # float32 sums in other orders
        np.testing.assert_allclose(pool(batches[0]).sum(dtype=np.float64), peers.total(0), atol=0.1)
        target = FBGEMM_TARGET if huge else FBGEMM_SMALL_PAGES_TARGET
        if kind.startswith("torch/"):
            target = TORCH_TARGET
        calls = {"ours": ours, kind: peer[0]}
        yield from rows_beside(
            path, in_turns(calls, options), {kind: peer[1]}, {kind: target}, work
        )
