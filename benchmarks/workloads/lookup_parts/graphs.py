"""Calls of one `tf.function`, forward and with the gradient by the table."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

import feedfast as ff
from feedfast.bench import BenchOptions, BenchRow

from .common import (
    BAG_LENGTH,
    NUM_BAGS,
    equal_lengths,
    in_turns,
    make_batches,
    rows_beside,
    sizes,
    timed,
)
from .peers import Call, Peers

TENSORFLOW_TARGET = 1 / 10


def forward_and_gradient(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
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
    largest = max(sizes(options))
    whole = tf.Variable(tf.random.stateless_uniform([largest, dim], [1, 2], -0.5, 0.5))
    for rows, ids in itertools.product(sizes(options), ("uniform", "zipf")):
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
            yield from rows_beside(
                f"{path}/tf={name}", taken, names, targets, NUM_BAGS * BAG_LENGTH
            )
        backward = {
            "ours": call(with_gradient(drop_in)),
            "embedding_lookup_sparse": call(with_gradient(theirs)),
        }
        taken = in_turns(backward, options, 3)
        yield from rows_beside(f"{path}/tf=with_gradient", taken, names, {}, NUM_BAGS * BAG_LENGTH)
