"""One table: lookup, gradient and update, in ns per looked-up row.

512 bags of 50 uniform ids, fresh in every step, dim 64. A step in TensorFlow is one `tf.function`;
the way `numpy` is the same without TensorFlow. Sides take turns of eight steps
and the figure is the fastest step: a step of a millisecond is as long as a time slice of a busy
machine. `vs=tensorflow` is `tf.nn.embedding_lookup_sparse` with `ResourceSparseApplyAdagradV2`, as
fast as TensorFlow gets; `vs=probe` reads the rows and does nothing with them.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import feedfast as ff
import feedfast.tf as fft
from feedfast import _core
from feedfast.bench import BenchOptions, BenchRow, row
from feedfast.row_optimizers import RowUpdater, Rule
from step_parts.common import (
    BAG_LENGTH,
    DIM,
    NUM_BAGS,
    NUM_IDS,
    Step,
    apply_raw_adagrad,
    in_turn,
)
from step_parts.peers import open_peer

NUM_BATCHES = 32  # of more rows than a cache holds
STEPS_OF_A_TURN = 8
OFFSETS = np.arange(0, NUM_IDS + 1, BAG_LENGTH)
LINES_IN_FLIGHT = 128

# ANCHORS: 26 ns a row against 1003 of the raw op at 1 million rows, 30 against 1323 at 10 million.
TENSORFLOW_TARGETS = {1_000_000: 26 / 1003, 10_000_000: 30 / 1323}
FBGEMM_TARGET = 1 / 1.7
HALF_TARGET = 1.3  # of the same rule on float32 rows

RULES: dict[Rule, Callable[[], keras.optimizers.Optimizer]] = {
    "rowwise_adagrad": lambda: fft.optimizers.RowwiseAdagrad(0.01),
    "sgd": lambda: fft.optimizers.SparseSGD(0.01),
    "adagrad": lambda: fft.optimizers.SparseAdagrad(0.01),
    "rowwise_adam": lambda: fft.optimizers.RowwiseAdam(0.01),
    "adam": lambda: fft.optimizers.SparseAdam(0.01),
}
PEERS: dict[Rule, tuple[str, ...]] = {
    "rowwise_adagrad": ("fbgemm/rowwise_adagrad/float32",),
    "sgd": ("fbgemm/sgd/float32", "torch/sgd"),
    "adagrad": ("fbgemm/adagrad/float32", "torch/adagrad"),
    "adam": ("torch/adam",),
}

Turn = Callable[[int], list[float]]  # seconds of each of so many steps


def run(options: BenchOptions, num_rows: int) -> Iterator[BenchRow]:
    """Every optimizer in every way, beside its peers."""
    num_rows = 5_000 if options.quick else num_rows
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, num_rows, NUM_IDS) for _ in range(NUM_BATCHES)]
    batches = [tf.constant(each) for each in ids]
    path = f"step/rows={num_rows}/dim={DIM}/threads={options.threads}"
    turns = 1 if options.quick else 4
    target = TENSORFLOW_TARGETS.get(num_rows)

    raw = timed(in_turn(_raw_adagrad(num_rows), batches))
    raw_name = f"embedding_lookup_sparse + ResourceSparseApplyAdagradV2, {tf.__version__}"
    rules = [rule for rule in RULES if num_rows <= 1_000_000 or rule in ("rowwise_adagrad", "sgd")]
    for rule in rules:
        ways: dict[str, Callable[[], Callable[[], object]]] = {
            "numpy": lambda rule=rule: in_turn(_native(rule, num_rows, options.threads), ids),
            "fused": lambda rule=rule: in_turn(_fused(num_rows, RULES[rule](), "float32"), batches),
            "slices": lambda rule=rule: in_turn(
                _with_slices(num_rows, RULES[rule](), "float32"), batches
            ),
        }
        for way, make in ways.items():
            ours, theirs = fastest([timed(make()), raw], turns)
            gc.collect()
            yield row(
                f"{path}/optimizer={rule}/way={way}/vs=tensorflow",
                ours,
                "ns",
                peer=raw_name,
                peer_value=theirs,
                target=target if rule == "rowwise_adagrad" else None,
            )
    del raw
    gc.collect()
    yield from _beside_probe(path, num_rows, ids, turns, options)
    for rule in rules:
        for kind in PEERS.get(rule, ()):
            yield from _beside_peer(path, rule, kind, num_rows, ids, turns, options)
    if num_rows <= 1_000_000:
        yield from _half(path, num_rows, batches, turns)
        yield from _keras(path, num_rows, batches)


def timed(step: Callable[[], object]) -> Turn:
    def turn(calls: int) -> list[float]:
        taken = []
        for _ in range(calls):
            before = time.perf_counter()
            step()
            taken.append(time.perf_counter() - before)
        return taken

    return turn


def fastest(sides: list[Turn], turns: int, calls: int = STEPS_OF_A_TURN) -> list[float]:
    """Ns per looked-up row of the fastest step of each side; the first step is not timed."""
    for side in sides:
        side(1)
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(turns):
        for side, seconds in zip(sides, taken, strict=True):
            seconds += side(calls)
    return [min(seconds) * 1e9 / NUM_IDS for seconds in taken]


def _beside_probe(
    path: str, num_rows: int, ids: list[np.ndarray], turns: int, options: BenchOptions
) -> Iterator[BenchRow]:
    table = np.full((num_rows, DIM), 0.1, np.float32)
    _core.move_to_huge_pages(table)

    def probe(values: np.ndarray) -> None:
        _core.read_rows(table, values, lines_in_flight=LINES_IN_FLIGHT)

    native = timed(in_turn(_native("rowwise_adagrad", num_rows, options.threads), ids))
    ours, theirs = fastest([native, timed(in_turn(probe, ids))], 4 * turns)
    case = f"{path}/optimizer=rowwise_adagrad/way=numpy/vs=probe"
    yield row(case, ours, "ns", peer="random rows, read", peer_value=theirs)


def _beside_peer(
    path: str,
    rule: Rule,
    kind: str,
    num_rows: int,
    ids: list[np.ndarray],
    turns: int,
    options: BenchOptions,
) -> Iterator[BenchRow]:
    sizes = {"rows": num_rows, "dim": DIM, "bag_length": BAG_LENGTH, "threads": options.threads}
    with open_peer(kind, ids, **sizes) as peer:
        if peer is None:
            return
        native = timed(in_turn(_native(rule, num_rows, options.threads), ids))
        ours, theirs = fastest([native, peer.times], 2 * turns)
        yield row(
            f"{path}/optimizer={rule}/way=numpy/vs={kind}",
            ours,
            "ns",
            peer=peer.package,
            peer_value=theirs,
            target=FBGEMM_TARGET if kind == "fbgemm/rowwise_adagrad/float32" else None,
        )


def _half(path: str, num_rows: int, batches: list[tf.Tensor], turns: int) -> Iterator[BenchRow]:
    full = timed(in_turn(_fused(num_rows, fft.optimizers.RowwiseAdagrad(0.01), "float32"), batches))
    for dtype in ("float16", "bfloat16"):
        half = _fused(num_rows, fft.optimizers.RowwiseAdagrad(0.01), dtype)
        ours, theirs = fastest([timed(in_turn(half, batches)), full], 4 * turns)
        yield row(
            f"{path}/optimizer=rowwise_adagrad/way=fused/table={dtype}/vs=float32",
            ours,
            "ns",
            peer="the same on float32 rows",
            peer_value=theirs,
            target=HALF_TARGET,
        )


def _keras(path: str, num_rows: int, batches: list[tf.Tensor]) -> Iterator[BenchRow]:
    """Keras' own optimizer on the same gradient: it walks the table."""
    ours, theirs = fastest(
        [
            timed(in_turn(_with_slices(num_rows, optimizer, "float32"), batches))
            for optimizer in (fft.optimizers.SparseAdagrad(0.01), keras.optimizers.Adagrad(0.01))
        ],
        turns=1,
        calls=4,
    )
    yield row(
        f"{path}/optimizer=adagrad/way=slices/vs=keras",
        ours,
        "ns",
        peer=f"keras.optimizers.Adagrad, {keras.__version__}",
        peer_value=theirs,
    )


def _native(rule: Rule, num_rows: int, threads: int) -> Step:
    """Lookup and update of a numpy table, without TensorFlow."""
    table = np.full((num_rows, DIM), 0.1, np.float32)
    updater = RowUpdater(rule, threads=threads)
    states = updater.states(table, initial=0.1)
    for array in (table, *states):
        _core.move_to_huge_pages(array)
    grad = np.ones((NUM_BAGS, DIM), np.float32)
    count = itertools.count(1)

    def step(values: np.ndarray) -> None:
        ff.pooled_lookup(table, values, OFFSETS, None, "sum", threads)
        updater.apply_bags(
            table, states, values, OFFSETS, None, grad, learning_rate=0.01, step=next(count)
        )

    return step


def _layer(num_rows: int, **options: Any) -> fft.layers.PooledEmbedding:
    layer = fft.layers.PooledEmbedding(num_rows, DIM, embeddings_initializer="zeros", **options)
    layer.build()
    return layer


def _with_slices(num_rows: int, optimizer: keras.optimizers.Optimizer, dtype: str) -> Step:
    layer = _layer(num_rows, table_dtype=dtype)
    optimizer.build(layer.trainable_weights)

    @tf.function
    def step(values: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer((values, OFFSETS)))
        table = layer.trainable_weights[0]
        optimizer.apply_gradients([(tape.gradient(loss, table.value), table)])

    return step


def _fused(num_rows: int, optimizer: keras.optimizers.Optimizer, dtype: str) -> Step:
    layer = _layer(num_rows, table_dtype=dtype, fused_optimizer=optimizer)

    @tf.function
    def step(values: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer((values, OFFSETS)))
        return tape.gradient(loss, layer.trainable_weights[0].value)

    return step


def _raw_adagrad(num_rows: int) -> Step:
    table = tf.Variable(tf.zeros([num_rows, DIM]))
    accumulator = tf.Variable(tf.fill([num_rows, DIM], 0.1))
    bags = np.repeat(np.arange(NUM_BAGS), BAG_LENGTH)
    indices = tf.constant(np.stack([bags, np.tile(np.arange(BAG_LENGTH), NUM_BAGS)], 1))
    shape = tf.constant([NUM_BAGS, BAG_LENGTH], tf.int64)

    @tf.function
    def step(values: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            sparse = tf.SparseTensor(indices, values, shape)
            pooled = tf.nn.embedding_lookup_sparse(table, sparse, None, combiner="sum")
            loss = tf.reduce_sum(pooled)
        apply_raw_adagrad(table, accumulator, tape.gradient(loss, table))

    return step
