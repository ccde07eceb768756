"""One process of `test_sharded_processes.py`: trains in shards and, on rank 0, whole; compares.

Arguments: a folder for checkpoints and, of rank 0, what was found; the shares of a micro-batch,
which the ranks divide.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import feedfast.tf as fft
from feedfast.comm import Engine, NullEngine, connect
from feedfast.row_optimizers import Rule
from feedfast.sharded_tables import Normal, RowOptimization, TableSpec
from feedfast.sharding import (
    Placement,
    ShardingPlan,
    TableShape,
    column_wise,
    data_parallel,
    row_column,
    row_wise,
    table_wise,
)

STEPS, EXAMPLES = 20, 4
RULES: tuple[Rule, ...] = ("sgd", "adagrad", "rowwise_adagrad", "adam", "rowwise_adam")
# Every rule with every kind of placement; "short" has fewer rows than there may be ranks.
KINDS = ("replicated", "whole", "columns", "rows", "hot_columns", "grid", "short")
SPECS = [
    TableSpec(
        name=f"{rule}_{kind}",
        rows=2 if kind == "short" else 31,
        dim=7,
        pooling="mean",
        initializer=Normal(0.5),
        optimizer=RowOptimization(
            rule=rule,
            learning_rate=0.05,
            initial_state=0.1 if "adagrad" in rule else 0.0,
            epsilon=1e-3 if "adam" in rule else 1e-7,
        ),
    )
    for rule in RULES
    for kind in KINDS
]


def plan_of(num_ranks: int) -> ShardingPlan:
    """The tables placed as their kinds say; `grid` on hosts of two ranks where that is possible."""
    ranks = range(num_ranks)
    per_host = 2 if num_ranks % 2 == 0 and num_ranks > 2 else 1

    def place(spec: TableSpec, shape: TableShape) -> Placement:
        kinds = {
            "replicated": lambda: data_parallel(shape, num_ranks),
            "whole": lambda: table_wise(shape, num_ranks - 1),
            "columns": lambda: column_wise(shape, ranks),
            "rows": lambda: row_wise(shape, ranks),
            "hot_columns": lambda: column_wise(shape, ranks, hot_rows=5),
            "grid": lambda: row_column(shape, range(num_ranks // per_host), per_host),
            "short": lambda: row_wise(shape, ranks),
        }
        return kinds[KINDS[SPECS.index(spec) % len(KINDS)]]()

    shapes = tuple(TableShape(name=spec.name, rows=spec.rows, dim=spec.dim) for spec in SPECS)
    return ShardingPlan(
        num_ranks=num_ranks,
        ranks_per_host=per_host,
        tables=shapes,
        placements=tuple(map(place, SPECS, shapes)),
    )


def batch_of(step: int, micro: int, share: int) -> tuple[tf.Tensor, ...]:
    """Ids of all tables one after the other, offsets of their bags [tables, n + 1], targets.

    Some shares are empty, and now and then one id of a table is all that there is.
    """
    rng = np.random.default_rng([step, micro, share])
    examples = 0 if (step + share) % 11 == 4 else EXAMPLES
    ids, offsets = [], []
    for table, spec in enumerate(SPECS):
        lengths = rng.integers(0, 4, examples)
        drawn = np.minimum(rng.zipf(1.3, lengths.sum()) - 1, spec.rows - 1)
        if (step + table) % 5 == 0:
            drawn[:] = spec.rows // 2
        ids.append(drawn)
        offsets.append(np.concatenate([[0], np.cumsum(lengths)]))
    return (
        tf.constant(np.concatenate(ids), tf.int64),
        tf.constant(np.stack(offsets), tf.int64),
        tf.constant(rng.standard_normal(examples), tf.float32),
    )


def train(
    engine: Engine, world: int, k: int, plan: ShardingPlan | None, clip_norm: float | None
) -> tuple[fft.distributed.ShardedEmbedding, Any]:
    """Windows of k micro-batches of `world` shares, which the ranks of the engine divide."""
    layer = fft.distributed.ShardedEmbedding(SPECS, plan=plan, engine=engine, name="tables")
    tower = keras.layers.Dense(
        1, kernel_initializer=keras.initializers.RandomNormal(seed=1), name="tower"
    )
    tower.build((None, sum(spec.dim for spec in SPECS)))
    variables = [*tower.trainable_variables, layer.trigger]

    def loss_of(ids: tf.Tensor, offsets: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        ends = tf.cumsum(offsets[:, -1])
        bags = {
            spec.name: (ids[ends[i] - offsets[i, -1] : ends[i]], offsets[i])
            for i, spec in enumerate(SPECS)
        }
        logits = tower(tf.concat(list(layer(bags).values()), axis=1))[:, 0]
        return tf.reduce_sum(tf.square(logits - target)) / EXAMPLES

    tape = fft.distributed.AccumulatingGradientTape(
        k=k * world // engine.size, engine=engine, participants=[layer], clip_norm=clip_norm
    )
    step = tape.training_step(loss_of, variables, keras.optimizers.SGD(0.05))
    for window in range(STEPS):
        for micro in range(k):
            for share in range(engine.rank, world, engine.size):
                step(*batch_of(window, micro, share))
    return layer, tower


def compare(
    engine: Engine, folder: Path, world: int, k: int, clip_norm: float | None
) -> dict[str, Any]:
    """Trains in shards and whole; what rank 0 finds, of which the others know a part."""
    layer, tower = train(engine, world, k, plan_of(engine.size), clip_norm)
    layer.save_tables(folder / f"k{k}")
    kernels = engine.all_gather(tower.kernel.numpy(), name="kernels")
    parts = sum(part.weights.nbytes for part in layer.sharded.parts.values())
    replicas = sum(part.weights.nbytes for part in layer.sharded.replicas.values())
    memory = engine.all_gather(np.array([[parts, replicas, peak_bytes()]]), name="memory")
    found: dict[str, Any] = {"k": k, "memory": np.concatenate(memory).tolist()}
    if engine.rank == 0:
        whole, whole_tower = train(NullEngine(), world, k, None, clip_norm)
        tables = list(whole.sharded.parts.values())
        want = [part.weights.copy() for part in tables]
        whole.load_tables(folder / f"k{k}")
        found["differences"] = {
            spec.name: float(np.abs(part.weights - table).max() / np.abs(table).max())
            for spec, part, table in zip(SPECS, tables, want, strict=True)
        }
        kernel = whole_tower.kernel.numpy()
        found["differences"]["tower"] = float(
            np.abs(kernels[0] - kernel).max() / np.abs(kernel).max()
        )
        firsts = [spec.initializer(spec.name, 0, spec.rows, spec.dim) for spec in SPECS]
        found["moved"] = min(float(np.abs(a - b).max()) for a, b in zip(want, firsts, strict=True))
        found["same_bits"] = all(np.array_equal(kernels[0], kernel) for kernel in kernels)
        found["whole_bytes"] = sum(table.nbytes for table in want)
    engine.barrier()
    return found


def peak_bytes() -> int:
    """Most that was resident of this process; not ru_maxrss, which starts with the parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024


def main(folder: Path, world: int) -> None:
    with connect() as engine:
        grid = [(1, None), (2, 2.0), (5, None)]
        found = [compare(engine, folder, world, k, clip) for k, clip in grid]
        if engine.rank == 0:
            exchanges = {name: t.exchanges for name, t in engine.exchanges_by_name.items()}
            (folder / "found.json").write_text(json.dumps([found, exchanges]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
