"""Training: loss, schedule, repeatability, resumption and what a run folder holds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from feedfast import metrics, weighting
from feedfast.config import RankerConfig, TrainingConfig, WeightingConfig
from feedfast.data import Simulation
from feedfast.ranker.model import model_of
from feedfast.ranker.predict import predict
from feedfast.ranker.rows import history_of, split_rows
from feedfast.training import Progress, TrainedRun, train
from feedfast.training.checkpoints import Checkpoint, latest_checkpoint, save_checkpoint
from feedfast.training.train import loss_weights
from feedfast.training.trainer import LabelledExamples, Trainer, cross_entropy, learning_rate

ReadRun = Callable[[Path], dict[str, bytes]]


class Interrupted(Exception):
    """Stands for the process dying in the middle of a stage."""


def test_loss_is_the_weighted_masked_sum() -> None:
    logits = np.array([[0.0, 2.0], [-1.0, 3.0], [0.5, -4.0]], dtype=np.float32)
    labels = np.array([[1, math.nan], [0, 1], [math.nan, 0]], dtype=np.float32)
    weights = np.array([[2, 9], [1, 0.5], [7, 3]], dtype=np.float32)
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        loss = cross_entropy(variable, tf.constant(labels), tf.constant(weights))
    want = (
        2 * math.log(2)
        + math.log(1 + math.exp(-1))
        + 0.5 * math.log(1 + math.exp(-3))
        + 3 * math.log(1 + math.exp(-4))
    ) / 3
    assert float(loss) == pytest.approx(want, rel=1e-6)
    gradient = tape.gradient(loss, variable).numpy()
    assert gradient[0, 1] == 0.0
    assert gradient[2, 0] == 0.0
    assert gradient[0, 0] == pytest.approx(2 * (0.5 - 1) / 3)


def test_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    config = TrainingConfig(learning_rate=1.0, warmup_steps=4)
    rates = [learning_rate(config, step, 104) for step in range(105)]
    np.testing.assert_allclose(rates[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[54] == pytest.approx(0.55)
    assert rates[104] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert learning_rate(TrainingConfig(learning_rate=1.0, warmup_steps=0), 0, 1) == 1.0


def test_steps_touch_the_rows_of_their_batch_and_decay_all_rows(
    simulation: Simulation, trained: TrainedRun
) -> None:
    rows = np.arange(8)
    log = simulation.dataset.log.take(rows)
    history = history_of(simulation.dataset, trained.config).take(rows)
    examples = trained.ranker.features.encode(log, history)
    batch = LabelledExamples(examples, log.labels, np.ones_like(log.labels))
    model = model_of(trained.ranker)
    trainer = Trainer(model, trained.config)
    ids = (examples.viewer, examples.actor, examples.root_actor, examples.history_members.values)
    read = np.unique(np.concatenate(ids))
    unread = np.setdiff1d(np.arange(model.sizes.num_members), read)
    assert len(unread) > 0
    start = model.tables["member_table"].embeddings.numpy().copy()
    for _ in range(31):
        trainer.step(batch, 1e-3)
    table = model.tables["member_table"].embeddings.numpy().copy()
    np.testing.assert_array_equal(table[unread], start[unread])
    assert (table[read] != start[read]).any(axis=1).all()
    trainer.step(batch, 1e-3)
    decay = trained.config.training.table_weight_decay
    want = start[unread] * (1.0 - 1e-3 * decay) ** 32
    np.testing.assert_allclose(
        model.tables["member_table"].embeddings.numpy()[unread], want, rtol=1e-6
    )


def test_training_learns(simulation: Simulation, trained: TrainedRun) -> None:
    dataset = simulation.dataset
    rows = split_rows(dataset.log, trained.config).train
    history = history_of(dataset, trained.config).take(rows)
    p = predict(trained.ranker, dataset.log.take(rows), history)
    labels = dataset.log.labels[rows]
    assert metrics.auc(labels[:, 0], p[:, 0]) > 0.6
    assert trained.ranker.utility_weights[0] == pytest.approx(
        1 / np.nanmean(labels[:, 0]), rel=1e-5
    )
    stages = [record["stage"] for record in trained.history]
    assert stages == sorted(stages, reverse=True)
    assert stages.count("final") == trained.num_epochs


def test_two_runs_are_equal_to_the_bit(
    simulation: Simulation,
    small_config: RankerConfig,
    trained: TrainedRun,
    tmp_path: Path,
    run_bytes: ReadRun,
) -> None:
    train(simulation.dataset, small_config, tmp_path / "again")
    assert run_bytes(tmp_path / "again") == run_bytes(trained.directory)


@pytest.mark.parametrize("stage", ["select", "final"])
def test_an_interrupted_run_resumes_to_the_same_bits(
    simulation: Simulation,
    small_config: RankerConfig,
    trained: TrainedRun,
    tmp_path: Path,
    run_bytes: ReadRun,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("feedfast.training.loop._PROGRESS_INTERVAL_S", 0.0)

    def die(progress: Progress) -> None:
        # Neither a checkpoint nor the end of an epoch.
        if progress.stage == stage and progress.step == 8:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(simulation.dataset, small_config, tmp_path / "run", progress=die)
    with pytest.raises(ValueError, match="holds no complete training run"):
        TrainedRun.open(tmp_path / "run")
    (tmp_path / "run" / ".tmp-left-behind").write_bytes(b"half")
    train(simulation.dataset, small_config, tmp_path / "run")
    assert run_bytes(tmp_path / "run") == run_bytes(trained.directory)


def test_a_complete_run_is_returned_and_another_one_refused(
    simulation: Simulation, small_config: RankerConfig, trained: TrainedRun, tmp_path: Path
) -> None:
    again = train(simulation.dataset, small_config, trained.directory)
    assert again.history == trained.history
    with pytest.raises(ValueError, match="holds a run of another config"):
        train(simulation.dataset, replace(small_config, seed=12), trained.directory)
    log = simulation.dataset.log.take(np.arange(10))
    with pytest.raises(ValueError, match="holds a run of another dataset"):
        train(replace(simulation.dataset, log=log), small_config, trained.directory)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"not a run folder: it holds 'thesis\.txt'"):
        train(simulation.dataset, small_config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_open_names_what_is_wrong(trained: TrainedRun, tmp_path: Path, run_bytes: ReadRun) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        TrainedRun.open(tmp_path / "none")
    for name, content in run_bytes(trained.directory).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    TrainedRun.open(tmp_path)
    for name in ("run.json", "dataset.json", "config.json", "ranker/tensors.safetensors"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"not JSON|tensors"):
            TrainedRun.open(tmp_path)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="lacks 'format'"):
        TrainedRun.open(tmp_path)


def test_progress_tells_speed_and_loss(
    simulation: Simulation,
    small_config: RankerConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("feedfast.training.loop._PROGRESS_INTERVAL_S", 0.0)
    seen: list[Progress] = []
    training = replace(small_config.training, max_epochs=1)
    train(
        simulation.dataset,
        replace(small_config, training=training),
        tmp_path / "run",
        progress=seen.append,
    )
    assert list(dict.fromkeys(p.stage for p in seen)) == ["features", "select", "final"]
    messages = {p.stage: p.message for p in seen if p.message}
    assert messages["select"].startswith("epoch 1: validation ")
    assert messages["final"] == "epoch 1"
    steps = [p for p in seen if p.stage == "select" and not p.message]
    assert [p.step for p in steps] == list(range(1, steps[0].num_steps + 1))
    assert all(p.examples_per_second > 0 and math.isfinite(p.loss) for p in steps)


def test_checkpoints_keep_the_newest(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    tensors = {"a": np.arange(3, dtype=np.float32), "count": np.array(7, dtype=np.int64)}
    for step in (5, 20, 10**9):
        save_checkpoint(tmp_path, Checkpoint(step, tensors, {"loss_sum": 0.1 + 0.2}))
        (tmp_path / ".tmp-half").write_bytes(b"")
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 10**9
    assert found.state == {"loss_sum": 0.1 + 0.2}
    np.testing.assert_array_equal(found.tensors["a"], tensors["a"])
    assert found.tensors["count"] == 7
    path = tmp_path / "step-1000000000.safetensors"
    assert {p.name for p in tmp_path.iterdir()} == {path.name, ".tmp-half"}
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(ValueError, match=r"step-1000000000\.safetensors: damaged"):
        latest_checkpoint(tmp_path)


def test_loss_weights(simulation: Simulation, small_config: RankerConfig) -> None:
    log = simulation.dataset.log
    defined = ~np.isnan(log.labels)
    np.testing.assert_array_equal(loss_weights(log, small_config), defined)
    ips = replace(small_config, weighting=WeightingConfig(kind="ips", floor=0.2))
    want = weighting.ips_weights(log.propensity, floor=0.2)[:, None] * defined
    np.testing.assert_array_equal(loss_weights(log, ips), want)
    ratio = replace(small_config, weighting=WeightingConfig(kind="rate_ratio"))
    weights = loss_weights(log, ratio)
    np.testing.assert_array_equal(weights[log.policy_random], defined[log.policy_random])
    assert 0.3 < weights[~log.policy_random][:, 0].mean() < 3
    model_only = log.take(np.flatnonzero(~log.policy_random))
    with pytest.raises(ValueError, match="no 'random' row"):
        loss_weights(model_only, ratio)
