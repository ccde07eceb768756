"""What several parts need."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

NUM_BAGS, BAG_LENGTH, DIM = 512, 50, 64
NUM_IDS = NUM_BAGS * BAG_LENGTH

Step = Callable[[Any], Any]


def in_turn(step: Step, batches: Sequence[Any]) -> Callable[[], object]:
    """`step` on the next batch each time."""
    turns = itertools.cycle(batches)
    return lambda: step(next(turns))


def apply_raw_adagrad(
    table: tf.Variable, accumulator: tf.Variable, gradient: tf.IndexedSlices
) -> None:
    """TensorFlow's own sparse Adagrad, as fast as it gets."""
    tf.raw_ops.ResourceSparseApplyAdagradV2(
        var=table.handle,
        accum=accumulator.handle,
        lr=0.01,
        epsilon=1e-7,
        grad=gradient.values,
        indices=gradient.indices,
    )
