"""A small simulated feed and a run trained on it, shared by all tests of ranker and training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorFlow's own
    import feedfast.tf  # noqa: F401

from feedfast import config
from feedfast.config import RankerConfig
from feedfast.data import Simulation, simulate
from feedfast.training import TrainedRun, train


@pytest.fixture(scope="session")
def simulation() -> Simulation:
    return simulate(
        num_members=300, num_requests=500, num_posts=400, num_hashtags=50, num_clusters=4, seed=3
    )


@pytest.fixture(scope="session")
def small_config() -> RankerConfig:
    tower = config.TowerConfig(units=(12, 6), dropout=0.1)
    return RankerConfig(
        member=config.TableConfig(dim=5, min_count=4, id_dropout=0.1),
        hashtag=config.TableConfig(dim=3, min_count=2, id_dropout=0.0),
        forest=config.ForestConfig(num_trees=7, max_depth=3, leaf_dim=4),
        passive=tower,
        active=replace(tower, gate="input", units=(9,)),
        training=config.TrainingConfig(
            batch_size=256,
            max_epochs=3,
            learning_rate=0.02,
            warmup_steps=10,
            checkpoint_every_steps=5,
        ),
        seed=11,
    )


@pytest.fixture(scope="session")
def trained(
    simulation: Simulation, small_config: RankerConfig, tmp_path_factory: pytest.TempPathFactory
) -> TrainedRun:
    return train(simulation.dataset, small_config, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run_bytes() -> Callable[[Path], dict[str, bytes]]:
    """Reads every file of a folder, to compare runs to the bit."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return read
