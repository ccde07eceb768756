"""Pooled lookups beside a probe of the memory, numpy, TensorFlow, torch and FBGEMM.

Bags of 50 ids (or ragged ones of mean 1, 10 and 50), fresh ids in every call, uniform or
Zipf-distributed with exponent 1.05; pooling is mean; times are per looked-up row and the tenth
percentile of the calls of each side, because neighbours on the machine and the threads that a
`tf.function` wakes only ever add to a call of a third of a millisecond. `vs=probe` reads
the same rows in the same order with prefetch and without pooling, which is what the memory allows.
torch and FBGEMM run in the interpreter that FEEDFAST_LOOKUP_PEERS names (benchmarks/peers/
lookup_torch.py), call by call in turns with feedfast; without it their rows are left out, with a
line that says so. Tables are the same bytes on both sides, in pages of 2 MiB but for the part
`pages`. Each part for `--only` takes less than two minutes: float32, storage, pages, threads,
ragged, features, tensorflow, fixed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

import feedfast as ff
from feedfast import _core
from feedfast.bench import BenchOptions, BenchRow, row

NUM_BAGS = 512
BAG_LENGTH = 50
NUM_BATCHES = 32  # more ids than a cache holds rows of
PEERS_VARIABLE = "FEEDFAST_LOOKUP_PEERS"
PEERS = Path(__file__).parents[1] / "peers"
PEERS_SCRIPT = PEERS / "lookup_torch.py"
LINES_IN_FLIGHT = 192

# Ratios; the nanoseconds are those of the limits and peers measured side by side in one day.
TORCH_TARGET = 1 / 1.3
FBGEMM_TARGET = 1 / 2
FBGEMM_SMALL_PAGES_TARGET = 1 / 2.5
TENSORFLOW_TARGET = 1 / 10
THREADS_TARGET = 1.1  # of the probe on as many threads
# torch takes 6 us for a call, feedfast may take 3; a call of a tf.function takes 125, one more op
# in it may take 10.
FIXED_TARGET = 3 / 6
ONE_MORE_OP_TARGET = 10 / 125

STORAGE_PEERS = {
    "fp32": ["torch/fp32", "fbgemm/fp32"],
    "fp16": ["fbgemm/fp16"],
    "bf16": ["torch/bf16"],
    "int8": ["fbgemm/int8"],
    "int4": ["fbgemm/int4"],
}

_spec = importlib.util.spec_from_file_location("lookup_tables", PEERS / "lookup_tables.py")
assert _spec is not None
assert _spec.loader is not None
lookup_tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lookup_tables)

Call = Callable[[int], float]  # times the call on batch i; seconds


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


def run(options: BenchOptions) -> Iterator[BenchRow]:
    parts = {
        "float32": _float32,
        "storage": _storage,
        "pages": _pages,
        "threads": _threads,
        "ragged": _ragged,
        "features": _features,
        "tensorflow": _tensorflow,
        "fixed": _fixed,
    }
    if options.only is not None and options.only not in parts:
        raise ValueError(f"--only {options.only}: lookup has the parts {', '.join(parts)}")
    for name, part in parts.items():
        if options.only in (None, name):
            with Peers() as peers:  # of one part, so that its tables are gone with it
                yield from part(options, peers)


class Peers:
    """The process of benchmarks/peers/lookup_torch.py, where there is an interpreter for it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[str] | None = None
        self._room = 0  # bytes of the largest tables so far, which the process keeps
        interpreter = os.environ.get(PEERS_VARIABLE)
        if interpreter is None:
            logging.getLogger("feedfast.bench").warning(
                "torch and FBGEMM are not measured: %s names no interpreter", PEERS_VARIABLE
            )
            return
        self._process = subprocess.Popen(
            [interpreter, str(PEERS_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
        self._folder.cleanup()

    def setup(
        self,
        kind: str,
        rows: int,
        dim: int,
        batches: list[ff.Bags],
        *,
        threads: int,
        tables: int = 1,
        huge: bool = True,
    ) -> tuple[Call, str] | None:
        """A call of `kind` on these bags and the package behind it.

        None: there is no process, or no memory for its own copy of the tables.
        """
        if self._process is None:
            return None
        size = tables * rows * lookup_tables.row_bytes(kind.split("/")[1], dim)
        if size > self._room and size - self._room > available_memory() - (1 << 30):
            logging.getLogger("feedfast.bench").warning(
                "%s is not measured with %d rows of %d: no memory for its copy", kind, rows, dim
            )
            return None
        self._room = max(self._room, size)
        path = Path(self._folder.name) / "batches.npz"
        lengths = {batch.values.size for batch in batches}
        if len(lengths) != 1:
            raise ValueError(f"peers take batches of one size; got {lengths}")
        np.savez(path, values=[batch.values for batch in batches], offsets=batches[0].offsets)
        answer = self._ask(
            setup=kind,
            rows=rows,
            dim=dim,
            tables=tables,
            huge=huge,
            threads=threads,
            batches=str(path),
        )
        return lambda i: self._ask(run=i)["seconds"], answer["package"]

    def total(self, batch: int) -> float:
        """The sum of the output for a batch."""
        return cast(float, self._ask(run=batch)["sum"])

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {PEERS_SCRIPT.name} ended; see its messages above")
        return cast(dict[str, Any], json.loads(line))


def available_memory() -> int:
    """Bytes that the system can give without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvail")) << 10


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


def _sizes(options: BenchOptions) -> list[int]:
    """The largest first, which makes the memory for all."""
    return [20_000] if options.quick else [10_000_000, 1_000_000]


def _rows(
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


def _compare(
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
    yield from _rows(path, in_turns(calls, options), names, {"probe": target}, work)
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
        yield from _rows(path, in_turns(calls, options), {kind: peer[1]}, {kind: target}, work)


def _float32(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    memory = lookup_tables.Memory()
    dims = (64, 16) if options.quick else (128, 64, 32, 16)
    for rows, dim in itertools.product(_sizes(options), dims):
        table = Table(memory.tables("fp32", rows, dim)[0], "fp32", dim)
        for ids in ("uniform", "zipf") if dim == 64 else ("uniform",):
            batches = make_batches(rows, ids, equal_lengths())
            yield from _compare("lookup", table, ids, batches, options, peers)


def _storage(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    """The other formats, beside float32 too, which has memory of its own."""
    dim = 64
    full_memory, memory = lookup_tables.Memory(), lookup_tables.Memory()
    for rows in _sizes(options):
        full = Table(full_memory.tables("fp32", rows, dim)[0], "fp32", dim).pooled(options.threads)
        target = 5.0 / 7.2 if rows > 1_000_000 else 3.6 / 7.0
        for storage, ids in itertools.product(
            ("fp16", "bf16", "int8", "int4"), ("uniform", "zipf")
        ):
            table = Table(memory.tables(storage, rows, dim)[0], storage, dim)
            batches = make_batches(rows, ids, equal_lengths())
            path = f"lookup/rows={rows}/dim={dim}/ids={ids}/threads={options.threads}"
            calls = {
                "ours": timed(table.pooled(options.threads), batches),
                "fp32": timed(full, batches),
            }
            yield from _rows(
                f"{path}/storage={storage}",
                in_turns(calls, options),
                {"fp32": "feedfast, fp32"},
                {"fp32": target if ids == "uniform" else None},
                NUM_BAGS * BAG_LENGTH,
            )
            yield from _compare("lookup", table, ids, batches, options, peers)


def _pages(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    """Both sides in pages of 4 KiB."""
    dim = 64
    memory = lookup_tables.Memory()
    for rows, storage in itertools.product(_sizes(options), ("fp32", "fp16", "int8", "int4")):
        table = Table(memory.tables(storage, rows, dim, huge=False)[0], storage, dim)
        batches = make_batches(rows, "uniform", equal_lengths())
        yield from _compare(
            "lookup/pages=4k", table, "uniform", batches, options, peers, huge=False
        )


def _threads(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    """Two threads, whatever `options` say; the probe's take their rows as ours do."""
    dim = 64
    options = dataclasses.replace(options, threads=2)
    memory = lookup_tables.Memory()
    for rows, storage in itertools.product(_sizes(options), ("fp32", "int8")):
        table = Table(memory.tables(storage, rows, dim)[0], storage, dim)
        for ids in ("uniform", "zipf"):
            batches = make_batches(rows, ids, equal_lengths())
            yield from _compare("lookup", table, ids, batches, options, peers)


def _ragged(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    dim = 64
    memory = lookup_tables.Memory()
    for rows, mean in itertools.product(_sizes(options), (1, 10, 50)):
        table = Table(memory.tables("fp32", rows, dim)[0], "fp32", dim)
        lengths = np.random.default_rng(mean).poisson(mean, NUM_BAGS)
        batches = make_batches(rows, "zipf", lengths)
        yield from _compare(
            f"lookup/bags=ragged,mean={mean}", table, "zipf", batches, options, peers
        )


def _features(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    """One call for all features beside one call for each, and FBGEMM's one call."""
    dim, mean = 64, 10
    memory = lookup_tables.Memory()
    for count in (1, 10) if options.quick else (1, 10, 100):
        rows = 1000 if options.quick else 1_000_000 // count
        tables = [
            Table(part, "fp32", dim) for part in memory.tables("fp32", rows, dim, count=count)
        ]
        lengths = np.full(NUM_BAGS * count, mean)
        batches = make_batches(rows, "zipf", lengths)
        grouped = {
            id(batch): [
                ff.PooledFeature(
                    tables[f].rows.view(np.float32),
                    ff.Bags.from_lengths(
                        batch.values[f * NUM_BAGS * mean : (f + 1) * NUM_BAGS * mean],
                        lengths[:NUM_BAGS],
                    ),
                    "mean",
                )
                for f in range(count)
            ]
            for batch in batches
        }
        pools = [table.pooled(options.threads) for table in tables]

        def one_call(batch: ff.Bags, grouped: Any = grouped) -> np.ndarray:
            return ff.pooled_lookup_grouped(grouped[id(batch)], threads=options.threads)

        def call_each(batch: ff.Bags, grouped: Any = grouped, pools: Any = pools) -> np.ndarray:
            features = grouped[id(batch)]
            pooled = [pool(f.bags) for pool, f in zip(pools, features, strict=True)]
            return np.concatenate(pooled, 1)

        np.testing.assert_array_equal(one_call(batches[0]), call_each(batches[0]))
        calls = {"ours": timed(one_call, batches), "calls": timed(call_each, batches)}
        names = {"calls": "feedfast, a call for each feature"}
        peer = peers.setup("fbgemm/fp32", rows, dim, batches, threads=options.threads, tables=count)
        if peer is not None:
            calls["fbgemm/fp32"], names["fbgemm/fp32"] = peer
            total = one_call(batches[0]).sum(dtype=np.float64)
            np.testing.assert_allclose(total, peers.total(0), atol=0.1)
        path = f"lookup/features={count}/rows={rows}/dim={dim}/threads={options.threads}"
        yield from _rows(
            path,
            in_turns(calls, options),
            names,
            {"fbgemm/fp32": FBGEMM_TARGET},
            NUM_BAGS * mean * count,
        )


def _tensorflow(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    """Calls of one `tf.function`, forward and with the gradient by the table."""
    del peers
    import tensorflow as tf

    import feedfast.tf as fft

    # The size of TensorFlow's pool cannot change once it runs, as it may under the tests.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    dim = 64
    offsets = tf.range(0, NUM_BAGS * BAG_LENGTH + 1, BAG_LENGTH, tf.int64)
    bag_of = tf.repeat(tf.range(NUM_BAGS, dtype=tf.int64), BAG_LENGTH)
    indices = tf.stack([bag_of, tf.tile(tf.range(BAG_LENGTH, dtype=tf.int64), [NUM_BAGS])], 1)
    shape = tf.constant([NUM_BAGS, BAG_LENGTH], tf.int64)
    peer_name = f"tensorflow {tf.__version__}"
    # Made by TensorFlow, so in the memory that its allocator gives; one for all sizes.
    largest = max(_sizes(options))
    whole = tf.Variable(tf.random.stateless_uniform([largest, dim], [1, 2], -0.5, 0.5))
    for rows, ids in itertools.product(_sizes(options), ("uniform", "zipf")):
        variable = whole if rows == largest else tf.Variable(whole[:rows])
        batches = make_batches(rows, ids, equal_lengths())
        tensors = {id(batch): tf.constant(batch.values) for batch in batches}

        def sparse(lookup: Any, values: Any, variable: Any = variable) -> Any:
            return lookup(variable, tf.SparseTensor(indices, values, shape), None)

        def gather(values: Any, variable: Any = variable) -> Any:
            return tf.math.segment_mean(tf.gather(variable, values), bag_of)

        def op(values: Any, variable: Any = variable) -> Any:
            return fft.ops.pooled_lookup(variable, values, offsets, pooling="mean")

        def with_gradient(lookup: Any, variable: Any = variable) -> Any:
            def call(values: Any) -> Any:
                with tf.GradientTape() as tape:
                    loss = tf.reduce_sum(lookup(values))
                gradient = tape.gradient(loss, variable)
                return gradient.values, gradient.indices

            return call

        def drop_in(values: Any) -> Any:
            return sparse(fft.embedding_lookup_sparse, values)

        def theirs(values: Any) -> Any:
            return sparse(tf.nn.embedding_lookup_sparse, values)

        def call(function: Any, tensors: Any = tensors, batches: Any = batches) -> Call:
            traced = tf.function(function)

            def on_batch(bags: ff.Bags) -> Any:
                return traced(tensors[id(bags)])

            return timed(on_batch, batches)

        np.testing.assert_allclose(
            op(tensors[id(batches[0])]), theirs(tensors[id(batches[0])]), atol=1e-5
        )
        path = f"lookup/rows={rows}/dim={dim}/ids={ids}/threads={options.threads}"
        names = {
            "embedding_lookup_sparse": f"tf.nn.embedding_lookup_sparse, {peer_name}",
            "gather": f"gather and segment_mean, {peer_name}",
        }
        targets: dict[str, float | None] = {"embedding_lookup_sparse": TENSORFLOW_TARGET}
        forward = {"embedding_lookup_sparse": call(theirs), "gather": call(gather)}
        for name, ours in (("op", op), ("embedding_lookup_sparse", drop_in)):
            taken = in_turns({"ours": call(ours), **forward}, options, 5)
            yield from _rows(f"{path}/tf={name}", taken, names, targets, NUM_BAGS * BAG_LENGTH)
        backward = {
            "ours": call(with_gradient(drop_in)),
            "embedding_lookup_sparse": call(with_gradient(theirs)),
        }
        taken = in_turns(backward, options, 3)
        yield from _rows(f"{path}/tf=with_gradient", taken, names, {}, NUM_BAGS * BAG_LENGTH)


def _fixed(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    """What a call costs that looks up one row, and one more op in a graph."""
    memory = lookup_tables.Memory()
    table = Table(memory.tables("fp32", 1000, 64)[0], "fp32", 64)
    batches = [ff.Bags(np.array([i]), np.array([0, 1])) for i in range(NUM_BATCHES)]
    calls = {"ours": timed(table.pooled(options.threads), batches)}
    peer = peers.setup("torch/fp32", 1000, 64, batches, threads=options.threads)
    if peer is not None:
        calls["torch/fp32"] = peer[0]
    taken = in_turns(calls, options, 100)
    yield row(
        "lookup/fixed/pybind11/p10",
        1e6 * taken["ours"],
        "us",
        peer=peer[1] if peer is not None else None,
        peer_value=1e6 * taken["torch/fp32"] if peer is not None else None,
        target=FIXED_TARGET if peer is not None else None,
    )

    import tensorflow as tf

    import feedfast.tf as fft

    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    variable = tf.Variable(table.rows.view(np.float32))

    def graph(lookup: Any, copies: int) -> Call:
        ids = [tf.constant([i % 1000], tf.int64) for i in range(copies)]

        @tf.function
        def call(zero: Any) -> Any:  # ids that depend on an argument: nothing folds
            return [lookup(one + zero) for one in ids] or zero + 1

        zero = tf.constant([0], tf.int64)
        return timed(lambda _: call(zero), batches)

    def ours(ids: Any) -> Any:
        return fft.ops.pooled_lookup(variable, ids, [0, 1], pooling="mean")

    def drop_in(ids: Any) -> Any:
        sparse = tf.SparseTensor(tf.zeros([1, 2], tf.int64), ids, [1, 1])
        return fft.embedding_lookup_sparse(variable, sparse, None)

    def theirs(ids: Any) -> Any:
        sparse = tf.SparseTensor(tf.zeros([1, 2], tf.int64), ids, [1, 1])
        return tf.nn.embedding_lookup_sparse(variable, sparse, None)

    lookups = {"op": ours, "embedding_lookup_sparse": drop_in, "theirs": theirs}
    copies = (1, 10, 100)
    graphs = {f"{name} {n}": graph(lookups[name], n) for name in lookups for n in copies}
    taken = in_turns({"nothing": graph(ours, 0), **graphs}, options, 5)
    # The line through the three points that comes closest to them.
    slopes = {
        name: float(np.polyfit(copies, [taken[f"{name} {n}"] for n in copies], 1)[0])
        for name in lookups
    }
    for name in ("op", "embedding_lookup_sparse"):
        path = f"lookup/fixed/one_more_{name}"
        yield row(
            f"{path}/vs=call/p10",
            1e6 * slopes[name],
            "us",
            peer="a call of a tf.function that adds 1",
            peer_value=1e6 * taken["nothing"],
            target=ONE_MORE_OP_TARGET,
        )
        yield row(
            f"{path}/vs=embedding_lookup_sparse/p10",
            1e6 * slopes[name],
            "us",
            peer=f"tf.nn.embedding_lookup_sparse, tensorflow {tf.__version__}",
            peer_value=1e6 * slopes["theirs"],
        )
