"""One of the processes that train a toy DLRM in several ways, in turns; started by horovodrun.

Usage: distributed_training.py PART=ROUNDS,... GROUP SCALE, PART one of training, sweep, crossover.
GROUP names the shared memory, SCALE divides the sizes. Rank 0 prints one JSON document by part.

Everything that is compared runs in the same processes, one window after the other, from the same
weights on the same batches with the same optimizer. A time is that of the slower process.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
from horovod.tensorflow.gradient_aggregation_eager import LocalGradientAggregationHelperEager

from feedfast.comm import Engine, SharedMemoryEngine
from feedfast.comm.horovod_engine import HorovodEngine
from feedfast.comm.sparse_rows import pack_tables
from feedfast.tf import optimizers
from feedfast.tf.distributed import AccumulatingGradientTape
from feedfast.tf.distributed.sparse_exchange import merge_received, threshold_share

TABLES, DIM, IDS, DENSE = 8, 16, 10, 13
UNITS = (256, 128, 1)
K = 5
SWEEP = (1, 2, 3, 5, 8, 16)
QUICK_SWEEP = (1, 2, 5)
# What an exchange waits more in the sweep with a slow link, which this kernel cannot emulate.
SLEEP_S = 0.005
Batch = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
Window = Callable[[list[Batch]], None]


class Dlrm:
    """Mean-pooled tables beside dense features, and three layers."""

    def __init__(self, rows: int) -> None:
        rng = np.random.default_rng(1)
        sizes = (TABLES * DIM + DENSE, *UNITS)

        def variable(*shape: int) -> tf.Variable:
            return tf.Variable(rng.normal(0, 0.05, shape).astype(np.float32))

        self.tables = [variable(rows, DIM) for _ in range(TABLES)]
        self.layers = [(variable(a, b), variable(b)) for a, b in pairwise(sizes)]
        self.variables = [*self.tables, *(v for layer in self.layers for v in layer)]

    def loss(self, ids: tf.Tensor, dense: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Mean cross entropy; ids [n, tables, ids], dense [n, features], labels [n]."""
        pooled = [
            tf.reduce_mean(tf.gather(table, ids[:, i]), axis=1)
            for i, table in enumerate(self.tables)
        ]
        x = tf.concat([*pooled, dense], axis=1)
        for index, (weight, bias) in enumerate(self.layers):
            x = tf.matmul(x, weight) + bias
            x = tf.nn.relu(x) if index + 1 < len(self.layers) else x
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, x[:, 0]))


def make_batches(rows: int, size: int, count: int, rank: int) -> list[Batch]:
    """Zipf ids with exponent 1.1, in an order of their own for each table."""
    rng = np.random.default_rng([7, rank])
    weights = 1.0 / np.arange(1, rows + 1) ** 1.1
    cumulative = np.cumsum(weights / weights.sum())
    order = np.random.default_rng(3).permutation(rows)
    batches = []
    for _ in range(count):
        ids = order[np.searchsorted(cumulative, rng.random((size, TABLES, IDS)))]
        dense = rng.standard_normal((size, DENSE), dtype=np.float32)
        labels = rng.integers(0, 2, size).astype(np.float32)
        batches.append((tf.constant(ids), tf.constant(dense), tf.constant(labels)))
    return batches


def optimizer() -> Any:
    return optimizers.SparseAdagrad(0.01)


def ours(rows: int, engine: Engine, k: int) -> Window:
    model, update = Dlrm(rows), optimizer()
    tape = AccumulatingGradientTape(k, engine=engine)

    @tf.function
    def step(*batch: tf.Tensor) -> None:
        with tape:
            loss = model.loss(*batch)
        tape.minimize(loss, model.variables, update)

    def window(batches: list[Batch]) -> None:
        for batch in batches:
            step(*batch)

    window.weights = model.variables  # type: ignore[attr-defined]
    return window


def horovod_default(rows: int) -> Window:
    """Horovod's tape: an exchange per gradient and batch, sparse ones as they are."""
    model, update = Dlrm(rows), optimizer()
    update.build(model.variables)

    @tf.function
    def step(*batch: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = model.loss(*batch)
        gradients = hvd.DistributedGradientTape(tape).gradient(loss, model.variables)
        update.apply(gradients, model.variables)

    def window(batches: list[Batch]) -> None:
        for batch in batches:
            step(*batch)

    return window


def horovod_dense(rows: int, k: int) -> Window:
    """Horovod's accumulation (backward_passes_per_step=k), which needs sparse_as_dense."""
    model, update = Dlrm(rows), optimizer()
    update.build(model.variables)
    reduce = hvd._make_allreduce_grads_fn(
        "dense", "", "", hvd.Compression.none, True, hvd.Average, 1.0, None, hvd.global_process_set
    )
    helper = LocalGradientAggregationHelperEager(k, reduce, True, True)
    for index, variable in enumerate(model.variables):
        helper.locally_aggregated_grads[index] = tf.Variable(tf.zeros_like(variable))

    @tf.function
    def step(*batch: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = model.loss(*batch)
        gradients = helper.compute_gradients(tape.gradient(loss, model.variables), model.variables)

        def apply() -> tf.Tensor:
            update.apply(gradients, model.variables)
            return tf.constant(0)

        tf.cond(tf.equal(helper.counter, 0), apply, lambda: tf.constant(0))

    def window(batches: list[Batch]) -> None:
        for batch in batches:
            step(*batch)

    window.weights = model.variables  # type: ignore[attr-defined]
    return window


class SlowLink(HorovodEngine):
    """Waits before exchanges, once for two that begin together, as for a link of that latency."""

    def _run(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        time.sleep(SLEEP_S)
        return super()._run(kind, *args, **kwargs)


def loopback_bytes() -> int:
    """Sent over loopback by all processes of this network namespace."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[8])
    raise RuntimeError("/proc/self/net/dev has no lo")


def in_turns(
    engine: Engine, ways: dict[str, tuple[Window, list[Batch]]], rounds: int
) -> dict[str, dict[str, Any]]:
    """Seconds of the slower process and loopback bytes of each way's windows, by round."""
    for window, batches in ways.values():  # traces, first choices, response caches
        for _ in range(3):
            window(batches)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    sent: dict[str, list[int]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (window, batches) in ways.items():
            engine.barrier(name="start")
            before = loopback_bytes()
            start = time.perf_counter()
            window(batches)
            seconds[name].append(time.perf_counter() - start)
            engine.barrier(name="end")
            sent[name].append(loopback_bytes() - before)
    result = {}
    for name, mine in seconds.items():
        slower = np.max(engine.all_gather(np.asarray(mine), name="times"), axis=0)
        result[name] = {"seconds": slower.tolist(), "bytes": sent[name]}
    return result


def training(engine: Engine, group: str, rounds: int, scale: int) -> dict[str, Any]:
    rows, size = 250_000 // scale, 512 // scale
    batches = make_batches(rows, size, K, engine.rank)
    shared = SharedMemoryEngine(group, rank=engine.rank, size=engine.size)
    # An engine whose traffic is that of the windows alone.
    over_gloo = HorovodEngine()
    ways = {
        "ours": (ours(rows, over_gloo, K), batches),
        "horovod_default": (horovod_default(rows), batches),
        "horovod_dense": (horovod_dense(rows, K), batches),
        "per_batch": (ours(rows, engine_like(engine), 1), batches),
        "shared_memory": (ours(rows, shared, K), batches),
    }
    ways["ours"][0](batches)
    ways["horovod_dense"][0](batches)
    difference = max(
        float(tf.reduce_max(tf.abs(one - other)))
        for one, other in zip(
            ways["ours"][0].weights, ways["horovod_dense"][0].weights, strict=True
        )
    )
    document: dict[str, Any] = {"difference": difference, "examples": K * size * engine.size}
    before = {name: t.exchanges for name, t in over_gloo.exchanges_by_name.items()}
    first = over_gloo.traffic
    document["ways"] = in_turns(engine, ways, rounds)
    windows = rounds + 3
    document["exchanges"] = {
        name: (traffic.exchanges - before.get(name, 0)) / windows
        for name, traffic in over_gloo.exchanges_by_name.items()
        if name != "feedfast_layout"
    }
    payload = over_gloo.traffic.bytes_sent - first.bytes_sent
    everybody = engine.all_gather(np.asarray([payload / windows]), name="payload")
    document["closed_form"] = float(np.sum(everybody))
    shared.close()
    return document


def engine_like(engine: Engine) -> Engine:
    """Another engine of the same processes, which counts on its own."""
    assert isinstance(engine, HorovodEngine)
    return HorovodEngine()


def sweep(engine: Engine, group: str, rounds: int, scale: int) -> dict[str, Any]:
    rows, size = 100_000 // scale, 128 // scale
    del group
    counts = SWEEP if scale == 1 else QUICK_SWEEP
    batches = make_batches(rows, size, max(counts), engine.rank)
    plain, slow = HorovodEngine(), SlowLink()
    ways = {}
    for k in counts:
        ways[f"link=gloo/k={k}"] = (ours(rows, plain, k), batches[:k])
        ways[f"link=slow/k={k}"] = (ours(rows, slow, k), batches[:k])
    return {"ways": in_turns(engine, ways, rounds), "sleep_ms": SLEEP_S * 1e3}


def crossover(engine: Engine, group: str, rounds: int, scale: int) -> dict[str, Any]:
    """The exchange of one table's gradient in both forms, by the share of its rows touched."""
    rows = 100_000 // scale
    del group
    rng = np.random.default_rng(engine.rank)
    shares = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    points = []
    for share in shares:
        touched = np.sort(rng.permutation(rows)[: int(share * rows)])
        gradient = rng.standard_normal((len(touched), DIM), dtype=np.float32)

        def as_rows(touched: np.ndarray = touched, gradient: np.ndarray = gradient) -> None:
            packed = pack_tables([(touched, gradient)])
            received = engine.all_gather(packed, name="crossover_rows")
            merge_received(received, [DIM], 1.0, wire="exact")

        def as_table(touched: np.ndarray = touched, gradient: np.ndarray = gradient) -> None:
            table = np.zeros((rows, DIM + 1), np.float32)
            table[touched, :DIM] = gradient
            table[touched, DIM] = 1.0
            engine.all_reduce(table, name="crossover_table")
            found = np.flatnonzero(table[:, DIM])
            table[found, :DIM]

        taken: dict[str, list[float]] = {"rows": [], "table": []}
        sent: dict[str, list[int]] = {"rows": [], "table": []}
        for _ in range(rounds):
            for name, call in (("rows", as_rows), ("table", as_table)):
                engine.barrier(name="start")
                before = loopback_bytes()
                start = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - start)
                engine.barrier(name="end")
                sent[name].append(loopback_bytes() - before)
        point: dict[str, Any] = {"share": share}
        for name in taken:
            slower = np.max(engine.all_gather(np.asarray(taken[name]), name="times"), axis=0)
            point[name] = {
                "seconds": statistics.median(slower.tolist()),
                "bytes": statistics.median(sent[name]),
            }
        points.append(point)
    return {"points": points, "predicted": threshold_share(DIM, engine.size, "exact")}


def main(rounds: str, group: str, scale: str) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    engine = HorovodEngine()
    parts = {"training": training, "sweep": sweep, "crossover": crossover}
    document = {}
    for each in rounds.split(","):
        part, _, count = each.partition("=")
        document[part] = parts[part](engine, group, int(count), int(scale))
    if engine.rank == 0:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
    engine.barrier()
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
