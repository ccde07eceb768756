"""What rows of a table start with that were not there when it was initialised."""

from __future__ import annotations

from typing import Any, Literal

import tensorflow as tf

NewRows = Literal["zeros", "mean", "hash"]

_LIMIT = 0.05  # of the "uniform" initializer of Keras


def check_new_rows(new_rows: str) -> None:
    """ValueError unless `new_rows` is one of NewRows."""
    if new_rows not in ("zeros", "mean", "hash"):
        raise ValueError(f"new_rows must be one of 'zeros', 'mean', 'hash'; got {new_rows!r}")


def new_row_values(new_rows: NewRows, table: Any, rows: Any, *, num_rows: int) -> tf.Tensor:
    """Values [n, dim] for `rows` [n] of `table` [capacity, dim], in the dtype of the table.

    "mean" is over the first `num_rows` rows, in pieces: it never copies the table. "hash" is
    uniform in +-0.05 and depends on row and column alone, so that a row gets the same values
    wherever and whenever it is created.
    """
    count, dim = tf.shape(rows)[0], table.shape[1]
    if new_rows == "zeros":
        return tf.zeros([count, dim], table.dtype)
    if new_rows == "mean":
        piece = max(1, 2**24 // dim)
        total = tf.zeros([dim], tf.float64)
        for begin in range(0, num_rows, piece):
            rows_of_piece = tf.range(begin, min(begin + piece, num_rows))
            part = tf.nn.embedding_lookup(table, rows_of_piece)
            total += tf.reduce_sum(tf.cast(part, tf.float64), 0)
        return tf.cast(tf.tile((total / num_rows)[None], [count, 1]), table.dtype)
    # SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) of the element's position.
    x = rows[:, None] * dim + tf.range(dim, dtype=tf.int64)[None]
    return tf.cast((_uniform(x) * 2 - 1) * _LIMIT, table.dtype)


def _uniform(x: Any) -> tf.Tensor:
    """Float32 in [0, 1) from integers, well mixed."""
    x = tf.cast(x + 1, tf.uint64) * tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint64)))
        x *= tf.constant(factor, tf.uint64)
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(31, tf.uint64)))
    return tf.cast(tf.bitwise.right_shift(x, tf.constant(40, tf.uint64)), tf.float32) * 2.0**-24
