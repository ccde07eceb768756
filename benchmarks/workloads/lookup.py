"""Pooled lookups beside a probe of the memory, numpy, TensorFlow, torch and FBGEMM.

Bags of 50 ids (or ragged ones of mean 1, 10 and 50), fresh ids in every call, uniform or
Zipf-distributed with exponent 1.05; pooling is mean; times are per looked-up row and the tenth
percentile of the calls of each side, because neighbours on the machine and the threads that a
`tf.function` wakes only ever add to a call of a third of a millisecond. `vs=probe` reads
the same rows in the same order with prefetch and without pooling, which is what the memory allows.
torch and FBGEMM run in the interpreter that FEEDFAST_LOOKUP_PEERS names (benchmarks/peers/
lookup_torch.py), call by call in turns with feedfast; without it their rows are left out, with a
line that says so. Parts for `--only`: float32, storage, ragged, features, tensorflow, fixed.
"""

from __future__ import annotations

import contextlib
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
PEERS_SCRIPT = Path(__file__).parents[1] / "peers" / "lookup_torch.py"
LINES_IN_FLIGHT = 128

# Ratios; the nanoseconds are those of the limits and peers measured side by side in one day.
PROBE_TARGETS = {16: 4.8 / 4.2, 32: 5.2 / 4.6, 64: 7.2 / 6.4, 128: 14.8 / 14}
TORCH_TARGET = 1 / 1.3
FBGEMM_TARGET = 1 / 2
TENSORFLOW_TARGET = 1 / 10
STORAGE_TARGET = 1 / 1.4  # of float32
# torch takes 6 us for a call, feedfast may take 3.
FIXED_TARGET = 3 / 6

Call = Callable[[int], float]  # times the call on batch i; seconds


def run(options: BenchOptions) -> Iterator[BenchRow]:
    parts = {
        "float32": _float32,
        "storage": _storage,
        "ragged": _ragged,
        "features": _features,
        "tensorflow": _tensorflow,
        "fixed": _fixed,
    }
    if options.only is not None and options.only not in parts:
        raise ValueError(f"--only {options.only}: lookup has the parts {', '.join(parts)}")
    with Peers(options) as peers:
        for name, part in parts.items():
            if options.only in (None, name):
                yield from part(options, peers)


class Peers:
    """The process of benchmarks/peers/lookup_torch.py, where there is an interpreter for it."""

    def __init__(self, options: BenchOptions) -> None:
        self._options = options
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[str] | None = None
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
            # The peers' tables get huge pages, as numpy's do.
            env={
                **os.environ,
                "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
                "PYTHONWARNINGS": "ignore",
            },
        )

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
        self._folder.cleanup()

    def setup(
        self, kind: str, rows: int, dim: int, batches: list[ff.Bags], tables: int = 1
    ) -> tuple[Call, str] | None:
        """A call of `kind` on these bags and the package behind it; None: there is no process."""
        if self._process is None:
            return None
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
            threads=self._options.threads,
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


def timed(call: Callable[[ff.Bags], object], batches: list[ff.Bags]) -> Call:
    """`call` on a batch, timed here."""

    def run(i: int) -> float:
        batch = batches[i % len(batches)]
        before = time.perf_counter()
        call(batch)
        return time.perf_counter() - before

    return run


def in_turns(calls: dict[str, Call], options: BenchOptions, repeats: int = 41) -> dict[str, float]:
    """The tenth percentile of the seconds of each call, measured in turns.

    Each call of a turn gets another batch: what one has read, no cache keeps for the next.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    warm_up = 2
    for i in range(warm_up + (3 if options.quick else repeats)):
        for place, (name, call) in enumerate(calls.items()):
            times[name].append(call(i + place * (NUM_BATCHES // 3)))
    return {name: float(np.percentile(taken[warm_up:], 10)) for name, taken in times.items()}


def make_table(rows: int, dim: int, index: int = 0) -> np.ndarray:
    """The numbers of `table` in benchmarks/peers/lookup_torch.py."""
    values = ff.allocate_table(rows, dim)
    np.random.default_rng(index).random(dtype=np.float32, out=values)
    values -= 0.5
    return values


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
    return [20_000] if options.quick else [1_000_000, 10_000_000]


def _probe(table: np.ndarray, batches: list[ff.Bags]) -> Call:
    def read(bags: ff.Bags) -> None:
        _core.read_rows(table, cast(Any, bags.values), lines_in_flight=LINES_IN_FLIGHT)

    return timed(read, batches)


def _pool(table: Any, options: BenchOptions) -> Callable[[ff.Bags], np.ndarray]:
    if isinstance(table, ff.QuantizedTable):
        return lambda bags: table.pooled_lookup(
            bags.values, bags.offsets, None, "mean", options.threads
        )
    return lambda bags: ff.pooled_lookup(
        table, bags.values, bags.offsets, None, "mean", options.threads
    )


def _rows(
    path: str, taken: dict[str, float], names: dict[str, str], targets: dict[str, float], work: int
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


def _compare_with_peers(
    path: str,
    table: Any,
    dim: int,
    batches: list[ff.Bags],
    kinds: list[str],
    targets: dict[str, float],
    options: BenchOptions,
    peers: Peers,
) -> Iterator[BenchRow]:
    """`table` beside the probe of its rows and beside each kind of peer, one at a time."""
    pool = _pool(table, options)
    ours = timed(pool, batches)
    work = batches[0].values.size
    packed = table.packed if isinstance(table, ff.QuantizedTable) else table
    if options.threads == 1:
        calls = {"ours": ours, "probe": _probe(packed, batches)}
        names = {"probe": "rows read without pooling"}
        yield from _rows(path, in_turns(calls, options), names, targets, work)
    for kind in kinds:
        peer = peers.setup(kind, packed.shape[0], dim, batches)
        if peer is None:
            return
        # Each side rounds its codes; over a batch the errors cancel.
        np.testing.assert_allclose(pool(batches[0]).sum(), peers.total(0), atol=20)
        calls = {"ours": ours, kind: peer[0]}
        yield from _rows(path, in_turns(calls, options), {kind: peer[1]}, targets, work)


def _float32(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    for rows, dim in itertools.product(
        _sizes(options), (16, 64) if options.quick else (16, 32, 64, 128)
    ):
        table = make_table(rows, dim)
        for ids in ("uniform", "zipf") if dim == 64 else ("uniform",):
            batches = make_batches(rows, ids, equal_lengths())
            path = f"lookup/rows={rows}/dim={dim}/ids={ids}/threads={options.threads}/storage=fp32"
            kinds = ["torch/fp32", "fbgemm/fp32"]
            if rows * dim > 640_000_000:
                kinds = []  # two copies of 5 GB
            targets = {"torch/fp32": TORCH_TARGET, "fbgemm/fp32": FBGEMM_TARGET}
            targets["probe"] = PROBE_TARGETS[dim]
            yield from _compare_with_peers(
                path, table, dim, batches, kinds, targets, options, peers
            )


def _storage(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    dim = 64
    for rows in _sizes(options):
        floats = make_table(rows, dim)
        batches = make_batches(rows, "uniform", equal_lengths())
        full = timed(_pool(floats, options), batches)
        for storage, kinds in (
            ("fp16", ["fbgemm/fp16"]),
            ("bf16", ["torch/bf16"]),
            ("int8", ["fbgemm/int8"]),
            ("int4", ["fbgemm/int4"]),
        ):
            path = f"lookup/rows={rows}/dim={dim}/ids=uniform/threads={options.threads}"
            path = f"{path}/storage={storage}"
            table: Any
            if storage == "fp16":
                table = floats.astype(np.float16)
            elif storage == "bf16":
                import ml_dtypes

                table = floats.astype(ml_dtypes.bfloat16)
            else:
                table = ff.QuantizedTable.quantize(floats, int(storage[3:]))
            calls = {"ours": timed(_pool(table, options), batches), "fp32": full}
            names = {"fp32": "feedfast, fp32"}
            yield from _rows(
                path,
                in_turns(calls, options),
                names,
                {"fp32": STORAGE_TARGET},
                NUM_BAGS * BAG_LENGTH,
            )
            targets = {**dict.fromkeys(kinds, FBGEMM_TARGET), "torch/bf16": TORCH_TARGET}
            yield from _compare_with_peers(
                path, table, dim, batches, kinds, targets, options, peers
            )


def _ragged(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    rows, dim = _sizes(options)[0], 64
    table = make_table(rows, dim)
    for mean in (1, 10, 50):
        lengths = np.random.default_rng(mean).poisson(mean, NUM_BAGS)
        batches = make_batches(rows, "zipf", lengths)
        path = f"lookup/rows={rows}/dim={dim}/ids=zipf/threads={options.threads}"
        path = f"{path}/bags=ragged,mean={mean}"
        targets = {"torch/fp32": TORCH_TARGET, "fbgemm/fp32": FBGEMM_TARGET}
        kinds = ["torch/fp32", "fbgemm/fp32"]
        yield from _compare_with_peers(path, table, dim, batches, kinds, targets, options, peers)


def _features(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    """One call for all features beside one call for each, and FBGEMM's one call."""
    dim, mean = 64, 10
    for count in (1, 10) if options.quick else (1, 10, 100):
        rows = 1000 if options.quick else 1_000_000 // count
        tables = [make_table(rows, dim, index) for index in range(count)]
        lengths = np.full(NUM_BAGS * count, mean)
        batches = make_batches(rows, "zipf", lengths)
        grouped = {
            id(batch): [
                ff.PooledFeature(
                    tables[f],
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

        def one_call(batch: ff.Bags, grouped: Any = grouped) -> np.ndarray:
            return ff.pooled_lookup_grouped(grouped[id(batch)], threads=options.threads)

        def call_each(batch: ff.Bags, grouped: Any = grouped) -> np.ndarray:
            pool = [_pool(feature.table, options)(feature.bags) for feature in grouped[id(batch)]]
            return np.concatenate(pool, 1)

        np.testing.assert_array_equal(one_call(batches[0]), call_each(batches[0]))
        calls = {"ours": timed(one_call, batches), "calls": timed(call_each, batches)}
        names = {"calls": "feedfast, a call for each feature"}
        peer = peers.setup("fbgemm/fp32", rows, dim, batches, count)
        if peer is not None:
            calls["fbgemm/fp32"], names["fbgemm/fp32"] = peer
            np.testing.assert_allclose(one_call(batches[0]).sum(), peers.total(0), atol=20)
        path = f"lookup/features={count}/rows={rows}/dim={dim}/threads={options.threads}"
        targets = {"fbgemm/fp32": FBGEMM_TARGET}
        yield from _rows(path, in_turns(calls, options), names, targets, NUM_BAGS * mean * count)


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
    for rows, ids in itertools.product(_sizes(options), ("uniform", "zipf")):
        # Made by TensorFlow, so in the memory that its allocator gives.
        variable = tf.Variable(tf.random.stateless_uniform([rows, dim], [1, 2], -0.5, 0.5))
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
        targets = {"embedding_lookup_sparse": TENSORFLOW_TARGET}
        forward = {"embedding_lookup_sparse": call(theirs), "gather": call(gather)}
        for name, ours in (("op", op), ("embedding_lookup_sparse", drop_in)):
            taken = in_turns({"ours": call(ours), **forward}, options, 25)
            yield from _rows(f"{path}/tf={name}", taken, names, targets, NUM_BAGS * BAG_LENGTH)
        backward = {
            "ours": call(with_gradient(drop_in)),
            "embedding_lookup_sparse": call(with_gradient(theirs)),
        }
        taken = in_turns(backward, options, 15)
        yield from _rows(f"{path}/tf=with_gradient", taken, names, {}, NUM_BAGS * BAG_LENGTH)


def _fixed(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    """What a call costs that looks up one row, and one more op in a graph."""
    table = make_table(1000, 64)
    batches = [ff.Bags(np.array([i]), np.array([0, 1])) for i in range(NUM_BATCHES)]
    repeats = 2001
    calls = {"ours": timed(_pool(table, options), batches)}
    names = {"torch/fp32": ""}
    peer = peers.setup("torch/fp32", 1000, 64, batches)
    if peer is not None:
        calls["torch/fp32"], names["torch/fp32"] = peer
    taken = in_turns(calls, options, repeats)
    path = "lookup/fixed/pybind11/p10"
    yield row(
        path,
        1e6 * taken["ours"],
        "us",
        peer=names["torch/fp32"] if peer is not None else None,
        peer_value=1e6 * taken["torch/fp32"] if peer is not None else None,
        target=FIXED_TARGET if peer is not None else None,
    )

    import tensorflow as tf

    import feedfast.tf as fft

    variable = tf.Variable(table)

    def graph(lookup: Any, copies: int) -> Call:
        ids = [tf.constant([i % 1000], tf.int64) for i in range(copies)]

        @tf.function
        def call(zero: Any) -> Any:  # ids that depend on an argument: nothing folds
            return [lookup(one + zero) for one in ids]

        zero = tf.constant([0], tf.int64)
        return timed(lambda _: call(zero), batches)

    def ours(ids: Any) -> Any:
        return fft.ops.pooled_lookup(variable, ids, [0, 1], pooling="mean")

    def theirs(ids: Any) -> Any:
        sparse = tf.SparseTensor(tf.zeros([1, 2], tf.int64), ids, [1, 1])
        return tf.nn.embedding_lookup_sparse(variable, sparse, None)

    few, many = 10, 100
    taken = in_turns(
        {
            f"{name} {copies}": graph(lookup, copies)
            for name, lookup in (("ours", ours), ("theirs", theirs))
            for copies in (few, many)
        },
        options,
        101,
    )
    slopes = {
        name: (taken[f"{name} {many}"] - taken[f"{name} {few}"]) / (many - few)
        for name in ("ours", "theirs")
    }
    yield row(
        "lookup/fixed/one_more_op/p10",
        1e6 * slopes["ours"],
        "us",
        peer=f"tf.nn.embedding_lookup_sparse, tensorflow {tf.__version__}",
        peer_value=1e6 * slopes["theirs"],
    )
