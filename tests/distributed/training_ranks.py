"""What each process of tests/distributed/test_training_processes.py does; run by `run_local`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import resource
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorFlow's own
    import keras
    import tensorflow as tf

    from feedfast.tf import optimizers

from feedfast.comm import Engine, NullEngine, connect
from feedfast.comm.traced import TracedEngine
from feedfast.config import (
    DistributedConfig,
    EmbeddingInputConfig,
    ForestConfig,
    RankerConfig,
    TableConfig,
    TowerConfig,
    TrainingConfig,
)
from feedfast.data import Simulation, simulate
from feedfast.objectives import Objective, inverse_base_rates
from feedfast.ranker.examples import Examples, RowBags
from feedfast.ranker.features import FeatureSpace, Sizes
from feedfast.ranker.model import DividedTables, RankerModel
from feedfast.ranker.rows import history_of
from feedfast.ranker.tensor_store import write_tensors
from feedfast.sharded_tables.checkpoint import arrays_of
from feedfast.sharding import ShardingPlan, TableShape, data_parallel, row_column, row_wise
from feedfast.training import Progress, loop, replicas, saving, train, trainer
from feedfast.training.table_plan import table_shapes
from feedfast.training.trainer import LabelledExamples

NUM_STEPS = 20
EXIT_NO_MEMORY = 77


class Interrupted(Exception):
    """Stands for the job dying in the middle of a stage."""


def simulation() -> Simulation:
    return simulate(
        num_members=200, num_requests=200, num_posts=300, num_hashtags=40, num_clusters=4, seed=3
    )


def config(*, dropout: float = 0.1, accumulate: int = 2, norms: bool = True) -> RankerConfig:
    tower = TowerConfig(units=(12, 6), dropout=dropout)
    return RankerConfig(
        member=TableConfig(dim=5, min_count=4, id_dropout=0.1),
        hashtag=TableConfig(dim=3, min_count=2, id_dropout=0.2),
        forest=ForestConfig(num_trees=5, max_depth=3, leaf_dim=4),
        passive=tower,
        active=dataclasses.replace(tower, gate="input", units=(9,)),
        training=TrainingConfig(
            batch_size=250,
            accumulate=accumulate,
            max_epochs=2,
            learning_rate=0.02,
            warmup_steps=5,
            checkpoint_every_steps=5,
        ),
        embedding_inputs=(EmbeddingInputConfig(prefix="hour_"),) if norms else (),
        seed=11,
    )


def plan_of(tables: Sequence[TableShape], size: int) -> ShardingPlan:
    """Members by rows with some on every rank, hashtags by columns, leaves whole on each."""
    member, hashtag, leaf = tables
    return ShardingPlan(
        num_ranks=size,
        ranks_per_host=1,
        tables=tuple(tables),
        placements=(
            row_wise(member, range(size), hot_rows=20),
            row_column(hashtag, range(min(size, hashtag.dim)), 1),
            data_parallel(leaf, size),
        ),
    )


class Taught:
    """A trainer, whole or divided, on examples of the simulation.

    Adam divides by the root of a moving average: where that is near zero, rounding decides. With a
    larger epsilon the weights follow the gradients.
    """

    def __init__(self, engine: Engine | None, accumulate: int, *, divided: bool = False) -> None:
        self.config = config(dropout=0.0, accumulate=accumulate, norms=False)
        data = simulation().dataset
        self.num_rows = data.log.num_rows
        features = FeatureSpace.fit(data, np.arange(self.num_rows), self.config)
        self.examples = LabelledExamples(
            features.encode(data.log, history_of(data, self.config)),
            data.log.labels,
            np.ones_like(data.log.labels),
        )
        base_rates = 1.0 / inverse_base_rates(data.log.labels, data.objectives).astype(np.float64)
        adam, sparse_adam = keras.optimizers.Adam, optimizers.SparseAdam
        keras.optimizers.Adam = functools.partial(adam, epsilon=1e-3)
        optimizers.SparseAdam = functools.partial(sparse_adam, epsilon=1e-3)  # type: ignore[misc]
        try:
            tables = None
            if divided:
                shapes = table_shapes(self.config, features.sizes, self.examples.examples)
                ranks = engine or NullEngine()
                plan = plan_of(shapes, ranks.size)
                tables = DividedTables(plan, ranks, trainer.table_optimizer())
            model = RankerModel(self.config, features.sizes, data.objectives, base_rates, tables)
            self.trainer = trainer.Trainer(model, self.config, engine)
        finally:
            keras.optimizers.Adam, optimizers.SparseAdam = adam, sparse_adam  # type: ignore[misc]
        # So that a decay of the tables is among few steps.
        self.trainer._decay_steps = 6
        self.trainer.align()

    def take_steps(self, first: int, end: int) -> None:
        for step in range(first, end):
            # Batches of one row leave a rank, and micro-batches, without any.
            size = 1 if step == 4 else 250
            rows = np.random.default_rng([7, step]).choice(self.num_rows, size, replace=False)
            share = replicas.share_of(len(rows), self.trainer.engine)
            batch = loop._draw_batch(self.examples, rows, share, self.config, step)
            self.trainer.step(batch, 0.01)

    def state(self) -> dict[str, np.ndarray]:
        """All variables by name; the parts of divided tables here as `name|range of cells`."""
        found = {name: np.array(v.numpy()) for name, v in self.trainer.variables.items()}
        tables = self.trainer.sharded
        if tables is not None:
            found[trainer.UPDATES] = np.array(tables.updates)
            for part in [*tables.parts.values(), *tables.replicas.values()]:
                p = part.piece
                where = f"{p.row_begin}:{p.row_end}:{p.column_begin}:{p.column_end}"
                for name, array in arrays_of(part).items():
                    found[f"tables/{tables.specs[p.table].name}/{name}|{where}"] = array.copy()
        return found


def require_same_state(
    parts: Sequence[Mapping[str, np.ndarray]], want: Mapping[str, np.ndarray], tolerance: float
) -> None:
    """The states of ranks together are `want`, to `tolerance` of each tensor's largest value."""
    seen = {name: np.zeros(array.shape, bool) for name, array in want.items()}
    for got in parts:
        for key, array in got.items():
            name, _, where = key.partition("|")
            cells: Any = ...
            if where:
                first, end, left, right = map(int, where.split(":"))
                cells = (slice(first, end), slice(left, right))
            seen[name][cells] = True
            if want[name].dtype.kind == "i" and name != trainer.UPDATES:
                continue  # counters: dropout counts micro-batches
            np.testing.assert_allclose(
                array,
                want[name][cells],
                rtol=0,
                atol=tolerance * np.abs(want[name]).max(),
                err_msg=key,
            )
    assert all(array.all() for array in seen.values())


def weights_after_steps(
    engine: Engine | None, accumulate: int, *, divided: bool = False
) -> dict[str, np.ndarray]:
    """All state after some steps."""
    taught = Taught(engine, accumulate, divided=divided)
    taught.take_steps(0, NUM_STEPS)
    if engine is not None:
        digest = hashlib.sha256()
        for variable in taught.trainer.variables.values():
            if variable.dtype != "int64" or variable.shape != (2,):  # dropout's seeds differ
                digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
        mine = np.frombuffer(digest.digest(), np.uint8)
        assert all((other == mine).all() for other in engine.all_gather(mine))
    return taught.state()


def train_in(
    engine: Engine, folder: Path, *, die_at: int = 0, sharding: str = "none"
) -> list[Progress]:
    """Trains in a folder; `die_at`: all ranks stop at this step of the first stage."""
    seen: list[Progress] = []

    def tell(progress: Progress) -> None:
        seen.append(progress)
        if die_at and progress.stage == "select" and progress.step == die_at:
            raise Interrupted

    loop._PROGRESS_INTERVAL_S = 0.0
    try:
        chosen = dataclasses.replace(config(), distributed=DistributedConfig(sharding=sharding))
        train(simulation().dataset, chosen, folder, progress=tell, engine=engine)
    except Interrupted:
        assert die_at
    else:
        assert not die_at
    return seen


def main(folder: Path, part: str) -> None:
    engine = TracedEngine(connect())
    {
        "weights": train_weights,
        "runs": train_runs,
        "divided": train_divided,
        "memory": train_in_little_memory,
    }[part](engine, folder)
    engine.close()


def train_weights(engine: TracedEngine, folder: Path) -> None:
    for accumulate in (1, 3):
        for divided in (False, True):
            weights = weights_after_steps(engine, accumulate, divided=divided)
            name = f"{'divided' if divided else 'whole'}_{accumulate}_{engine.rank}.npz"
            np.savez(folder / name, **weights)  # type: ignore[arg-type]


def train_divided(engine: TracedEngine, folder: Path) -> None:
    """A run with divided tables, the same cut off and resumed, and one that began alone."""
    seen = train_in(engine, folder / "divided", sharding="row")
    train_in(engine, folder / "divided_resumed", sharding="row", die_at=8)
    if engine.rank == 0:
        (folder / "messages.json").write_text(json.dumps([p.message for p in seen if p.message]))
        shutil.copytree(folder / "divided_resumed", folder / "divided_unfinished")
        train_in(NullEngine(), folder / "alone_first", die_at=8)
    engine.barrier()
    train_in(engine, folder / "divided_resumed", sharding="row")
    train_in(engine, folder / "alone_first", sharding="row")


def train_in_little_memory(engine: TracedEngine, folder: Path) -> None:
    """Tables of 256 MiB with their states, in processes that may allocate 210 MiB more each.

    Steps, a checkpoint, what continues from it, and the file of the run.
    """

    def make(rows: int, divided: bool) -> trainer.Trainer:
        sizes = Sizes(
            num_members=rows,
            num_hashtags=50,
            num_trees=4,
            num_leaves=30,
            num_shared=2,
            num_dense=3,
        )
        chosen = dataclasses.replace(
            config(norms=False), member=TableConfig(dim=32), hashtag=TableConfig(dim=8)
        )
        bags = RowBags(np.zeros(0, np.int64), np.zeros(1, np.int64))
        none = Examples(
            viewer=np.zeros(0, np.int64),
            actor=np.zeros(0, np.int64),
            root_actor=np.zeros(0, np.int64),
            history_members=bags,
            history_hashtags=bags,
            hashtags=bags,
            leaves=np.zeros((0, 4), np.int32),
            shared=np.zeros((0, 2), np.float32),
            dense=np.zeros((0, 3), np.float32),
        )
        shapes = table_shapes(chosen, sizes, none)
        tables = (
            DividedTables(plan_of(shapes, engine.size), engine, trainer.table_optimizer())
            if divided
            else None
        )
        names = (Objective("click", "passive"), Objective("like", "active"))
        model = RankerModel(chosen, sizes, names, np.array([0.2, 0.1]), tables)
        return trainer.Trainer(model, chosen, engine)

    def step(taught: trainer.Trainer) -> None:
        rows, n = taught.model.sizes.num_members, 100
        rng = np.random.default_rng([engine.rank, taught.num_steps])
        empty = RowBags(np.zeros(0, np.int64), np.zeros(n + 1, np.int64))
        examples = Examples(
            viewer=rng.integers(0, rows, n),
            actor=rng.integers(0, rows, n),
            root_actor=rng.integers(0, rows, n),
            history_members=empty,
            history_hashtags=empty,
            hashtags=empty,
            leaves=rng.integers(0, 30, (n, 4)).astype(np.int32),
            shared=rng.normal(size=(n, 2)).astype(np.float32),
            dense=rng.normal(size=(n, 3)).astype(np.float32),
        )
        labels = rng.integers(0, 2, (n, 2)).astype(np.float32)
        taught.step(LabelledExamples(examples, labels, np.ones_like(labels)), 1e-3)

    divided = engine.size > 1
    small = make(100, divided)  # what TensorFlow needs in any case
    step(small)
    data = Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]
    limit = (int(data) << 10) + (210 << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        taught = make(700_000, divided)
        for _ in range(3):
            step(taught)
    except (MemoryError, RuntimeError, tf.errors.ResourceExhaustedError):  # as Keras wraps it
        if divided:
            raise
        sys.exit(EXIT_NO_MEMORY)
    place = saving.Place(step=3, loss_sum=0.0, records=[])
    if engine.rank == 0:
        (folder / "checkpoints").mkdir()
    engine.barrier()
    saving.save(taught, folder / "checkpoints", place)
    step(taught)
    assert saving.restore(taught, folder / "checkpoints") == place
    step(taught)
    assert taught.sharded is not None
    shapes = {spec.name: (spec.rows, spec.dim) for spec in taught.sharded.specs}
    if engine.rank == 0:
        write_tensors(folder / "tensors.safetensors", {}, absent=shapes)
    engine.barrier()
    saving.save_rows(taught.sharded, folder / "tensors.safetensors")


def train_runs(engine: TracedEngine, folder: Path) -> None:
    seen = train_in(engine, folder / "whole")
    train_in(engine, folder / "resumed", die_at=8)
    engine.barrier()
    if engine.rank == 0:
        shutil.copytree(folder / "resumed", folder / "unfinished")
    engine.barrier()
    train_in(engine, folder / "resumed")
    if engine.rank == 0:
        steps = [p for p in seen if p.stage == "select" and p.step and not p.message]
        report = {
            "bytes": [p.bytes_per_step for p in steps],
            "shares": [p.exchange_share for p in steps],
            "by_name": {k: v.exchanges for k, v in engine.exchanges_by_name.items()},
        }
        (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
