"""What a call costs that looks up one row, and one more op in a graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import lookup_tables
import numpy as np

import feedfast as ff
from feedfast.bench import BenchOptions, BenchRow, row

from .common import NUM_BATCHES, Table, in_turns, timed
from .peers import Call, Peers

# torch takes 6 us for a call, feedfast may take 3; a call of a tf.function takes 125, one more op
# in it may take 10.
FIXED_TARGET = 3 / 6
ONE_MORE_OP_TARGET = 10 / 125


def fixed(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
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
