"""What each process of tests/distributed/test_exchange_counts.py does: a few windows of training.

Usage: timeline_ranks.py FOLDER [TIMELINE]. Under horovodrun the timeline is Horovod's own; over
shared memory TIMELINE is that of `TracedEngine`, which rank 0 writes. A barrier named for the
number of tables stands before the training with them.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

import feedfast.tf as fft
from feedfast.comm import Engine, connect
from feedfast.comm.traced import TracedEngine
from feedfast.sharded_tables import TableSpec
from feedfast.sharding import Placement, ShardingPlan, TableShape, column_wise, row_wise, table_wise

NUM_TABLES = (1, 6)
K, WINDOWS, BATCH = 3, 4, 5


def sharded_layer(engine: Engine, num_tables: int) -> Any:
    """Tables divided in every way."""
    shapes = tuple(TableShape(name=f"t{i}", rows=20 + i, dim=4 + i) for i in range(num_tables))

    def place(shape: TableShape, index: int) -> Placement:
        ranks = range(engine.size)
        if index % 3 == 0:
            return row_wise(shape, ranks)
        return column_wise(shape, ranks) if index % 3 == 1 else table_wise(shape, 0)

    return fft.distributed.ShardedEmbedding(
        [
            TableSpec(name=s.name, rows=s.rows, dim=s.dim, optimizer=fft.optimizers.SparseSGD(0.1))
            for s in shapes
        ],
        plan=ShardingPlan(
            num_ranks=engine.size,
            ranks_per_host=1,
            tables=shapes,
            placements=tuple(place(shape, index) for index, shape in enumerate(shapes)),
        ),
        engine=engine,
    )


def train(engine: Engine, num_tables: int) -> None:
    """Two towers' weights, two tables on every rank, and `num_tables` that are divided."""
    layer = sharded_layer(engine, num_tables)
    # The rows of the first always cost less than all of it, those of the second never.
    large, small = tf.Variable(tf.ones([5000, 3])), tf.Variable(tf.ones([2, 3]))
    weight, half = tf.Variable(tf.ones([3, 1])), tf.Variable(tf.ones([3], tf.float16))
    tape = fft.distributed.AccumulatingGradientTape(K, engine=engine, participants=[layer])
    variables = [large, weight, small, half, layer.trigger]
    rng = np.random.default_rng(engine.rank)
    for _ in range(WINDOWS * K):
        offsets = tf.range(BATCH + 1, dtype=tf.int64)
        bags = {
            f"t{i}": (tf.constant(rng.integers(0, 20, BATCH)), offsets) for i in range(num_tables)
        }
        with tape:
            pooled = layer(bags)
            rows = tf.gather(large, rng.integers(0, 5000, BATCH)) + tf.gather(
                small, [0, 1, 1, 0, 1]
            )
            loss = tf.reduce_mean(rows @ weight) + tf.reduce_sum(tf.cast(half, tf.float32))
            loss += tf.add_n([tf.reduce_mean(p) for p in pooled.values()])
        gradients = tape.gradient(loss, variables)
        if gradients is not None:
            for variable, gradient in zip(variables[:4], gradients, strict=False):
                variable.assign_sub(tf.convert_to_tensor(gradient) * 0.1)
    assert [choice.form for choice in tape.table_choices] == ["rows", "table"]


def main(folder: str, timeline: str | None = None) -> None:
    engine = connect()
    if timeline is not None:
        engine = TracedEngine(engine, timeline=Path(timeline) if engine.rank == 0 else None)
    for num_tables in NUM_TABLES:
        engine.barrier(name=f"tables{num_tables}")
        train(engine, num_tables)
    engine.barrier(name="end")
    # Horovod writes its timeline in a thread, and forgets what is still in its queue at the end.
    for _ in range(20):
        engine.barrier(name="behind_the_end")
        time.sleep(0.1)
    (Path(folder) / f"{engine.rank}.done").touch()
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
