"""Pooled lookup against `tf.nn.embedding_lookup_sparse` and numpy's `np.add.reduceat`.

512 bags of 50 ids each, fresh ids in every call, uniform or Zipf-distributed with exponent 1.05;
times are per looked-up row. TensorFlow calls run inside one `tf.function`, forward and with the
gradient by the table.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

import feedfast as ff
import feedfast.tf as fft
from feedfast.bench import BenchOptions, BenchRow, compare

NUM_BAGS = 512
BAG_LENGTH = 50
NUM_IDS = NUM_BAGS * BAG_LENGTH
NUM_BATCHES = 8
OFFSETS = np.arange(0, NUM_IDS + 1, BAG_LENGTH)

FORWARD_TARGET = 1 / 10  # of tf.nn.embedding_lookup_sparse


def run(options: BenchOptions) -> Iterator[BenchRow]:
    # The size of TensorFlow's pool cannot change once it runs, as it may under the tests.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    num_rows = 20_000 if options.quick else 1_000_000
    repeats = 3 if options.quick else 25
    rng = np.random.default_rng(0)
    for dim in (64,) if options.quick else (16, 64, 128):
        table = rng.standard_normal((num_rows, dim), dtype=np.float32)
        for ids in ("uniform", "zipf"):
            batches = [_ids(rng, num_rows, ids) for _ in range(NUM_BATCHES)]
            path = f"lookup/rows={num_rows}/dim={dim}/ids={ids}/threads={options.threads}"
            yield from _numpy_rows(path, table, batches, options.threads, repeats)
            if dim == 64:
                yield from _tensorflow_rows(path, table, batches, repeats)


def _ids(rng: np.random.Generator, num_rows: int, kind: str) -> np.ndarray:
    u = rng.random(NUM_IDS)
    if kind == "uniform":
        return (u * num_rows).astype(np.int64)
    # Inverse of the continuous distribution with density x^-1.05 on [1, num_rows + 1).
    ranks = (1 - u * (1 - (num_rows + 1.0) ** -0.05)) ** -20.0
    return np.minimum(ranks.astype(np.int64) - 1, num_rows - 1) * 611_953 % num_rows


def _cycling(call: Callable[[Any], object], batches: list[Any]) -> Callable[[], object]:
    """`call` on the next batch each time."""
    following = itertools.cycle(batches)
    return lambda: call(next(following))


def _numpy_rows(
    path: str, table: np.ndarray, batches: list[np.ndarray], threads: int, repeats: int
) -> Iterator[BenchRow]:
    def numpy(ids: np.ndarray) -> np.ndarray:
        return np.add.reduceat(table[ids], OFFSETS[:-1]) / BAG_LENGTH

    half = table.astype(np.float16)
    quantized = ff.QuantizedTable.quantize(table)
    lookups: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "fp32": lambda ids: ff.pooled_lookup(table, ids, OFFSETS, None, "mean", threads),
        "fp16": lambda ids: ff.pooled_lookup(half, ids, OFFSETS, None, "mean", threads),
        "int8": lambda ids: quantized.pooled_lookup(ids, OFFSETS, None, "mean", threads),
    }
    for storage, lookup in lookups.items():
        # int8: half a step of about 6 / 255, averaged over a bag
        np.testing.assert_allclose(lookup(batches[0]), numpy(batches[0]), atol=2e-2)
        yield compare(
            f"{path}/storage={storage}",
            _cycling(lookup, batches),
            _cycling(numpy, batches),
            peer_name="numpy add.reduceat, fp32",
            unit="ns",
            work=NUM_IDS,
            repeats=repeats,
        )


def _tensorflow_rows(
    path: str, table: np.ndarray, batches: list[np.ndarray], repeats: int
) -> Iterator[BenchRow]:
    variable = tf.Variable(table)
    rows = tf.constant(np.repeat(np.arange(NUM_BAGS), BAG_LENGTH))
    columns = tf.constant(np.tile(np.arange(BAG_LENGTH), NUM_BAGS))
    indices = tf.stack([rows, columns], 1)
    shape = tf.constant([NUM_BAGS, BAG_LENGTH], tf.int64)
    ids = [tf.constant(batch) for batch in batches]

    def forward(lookup: Callable[..., tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
        @tf.function
        def call(values: tf.Tensor) -> tf.Tensor:
            return lookup(variable, tf.SparseTensor(indices, values, shape), None)

        return call

    def backward(lookup: Callable[..., tf.Tensor]) -> Callable[[tf.Tensor], Any]:
        @tf.function
        def call(values: tf.Tensor) -> Any:
            with tf.GradientTape() as tape:
                pooled = lookup(variable, tf.SparseTensor(indices, values, shape), None)
                loss = tf.reduce_sum(pooled)
            gradient = tape.gradient(loss, variable)
            return gradient.values, gradient.indices

        return call

    @tf.function
    def op(values: tf.Tensor) -> tf.Tensor:
        return fft.ops.pooled_lookup(variable, values, OFFSETS, pooling="mean")

    theirs = forward(tf.nn.embedding_lookup_sparse)
    drop_in = forward(fft.embedding_lookup_sparse)
    for ours in (op, drop_in):
        np.testing.assert_allclose(ours(ids[0]), theirs(ids[0]), atol=1e-5)
    calls = (
        ("op", op, theirs, FORWARD_TARGET),
        ("embedding_lookup_sparse", drop_in, theirs, FORWARD_TARGET),
        (
            "embedding_lookup_sparse/with_gradient",
            backward(fft.embedding_lookup_sparse),
            backward(tf.nn.embedding_lookup_sparse),
            None,
        ),
    )
    for name, ours, peer, target in calls:
        yield compare(
            f"{path}/tf={name}",
            _cycling(ours, ids),
            _cycling(peer, ids),
            peer_name=f"tf.nn.embedding_lookup_sparse, tensorflow {tf.__version__}",
            unit="ns",
            work=NUM_IDS,
            target=target,
            repeats=repeats,
        )
