"""What each process of tests/distributed/test_training_processes.py does; run by `run_local`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorFlow's own
    import keras

    from feedfast.tf import optimizers

from feedfast.comm import Engine, connect
from feedfast.comm.traced import TracedEngine
from feedfast.config import (
    EmbeddingInputConfig,
    ForestConfig,
    RankerConfig,
    TableConfig,
    TowerConfig,
    TrainingConfig,
)
from feedfast.data import Simulation, simulate
from feedfast.objectives import inverse_base_rates
from feedfast.ranker.features import FeatureSpace
from feedfast.ranker.model import RankerModel
from feedfast.ranker.rows import history_of
from feedfast.training import Progress, loop, replicas, train

NUM_STEPS = 20


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


def weights_after_steps(engine: Engine | None, accumulate: int) -> dict[str, np.ndarray]:
    """All state after some steps, by the position of the variable.

    Adam divides by the root of a moving average: where that is near zero, rounding decides. With a
    larger epsilon the weights follow the gradients.
    """
    chosen = config(dropout=0.0, accumulate=accumulate, norms=False)
    data = simulation().dataset
    rows = np.arange(data.log.num_rows)
    history = history_of(data, chosen)
    features = FeatureSpace.fit(data, rows, chosen)
    examples = loop.LabelledExamples(
        features.encode(data.log, history), data.log.labels, np.ones_like(data.log.labels)
    )
    base_rates = 1.0 / inverse_base_rates(data.log.labels, data.objectives).astype(np.float64)
    model = RankerModel(chosen, features.sizes, data.objectives, base_rates)
    adam, sparse_adam = keras.optimizers.Adam, optimizers.SparseAdam
    keras.optimizers.Adam = functools.partial(adam, epsilon=1e-3)
    optimizers.SparseAdam = functools.partial(sparse_adam, epsilon=1e-3)  # type: ignore[misc]
    try:
        trainer = loop.Trainer(model, chosen, engine)
    finally:
        keras.optimizers.Adam, optimizers.SparseAdam = adam, sparse_adam  # type: ignore[misc]
    trainer.align()
    rng = np.random.default_rng(7)
    for step in range(NUM_STEPS):
        # Batches of one row leave a rank, and micro-batches, without any.
        batch = rng.choice(rows, 1 if step == 4 else 250, replace=False)
        share = replicas.share_of(len(batch), trainer.engine)
        trainer.step(loop._draw_batch(examples, batch, share, chosen, step), 0.01)
    if engine is not None:
        digest = hashlib.sha256()
        for variable in trainer.variables:
            if variable.dtype != "int64" or variable.shape != (2,):  # dropout's seeds differ
                digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
        mine = np.frombuffer(digest.digest(), np.uint8)
        assert all((other == mine).all() for other in engine.all_gather(mine))
    return {f"{i:03d}": np.array(v.numpy()) for i, v in enumerate(trainer.variables)}


def train_in(engine: Engine, folder: Path, *, die_at: int = 0) -> list[Progress]:
    """Trains in a folder; `die_at`: all ranks stop at this step of the first stage."""
    seen: list[Progress] = []

    def tell(progress: Progress) -> None:
        seen.append(progress)
        if die_at and progress.stage == "select" and progress.step == die_at:
            raise Interrupted

    loop._PROGRESS_INTERVAL_S = 0.0
    try:
        train(simulation().dataset, config(), folder, progress=tell, engine=engine)
    except Interrupted:
        assert die_at
    else:
        assert not die_at
    return seen


def main(folder: Path) -> None:
    engine = TracedEngine(connect())
    for accumulate in (1, 3):
        weights = weights_after_steps(engine, accumulate)
        if engine.rank == 0:
            np.savez(folder / f"weights_{accumulate}.npz", **weights)  # type: ignore[arg-type]
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
    engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
