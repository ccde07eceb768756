"""Trains every row of one large table, in a process of its own so that the peak memory is its own.

`feedfast bench step --only capacity` runs this file. It prints one line of JSON: `peak_bytes` and
`start_bytes`, the resident memory at its highest and before there was a table; `table_bytes`, those
of weights and states; `rows_per_s` and `steps` of one epoch of `fit` in which every row of the
table is looked up and updated once, in an order that jumps about.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import feedfast.tf as fft

NUM_BAGS, BAG_LENGTH, DIM = 512, 50, 64
OPTIMIZERS = {
    "adam": lambda: fft.optimizers.SparseAdam(0.01),
    "rowwise_adagrad": lambda: fft.optimizers.RowwiseAdagrad(0.01),
}


def resident_bytes() -> int:
    """The most memory that this process ever held; getrusage counts that of its parent in."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) * 1024


def every_row_once(num_rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of ids and labels: ids in steps of `stride`; the last batch begins again."""
    stride = int(num_rows * (math.sqrt(5) - 1) / 2)
    while math.gcd(stride, num_rows) > 1:
        stride += 1
    labels = np.ones((NUM_BAGS, 1), np.float32)
    for first in range(0, num_rows, NUM_BAGS * BAG_LENGTH):
        places = np.arange(first, first + NUM_BAGS * BAG_LENGTH) % num_rows
        yield (places * stride % num_rows).reshape(NUM_BAGS, BAG_LENGTH), labels


def untouched_rows(table: tf.Variable, num_rows: int) -> int:
    """Rows that are still zero, counted in pieces: the table is never copied."""
    count, piece = 0, 2**18
    for first in range(0, num_rows, piece):
        rows = tf.nn.embedding_lookup(table, tf.range(first, min(first + piece, num_rows)))
        count += int(tf.reduce_sum(tf.cast(tf.reduce_all(rows == 0, 1), tf.int64)))
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, required=True)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, required=True)
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    num_rows = args.parameters // DIM
    start = resident_bytes()

    inputs = keras.Input((BAG_LENGTH,), dtype="int64")
    layer = fft.layers.PooledEmbedding(
        num_rows,
        DIM,
        embeddings_initializer="zeros",
        table_dtype=args.dtype,
        fused_optimizer=OPTIMIZERS[args.optimizer](),
    )
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    model.compile("sgd", "mse")
    batches = tf.data.Dataset.from_generator(
        lambda: every_row_once(num_rows),
        output_signature=(
            tf.TensorSpec((NUM_BAGS, BAG_LENGTH), tf.int64),
            tf.TensorSpec((NUM_BAGS, 1), tf.float32),
        ),
    )
    model.train_on_batch(*next(every_row_once(num_rows)))  # traces
    steps = -(-num_rows // (NUM_BAGS * BAG_LENGTH))
    before = time.perf_counter()
    model.fit(batches.prefetch(2), epochs=1, steps_per_epoch=steps, verbose=0)
    seconds = time.perf_counter() - before
    peak = resident_bytes()

    table = layer.embeddings.value
    if left := untouched_rows(table, num_rows):
        raise RuntimeError(f"{left} of {num_rows} rows were not trained")
    states = [weight for weight in layer.non_trainable_weights if weight.shape.rank > 0]
    result = {
        "peak_bytes": peak,
        "start_bytes": start,
        "table_bytes": sum(
            math.prod(variable.shape) * tf.as_dtype(variable.dtype).size for variable in states
        ),
        "rows_per_s": steps * NUM_BAGS * BAG_LENGTH / seconds,
        "steps": steps,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
