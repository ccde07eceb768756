"""One rank of the grid of the tape: trains, compares with one process, writes its weights' bits.

Usage: tape_worker.py FOLDER K...
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from tape_model import (
    BATCH,
    NUM_WINDOWS,
    OPTIMIZERS,
    Model,
    assert_close,
    draw_batch,
    train_on_all_at_once,
)

from feedfast.comm import Engine, connect
from feedfast.tf.distributed import AccumulatingGradientTape, broadcast_variables, equal_steps


def train(engine: Engine, k: int, optimizer: Any, *, in_function: bool) -> list[np.ndarray]:
    model = Model()
    for variable in model.variables:
        variable.assign(variable + engine.rank)
    broadcast_variables(model.variables, engine)
    tape = AccumulatingGradientTape(k, engine=engine)
    if in_function:

        @tf.function(reduce_retracing=True)
        def step(*batch: tf.Tensor) -> None:
            with tape:
                loss = model.loss(*batch)
            tape.minimize(loss, model.variables, optimizer)

    else:
        step = tape.training_step(model.loss, model.variables, optimizer)
    for window in range(NUM_WINDOWS):
        for micro_batch in range(k):
            step(*draw_batch(window, micro_batch, engine.rank))
    # Of a table with two rows both are touched at once, by enough processes.
    assert tape.table_choices[0].form == "rows" or engine.size > 2
    return [variable.numpy() for variable in model.variables]


def train_with_local_layers(engine: Engine) -> list[np.ndarray]:
    """`few` and `shift` belong to each process; each takes its part of the mean loss."""
    model = Model()
    local = [model.few, model.shift]
    tape = AccumulatingGradientTape(2, engine=engine, local_layers=local)
    optimizer = keras.optimizers.SGD(0.5)
    step = tape.training_step(model.loss, model.variables, optimizer)
    reference = Model()
    for window in range(1):
        batches = [draw_batch(window, s, r) for r in range(engine.size) for s in range(2)]
        for micro_batch in range(2):
            step(*draw_batch(window, micro_batch, engine.rank))
        with tf.GradientTape(persistent=True) as plain:
            total = BATCH * 2.0 * engine.size
            losses = [reference.loss(b[0], b[1], tf.constant(total)) for b in batches]
            everybody = tf.add_n(losses)
            mine = tf.add_n(losses[2 * engine.rank : 2 * engine.rank + 2])
        for variable in reference.variables:
            own = any(variable is v for v in (reference.few, reference.shift))
            gradient = plain.gradient(mine if own else everybody, variable.value)
            variable.assign(variable - 0.5 * tf.convert_to_tensor(gradient))
    assert_close([v.numpy() for v in model.variables], [v.numpy() for v in reference.variables])
    return [v.numpy() for v in model.variables if all(v is not one for one in local)]


def train_unequally(engine: Engine) -> list[np.ndarray]:
    """Rank r has 3 + 4 r batches; each counts once."""
    model, optimizer = Model(), OPTIMIZERS["adam"]()
    tape = AccumulatingGradientTape(2, engine=engine, clip_norm=0.05)
    step = tape.training_step(model.loss, model.variables, optimizer)

    def own(rank: int) -> list[Any]:
        return [draw_batch(99, s, rank) for s in range(3 + 4 * rank)]

    weights = [
        step(*batch, weight=w) is not None
        for batch, w in equal_steps(own(engine.rank), engine, k=2)
    ]
    assert len(weights) == 2 * -(-(3 + 4 * (engine.size - 1)) // 2)

    reference, plain_optimizer = Model(), OPTIMIZERS["adam"]()
    plain_optimizer.build(reference.variables)
    for window in range(len(weights) // 2):
        batches = [b for r in range(engine.size) for b in own(r)[2 * window : 2 * window + 2]]
        with tf.GradientTape() as plain:
            size = tf.constant(float(BATCH * len(batches)))
            loss = tf.add_n([reference.loss(b[0], b[1], size) for b in batches])
        gradients = [
            summed(g) for g in plain.gradient(loss, [v.value for v in reference.variables])
        ]
        gradients, _ = tf.clip_by_global_norm(gradients, 0.05)
        plain_optimizer.apply(gradients, reference.variables)
    got = [v.numpy() for v in model.variables]
    assert_close(got, [v.numpy() for v in reference.variables])
    return got


def summed(gradient: Any) -> Any:
    """Slices of distinct rows."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, positions = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, positions, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def main(folder: str, *ks: str) -> None:
    engine = connect("shm")
    results: dict[str, list[np.ndarray]] = {}
    for k in map(int, ks):
        for index, (name, make) in enumerate(OPTIMIZERS.items()):
            got = train(engine, k, make(), in_function=index % 2 == 0)
            results[f"k={k} {name}"] = got
            if engine.rank == index % engine.size:
                assert_close(got, train_on_all_at_once(make(), k=k, size=engine.size))
    results["local layers"] = train_with_local_layers(engine)
    results["unequal steps"] = train_unequally(engine)
    digests = {
        name: hashlib.sha256(b"".join(tensor.tobytes() for tensor in tensors)).hexdigest()
        for name, tensors in results.items()
    }
    (Path(folder) / f"{engine.rank}.json").write_text(json.dumps(digests))
    engine.barrier()
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
