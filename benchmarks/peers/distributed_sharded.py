"""One of the processes that train a DLRM with tables divided in several ways.

Usage: distributed_sharded.py ROUNDS SCALE [OUT], SCALE divides the sizes. Started by horovodrun:
over Gloo, beside Horovod's own ways; rank 0 prints one JSON document. With OUT and started by
`feedfast.comm.launch.run_local`: over shared memory, beside one process alone and without Horovod,
whose threads take processor time; rank 0 writes the document there.

All ways start from the same weights and take the same steps on the same batches with the same
optimizers, a few steps of each after those of the other in the same processes; the loss after the
warm-up says whether they did. A time is that of the slower process. A step is one batch of every
process, with an exchange of gradients after each.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tensorflow as tf

import feedfast.tf as fft
from feedfast.comm import Engine, SharedMemoryEngine, connect
from feedfast.process_memory import process_memory
from feedfast.sharded_tables import TableSpec, Uniform
from feedfast.sharding import (
    Placement,
    ShardingPlan,
    TableShape,
    column_wise,
    data_parallel,
    row_wise,
    table_wise,
)
from feedfast.tf.distributed import AccumulatingGradientTape, ShardedEmbedding
from feedfast.tf.distributed.variables import resource_of
from feedfast.tf.pooled_lookup import pooled_lookup

DENSE, UNITS, WARM_UP = 13, (128, 64, 1), 6
SHAPES = tuple((rows, dim) for rows in (60_000, 20_000, 4_000, 40_000) for dim in (32, 64, 128))
IDS = (1, 1, 10)  # of a bag, table after table
HOT_SHARE = 100  # of the rows, every hundredth, on all ranks
Batch = tuple[tf.Tensor, ...]


class Way(NamedTuple):
    """One way to train.

    `step` is one batch; `table_bytes` are in the memory of this process for weights and states of
    tables, as counted; `grown` is what the process grew by when it made them.
    """

    step: Callable[..., Any]
    engine: Engine | None
    table_bytes: int
    grown: int


def specs_of(scale: int) -> list[TableSpec]:
    return [
        TableSpec(
            name=f"table{index:02d}",
            rows=rows // scale,
            dim=dim,
            initializer=Uniform(0.05),
            optimizer=fft.optimizers.SparseAdagrad(0.01),
        )
        for index, (rows, dim) in enumerate(SHAPES)
    ]


def plans_of(specs: list[TableSpec], num_ranks: int) -> dict[str, ShardingPlan]:
    """By name; `mixed` replicates the small tables and places the others each in another way."""
    shapes = tuple(TableShape(name=spec.name, rows=spec.rows, dim=spec.dim) for spec in specs)
    ranks = range(num_ranks)
    least = sorted(shape.rows for shape in shapes)[len(shapes) // 4]

    def mixed(index: int, shape: TableShape) -> Placement:
        if shape.rows < least:
            return data_parallel(shape, num_ranks)
        kinds = (
            lambda: row_wise(shape, ranks),
            lambda: column_wise(shape, ranks),
            lambda: table_wise(shape, index % num_ranks),
        )
        return kinds[index % len(kinds)]()

    chosen: dict[str, Callable[[int, TableShape], Placement]] = {
        "row": lambda _, shape: row_wise(shape, ranks),
        "column": lambda _, shape: column_wise(shape, ranks),
        "table": lambda index, shape: table_wise(shape, index % num_ranks),
        "mixed": mixed,
        "hot_rows": lambda _, shape: row_wise(
            shape, ranks, hot_rows=max(1, shape.rows // HOT_SHARE)
        ),
    }
    return {
        name: ShardingPlan(
            num_ranks=num_ranks,
            ranks_per_host=1,
            tables=shapes,
            placements=tuple(place(index, shape) for index, shape in enumerate(shapes)),
        )
        for name, place in chosen.items()
    }


def make_batches(specs: list[TableSpec], size: int, count: int, rank: int) -> list[Batch]:
    """Labels, dense features and the ids of every table [size, ids], frequent ones first."""
    rng = np.random.default_rng([7, rank])
    batches = []
    for _ in range(count):
        ids = []
        for index, spec in enumerate(specs):
            cumulative = np.cumsum(1.0 / np.arange(1, spec.rows + 1) ** 1.1)
            drawn = rng.random((size, IDS[index % len(IDS)])) * cumulative[-1]
            ids.append(tf.constant(np.searchsorted(cumulative, drawn), tf.int64))
        dense = tf.constant(rng.standard_normal((size, DENSE), dtype=np.float32))
        labels = tf.cast(ids[0][:, 0] % 2, tf.float32)
        batches.append((labels, dense, *ids))
    return batches


class Tower:
    """Three layers on the pooled rows of all tables and the dense features."""

    def __init__(self, specs: list[TableSpec]) -> None:
        rng = np.random.default_rng(1)
        sizes = (sum(spec.dim for spec in specs) + DENSE, *UNITS)
        self.layers = [
            tuple(tf.Variable(rng.normal(0, 0.05, s).astype(np.float32)) for s in ((a, b), (b,)))
            for a, b in pairwise(sizes)
        ]
        self.variables = [variable for layer in self.layers for variable in layer]

    def loss(self, pooled: list[tf.Tensor], dense: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        x = tf.concat([*pooled, dense], axis=1)
        for index, (weight, bias) in enumerate(self.layers):
            x = tf.matmul(x, weight) + bias
            x = tf.nn.relu(x) if index + 1 < len(self.layers) else x
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, x[:, 0]))


def bags_of(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Values and offsets of bags of equal size."""
    size = tf.shape(ids)[1]
    return tf.reshape(ids, [-1]), tf.range(tf.shape(ids)[0] + 1) * size


def sharded(specs: list[TableSpec], plan: ShardingPlan, engine: Engine) -> Way:
    before = process_memory().anonymous
    layer = ShardedEmbedding(specs, plan=plan, engine=engine)
    grown = process_memory().anonymous - before
    tower = Tower(specs)
    variables = [*tower.variables, layer.trigger]
    update = fft.optimizers.SparseAdagrad(0.01)
    tape = AccumulatingGradientTape(1, engine=engine, participants=[layer])

    @tf.function
    def step(labels: tf.Tensor, dense: tf.Tensor, *ids: tf.Tensor) -> tf.Tensor:
        with tape:
            bags = {spec.name: bags_of(own) for spec, own in zip(specs, ids, strict=True)}
            loss = tower.loss(list(layer(bags).values()), dense, labels)
        tape.minimize(loss, variables, update)
        return loss

    return Way(step, engine, layer.sharded.nbytes, grown)


class Whole:
    """All tables on this process, the variables of a model with them, and their optimizer."""

    def __init__(self, specs: list[TableSpec]) -> None:
        before = process_memory().anonymous
        self.tables = [
            tf.Variable(spec.initializer(spec.name, 0, spec.rows, spec.dim), name=spec.name)
            for spec in specs
        ]
        self.tower = Tower(specs)
        self.variables = [*self.tower.variables, *self.tables]
        self.update = fft.optimizers.SparseAdagrad(0.01)
        self.update.build(self.variables)
        self.grown = process_memory().anonymous - before

    def loss(self, labels: tf.Tensor, dense: tf.Tensor, ids: tuple[tf.Tensor, ...]) -> tf.Tensor:
        pooled = [pool(table, own) for table, own in zip(self.tables, ids, strict=True)]
        return self.tower.loss(pooled, dense, labels)


def pool(table: Any, ids: tf.Tensor) -> tf.Tensor:
    return pooled_lookup(table, *bags_of(ids), pooling="sum")


def replicated(specs: list[TableSpec], engine: Engine) -> Way:
    """All tables on every process, their gradients through the tape's one sparse exchange."""
    model = Whole(specs)
    tape = AccumulatingGradientTape(1, engine=engine)

    @tf.function
    def step(labels: tf.Tensor, dense: tf.Tensor, *ids: tf.Tensor) -> tf.Tensor:
        with tape:
            loss = model.loss(labels, dense, ids)
        tape.minimize(loss, model.variables, model.update)
        return loss

    return Way(step, engine, 2 * _bytes(specs), model.grown)


def horovod_replicated(specs: list[TableSpec]) -> Way:
    """The same through Horovod's tape: an exchange per gradient, sparse ones as they are."""
    import horovod.tensorflow as hvd

    model = Whole(specs)

    @tf.function
    def step(labels: tf.Tensor, dense: tf.Tensor, *ids: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.loss(labels, dense, ids)
        gradients = hvd.DistributedGradientTape(tape).gradient(loss, model.variables)
        model.update.apply(gradients, model.variables)
        return loss

    return Way(step, None, 2 * _bytes(specs), model.grown)


def horovod_alltoall(specs: list[TableSpec]) -> Way:
    """Tables by rows (row r on rank r % n), written with `hvd.alltoall` as one would.

    For every table one exchange of distinct ids, one of rows, and in the backward pass one of
    gradients, which is that of the second; the tower's gradients through Horovod's tape.
    """
    import horovod.tensorflow as hvd

    rank, size = hvd.rank(), hvd.size()
    before = process_memory().anonymous
    tables = [
        tf.Variable(spec.initializer(spec.name, 0, spec.rows, spec.dim)[rank::size])
        for spec in specs
    ]
    tower = Tower(specs)
    variables = [*tower.variables, *tables]
    update = fft.optimizers.SparseAdagrad(0.01)
    update.build(variables)
    grown = process_memory().anonymous - before

    def look_up(table: tf.Variable, ids: tf.Tensor, name: str) -> tf.Tensor:
        values, offsets = bags_of(ids)
        unique, inverse = tf.unique(values)
        owner = unique % size
        order = tf.argsort(owner, stable=True)
        splits = tf.math.bincount(tf.cast(owner, tf.int32), minlength=size, maxlength=size)
        asked, counts = hvd.alltoall(tf.gather(unique, order), splits, name=f"{name}_ids")
        rows, _ = hvd.alltoall(tf.gather(table, asked // size), counts, name=f"{name}_rows")
        positions = tf.gather(tf.math.invert_permutation(order), inverse)
        return pooled_lookup(rows, tf.cast(positions, tf.int64), offsets, pooling="sum")

    @tf.function
    def step(labels: tf.Tensor, dense: tf.Tensor, *ids: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            pooled = [
                look_up(table, own, spec.name)
                for table, own, spec in zip(tables, ids, specs, strict=True)
            ]
            loss = tower.loss(pooled, dense, labels)
        tape = hvd.DistributedGradientTape(tape)
        for table in tables:
            tape.register_local_source(table)  # its gradients are scaled by 1 / n instead
        update.apply(tape.gradient(loss, variables), variables)
        return loss

    return Way(step, None, 2 * sum(table.shape.num_elements() * 4 for table in tables), grown)


def one_process(specs: list[TableSpec]) -> Way:
    """No other process: whole tables, updated inside the backward pass."""
    before = process_memory().anonymous
    layers = [
        fft.layers.PooledEmbedding(
            spec.rows, spec.dim, fused_optimizer=fft.optimizers.SparseAdagrad(0.01)
        )
        for spec in specs
    ]
    for layer, spec in zip(layers, specs, strict=True):
        layer.build()
        layer.embeddings.assign(spec.initializer(spec.name, 0, spec.rows, spec.dim))
    grown = process_memory().anonymous - before
    tower = Tower(specs)
    # The layers' trainable scalars, by which a backward pass reaches their tables.
    variables = [*tower.variables, *(v for layer in layers for v in layer.trainable_variables)]
    update = fft.optimizers.SparseAdagrad(0.01)
    update.build(variables)

    @tf.function
    def step(labels: tf.Tensor, dense: tf.Tensor, *ids: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            pooled = [layer(bags_of(own)) for layer, own in zip(layers, ids, strict=True)]
            loss = tower.loss(pooled, dense, labels)
        sources = [resource_of(variable) for variable in variables]
        update.apply(tape.gradient(loss, sources), variables)
        return loss

    return Way(step, None, 2 * _bytes(specs), grown)


def _bytes(specs: list[TableSpec]) -> int:
    return sum(spec.rows * spec.dim * 4 for spec in specs)


def in_turns(
    engine: Engine,
    ways: dict[str, Way],
    batches: list[Batch],
    rounds: int,
    loopback_bytes: Callable[[], int],
) -> dict[str, dict[str, Any]]:
    """By way: seconds of the slower process and loopback bytes of each step, loss, exchanges."""
    losses = {}
    for name, way in ways.items():  # traces, response caches; then the loss of what was trained
        if name == "one_process" and engine.rank != 0:
            continue
        for batch in [batches[0], *batches][:WARM_UP]:
            loss = way.step(*batch)
        losses[name] = float(loss)
    gc.collect()
    gc.freeze()
    counts = {name: _exchanges(way.engine) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    sent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            takes_part = name != "one_process" or engine.rank == 0
            # A step between other work finds caches, pages and threads cold: one goes before.
            if takes_part:
                way.step(*batches[-1])
            engine.barrier(name="start")
            before = loopback_bytes()
            start = time.perf_counter()
            for batch in batches if takes_part else ():
                way.step(*batch)
            seconds[name].append((time.perf_counter() - start) / len(batches))
            engine.barrier(name="end")
            sent[name].append((loopback_bytes() - before) / len(batches))
    result = {}
    for name, way in ways.items():
        slower = np.max(engine.all_gather(np.asarray(seconds[name]), name="times"), axis=0)
        exchanges = {}
        for kind, (calls, sent_bytes) in _exchanges(way.engine).items():
            calls_before, bytes_before = counts[name].get(kind, (0, 0))
            if calls > calls_before:
                steps = rounds * (len(batches) + 1)
                exchanges[kind] = (
                    (calls - calls_before) / steps,
                    (sent_bytes - bytes_before) / steps,
                )
        memory = engine.all_gather(np.asarray([way.table_bytes, way.grown]), name="memory")
        result[name] = {
            "seconds": slower.tolist(),
            "bytes": sent[name],
            "loss": losses.get(name),
            "exchanges": exchanges,
            "table_bytes": max(int(own[0]) for own in memory),
            "grown": max(int(own[1]) for own in memory),
        }
    return result


def _exchanges(engine: Engine | None) -> dict[str, tuple[int, int]]:
    if engine is None:
        return {}
    return {
        name: (traffic.exchanges, traffic.bytes_sent)
        for name, traffic in engine.exchanges_by_name.items()
    }


def over_gloo(specs: list[TableSpec]) -> tuple[dict[str, Way], Engine, Callable[[], int]]:
    from distributed_training import loopback_bytes

    from feedfast.comm.horovod_engine import HorovodEngine

    engine = HorovodEngine()
    # An engine each: Horovod keeps what it agreed upon by the names of exchanges.
    ways = {
        name: sharded(specs, plan, HorovodEngine())
        for name, plan in plans_of(specs, engine.size).items()
    }
    ways["replicated"] = replicated(specs, HorovodEngine())
    ways["horovod_replicated"] = horovod_replicated(specs)
    ways["horovod_alltoall"] = horovod_alltoall(specs)
    return ways, engine, loopback_bytes


def over_shared_memory(specs: list[TableSpec]) -> tuple[dict[str, Way], Engine, Callable[[], int]]:
    engine = connect()
    group = os.environ["FEEDFAST_RENDEZVOUS"]

    def another(name: str) -> Engine:
        return SharedMemoryEngine(f"{group}-{name}", rank=engine.rank, size=engine.size)

    ways = {
        name: sharded(specs, plan, another(name))
        for name, plan in plans_of(specs, engine.size).items()
    }
    ways["replicated"] = replicated(specs, another("replicated"))
    ways["one_process"] = one_process(specs)
    return ways, engine, lambda: 0


def main(rounds: str, scale: str, out: str | None = None) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    specs = specs_of(int(scale))
    make = over_gloo if out is None else over_shared_memory
    ways, engine, loopback_bytes = make(specs)
    size = 1024 // int(scale)
    batches = make_batches(specs, size, 4, engine.rank)
    document = {
        "ways": in_turns(engine, ways, batches, int(rounds), loopback_bytes),
        "examples": size,
        "ranks": engine.size,
        "tower_bytes": sum(4 * v.shape.num_elements() for v in Tower(specs).variables),
        "whole_bytes": 2 * _bytes(specs),
    }
    if engine.rank == 0 and out is not None:
        Path(out).write_text(json.dumps(document))
    elif engine.rank == 0:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
    engine.barrier()
    for way in ways.values():
        if out is not None and way.engine is not None:
            way.engine.close()
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
