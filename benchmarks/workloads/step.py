"""A training step of one table against TensorFlow's sparse Adagrad and Keras' Adagrad.

512 bags of 50 uniform ids, fresh in every call, dim 64. A step is the pooled lookup, its gradient
and the update, in one `tf.function`; the way `numpy` is the same without TensorFlow. Times are per
looked-up row, the fastest of the calls, because a call of a millisecond is as long as a time slice
of a busy machine. The peer of every optimizer is `tf.nn.embedding_lookup_sparse` with
`ResourceSparseApplyAdagradV2`, as fast as TensorFlow gets; Keras' Adagrad, which touches the whole
table, runs at 1 million rows, and Adam too, for the memory of its moments. The probe reads random
rows of a table on huge pages and does nothing with them.

The part `train` is a Keras model of one table and a small dense head, in examples a second: the
three ways to train a table with feedfast beside the loop with the raw op. `--only` takes the names
of the parts: table, train.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import feedfast as ff
import feedfast.tf as fft
from feedfast import _core
from feedfast.bench import BenchOptions, BenchRow, compare, row, time_interleaved
from feedfast.row_optimizers import RowUpdater

NUM_BAGS, BAG_LENGTH, DIM = 512, 50, 64
NUM_IDS = NUM_BAGS * BAG_LENGTH
NUM_BATCHES = 8
OFFSETS = np.arange(0, NUM_IDS + 1, BAG_LENGTH)
LINES_IN_FLIGHT = 128

TRAIN_BATCH = 2048
TRAIN_IDS = 20

# ANCHORS: 26 ns a row against 1003 of the raw op at 1 million rows, 30 against 1323 at 10 million.
STEP_TARGETS = {1_000_000: 26 / 1003, 10_000_000: 30 / 1323}
HALF_TARGET = 1.3  # of the same rule on float32 rows

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "sgd": lambda: fft.optimizers.SparseSGD(0.01),
    "adagrad": lambda: fft.optimizers.SparseAdagrad(0.01),
    "rowwise_adagrad": lambda: fft.optimizers.RowwiseAdagrad(0.01),
    "adam": lambda: fft.optimizers.SparseAdam(0.01),
    "rowwise_adam": lambda: fft.optimizers.RowwiseAdam(0.01),
}

Step = Callable[[tf.Tensor], Any]


def run(options: BenchOptions) -> Iterator[BenchRow]:
    # The size of TensorFlow's pool cannot change once it runs, as it may under the tests.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    for num_rows in (5_000,) if options.quick else (1_000_000, 10_000_000):
        path = f"step/rows={num_rows}/dim={DIM}/threads={options.threads}"
        if options.only in (None, "table"):
            yield from _table_rows(path, num_rows, options)
        if options.only in (None, "train"):
            yield from _train_rows(path, num_rows, options)


def _cycling(call: Callable[[Any], object], batches: list[Any]) -> Callable[[], object]:
    """`call` on the next batch each time."""
    following = itertools.cycle(batches)
    return lambda: call(next(following))


def _table_rows(path: str, num_rows: int, options: BenchOptions) -> Iterator[BenchRow]:
    rng = np.random.default_rng(0)
    repeats = 2 if options.quick else 15
    ids = [rng.integers(0, num_rows, NUM_IDS) for _ in range(NUM_BATCHES)]
    batches = [tf.constant(each) for each in ids]
    raw = _cycling(_raw_adagrad(num_rows), batches)
    raw_name = f"embedding_lookup_sparse + ResourceSparseApplyAdagradV2, {tf.__version__}"
    table = rng.random((num_rows, DIM), dtype=np.float32)
    _core.move_to_huge_pages(table)
    following = itertools.cycle(ids)

    def probe() -> None:
        _core.read_rows(table, next(following), lines_in_flight=LINES_IN_FLIGHT)

    native = _native(num_rows, options.threads)
    ours, theirs, probed = (
        float(taken.min()) * 1e9 / NUM_IDS
        for taken in time_interleaved([_cycling(native, ids), raw, probe], repeats=repeats)
    )
    case = f"{path}/optimizer=rowwise_adagrad/way=numpy"
    target = STEP_TARGETS.get(num_rows)
    yield row(case, ours, "ns", peer=raw_name, peer_value=theirs, target=target)
    yield row(f"{case}/probe", ours, "ns", peer="random rows, read", peer_value=probed)
    for name, optimizer in OPTIMIZERS.items():
        if name == "adam" and num_rows > 1_000_000:
            continue
        for way, make in (("slices", _with_slices), ("fused", _fused)):
            step = _cycling(make(num_rows, optimizer(), "float32"), batches)
            ours, theirs, probed = (
                float(taken.min()) * 1e9 / NUM_IDS
                for taken in time_interleaved([step, raw, probe], repeats=repeats)
            )
            target = STEP_TARGETS.get(num_rows) if name == "rowwise_adagrad" else None
            case = f"{path}/optimizer={name}/way={way}"
            yield row(case, ours, "ns", peer=raw_name, peer_value=theirs, target=target)
            yield row(f"{case}/probe", ours, "ns", peer="random rows, read", peer_value=probed)
            del step
            gc.collect()

    full = _cycling(_fused(num_rows, fft.optimizers.RowwiseAdagrad(0.01), "float32"), batches)
    for dtype in ("float16", "bfloat16"):
        half = _fused(num_rows, fft.optimizers.RowwiseAdagrad(0.01), dtype)
        yield compare(
            f"{path}/optimizer=rowwise_adagrad/way=fused/table={dtype}",
            _cycling(half, batches),
            full,
            peer_name="the same on float32 rows",
            unit="ns",
            work=NUM_IDS,
            target=HALF_TARGET,
            repeats=repeats,
            percentile=0,
        )
    if num_rows <= 1_000_000:
        stock = _with_slices(num_rows, keras.optimizers.Adagrad(0.01), "float32")
        yield compare(
            f"{path}/optimizer=adagrad/way=slices/stock",
            _cycling(
                _with_slices(num_rows, fft.optimizers.SparseAdagrad(0.01), "float32"), batches
            ),
            _cycling(stock, batches),
            peer_name=f"keras.optimizers.Adagrad, {keras.__version__}",
            unit="ns",
            work=NUM_IDS,
            repeats=3,
            percentile=0,
        )


def _native(num_rows: int, threads: int) -> Callable[[np.ndarray], None]:
    """Lookup and update of a numpy table, without TensorFlow."""
    table = np.zeros((num_rows, DIM), np.float32)
    _core.move_to_huge_pages(table)
    updater = RowUpdater("rowwise_adagrad", threads=threads)
    states = updater.states(table, initial=0.1)
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
        _apply_raw(table, accumulator, tape.gradient(loss, table))

    return step


def _apply_raw(table: tf.Variable, accumulator: tf.Variable, gradient: tf.IndexedSlices) -> None:
    tf.raw_ops.ResourceSparseApplyAdagradV2(
        var=table.handle,
        accum=accumulator.handle,
        lr=0.01,
        epsilon=1e-7,
        grad=gradient.values,
        indices=gradient.indices,
    )


def _train_rows(path: str, num_rows: int, options: BenchOptions) -> Iterator[BenchRow]:
    batch = 64 if options.quick else TRAIN_BATCH
    rng = np.random.default_rng(1)
    batches = [tf.constant(rng.integers(0, num_rows, (batch, TRAIN_IDS))) for _ in range(4)]
    labels = tf.constant(rng.random((batch, 1)), tf.float32)
    ways: dict[str, Callable[[], Step]] = {
        "optimizer": lambda: _model(num_rows, labels, fft.optimizers.SparseAdagrad(0.01)),
        "fused": lambda: _model(
            num_rows,
            labels,
            keras.optimizers.Adagrad(0.01),
            fused_optimizer=fft.optimizers.SparseAdagrad(0.01),
        ),
        "drop-in": lambda: _raw_loop(num_rows, labels, fft.embedding_lookup_sparse),
        "stock": lambda: _stock(num_rows, labels),
    }
    raw = _cycling(_raw_loop(num_rows, labels, tf.nn.embedding_lookup_sparse), batches)
    for way, make in ways.items():
        if way == "stock" and num_rows > 1_000_000:
            continue  # four copies of the table in memory, and minutes a batch
        step = _cycling(make(), batches)
        repeats = 2 if options.quick or way == "stock" else 9
        ours, theirs = (
            batch / float(taken.min()) for taken in time_interleaved([step, raw], repeats=repeats)
        )
        yield row(
            f"{path}/train/way={way}",
            ours,
            "examples/s",
            peer="tf.nn.embedding_lookup_sparse + ResourceSparseApplyAdagradV2",
            peer_value=theirs,
            smaller_is_better=False,
        )
        del step
        gc.collect()


def _head() -> keras.Sequential:
    head = keras.Sequential([keras.layers.Dense(64, activation="relu"), keras.layers.Dense(1)])
    head.build((None, DIM))
    return head


def _model(num_rows: int, labels: tf.Tensor, optimizer: Any, **options: Any) -> Step:
    """`train_on_batch` of a compiled model of the layer."""
    inputs = keras.Input((TRAIN_IDS,), dtype="int64")
    layer = fft.layers.PooledEmbedding(num_rows, DIM, pooling="mean", **options)
    model = keras.Model(inputs, _head()(layer(inputs)))
    model.compile(optimizer, "mse")
    return lambda ids: model.train_on_batch(ids, labels)


def _stock(num_rows: int, labels: tf.Tensor) -> Step:
    inputs = keras.Input((TRAIN_IDS,), dtype="int64")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(num_rows, DIM)(inputs))
    model = keras.Model(inputs, _head()(pooled))
    model.compile(keras.optimizers.Adagrad(0.01), "mse")
    return lambda ids: model.train_on_batch(ids, labels)


def _raw_loop(num_rows: int, labels: tf.Tensor, lookup: Callable[..., tf.Tensor]) -> Step:
    """A loop of one's own: `lookup`, the raw sparse Adagrad for the table, Keras for the head."""
    table = tf.Variable(tf.random.uniform([num_rows, DIM], -0.05, 0.05))
    accumulator = tf.Variable(tf.fill([num_rows, DIM], 0.1))
    head = _head()
    dense = keras.optimizers.Adagrad(0.01)
    dense.build(head.trainable_variables)
    batch = labels.shape[0]
    bags = np.repeat(np.arange(batch), TRAIN_IDS)
    indices = tf.constant(np.stack([bags, np.tile(np.arange(TRAIN_IDS), batch)], 1))
    shape = tf.constant([batch, TRAIN_IDS], tf.int64)

    @tf.function
    def step(ids: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            sparse = tf.SparseTensor(indices, tf.reshape(ids, [-1]), shape)
            predicted = head(lookup(table, sparse, None, combiner="mean"))
            loss = tf.reduce_mean((predicted - labels) ** 2)
        weights = [weight.value for weight in head.trainable_variables]
        by_table, *by_head = tape.gradient(loss, [table, *weights])
        _apply_raw(table, accumulator, by_table)
        dense.apply_gradients(zip(by_head, head.trainable_variables, strict=True))

    return step
