"""The Keras model against a plain numpy forward pass over the same tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from feedfast.config import RankerConfig, TowerConfig
from feedfast.data import Simulation
from feedfast.objectives import Objective
from feedfast.ranker.examples import Examples, RowBags
from feedfast.ranker.features import Sizes
from feedfast.ranker.model import RankerModel, model_of
from feedfast.ranker.predict import predict, predict_examples
from feedfast.ranker.rows import history_of
from feedfast.training import TrainedRun

SIZES = Sizes(num_members=9, num_hashtags=5, num_trees=3, num_leaves=11, num_shared=2, num_dense=4)
OBJECTIVES = (
    Objective("reply", "other"),
    Objective("click", "passive"),
    Objective("like", "active"),
    Objective("dwell", "passive"),
)


def random_examples(n: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)

    def bags(num_rows: int) -> RowBags:
        lengths = rng.integers(0, 5, n)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return RowBags(rng.integers(0, num_rows, offsets[-1]), offsets)

    return Examples(
        viewer=rng.integers(0, 9, n),
        actor=rng.integers(0, 9, n),
        root_actor=rng.integers(0, 9, n),
        history_members=bags(9),
        history_hashtags=bags(5),
        hashtags=bags(5),
        leaves=rng.integers(0, 11, (n, 3)).astype(np.int32),
        shared=rng.normal(size=(n, 2)).astype(np.float32),
        dense=rng.normal(size=(n, 4)).astype(np.float32),
    )


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-x))


def reference(
    tensors: dict[str, NDArray[np.float32]], config: RankerConfig, examples: Examples
) -> NDArray[np.float64]:
    """[n, objectives]: the formula of the model store, one row at a time in double precision."""
    t = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    rows = []
    for i in range(len(examples)):

        def mean(table: NDArray[np.float64], bags: RowBags, i: int = i) -> NDArray[np.float64]:
            bag = bags.values[bags.offsets[i] : bags.offsets[i + 1]]
            return table[bag].mean(axis=0) if len(bag) else np.zeros(table.shape[1])

        leaves = t["leaf_table"][examples.leaves[i]]
        x = np.concatenate(
            [
                t["member_table"][examples.viewer[i]],
                mean(t["member_table"], examples.history_members),
                mean(t["hashtag_table"], examples.history_hashtags),
                examples.shared[i],
                t["member_table"][examples.actor[i]],
                t["member_table"][examples.root_actor[i]],
                mean(t["hashtag_table"], examples.hashtags),
                leaves.sum(axis=0) / np.sqrt(len(leaves)),
                examples.dense[i],
            ]
        )
        logits = {}
        for name, tower in (("passive", config.passive), ("active", config.active)):
            h = x
            for layer in range(len(tower.units)):
                a = np.maximum(h @ t[f"{name}/{layer}/weight"] + t[f"{name}/{layer}/bias"], 0)
                if tower.gate != "none":
                    source = a if tower.gate == "hidden" else h
                    gate = (
                        source @ t[f"{name}/{layer}/gate_weight"] + t[f"{name}/{layer}/gate_bias"]
                    )
                    a = a * sigmoid(gate)
                h = a
            head = len(tower.units)
            logits[name] = h @ t[f"{name}/{head}/weight"] + t[f"{name}/{head}/bias"]
        rows.append(
            [logits["active"][0], logits["passive"][0], logits["active"][1], logits["passive"][1]]
        )
    return sigmoid(np.array(rows))


@pytest.mark.parametrize("gate", ["hidden", "input", "none"])
def test_model_is_the_formula(small_config: RankerConfig, gate: str) -> None:
    config = replace(
        small_config,
        passive=TowerConfig(units=(7, 4), gate=gate),  # type: ignore[arg-type]
        active=TowerConfig(units=()),
    )
    model = RankerModel(config, SIZES, OBJECTIVES, np.array([0.01, 0.2, 0.1, 0.5]))
    rng = np.random.default_rng(1)
    tensors = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in model.tensors().items()}
    model.load_tensors(tensors)
    examples = random_examples(40)
    got = predict_examples(model, examples, batch_size=7)
    np.testing.assert_allclose(got, reference(tensors, config, examples), rtol=2e-5, atol=2e-6)
    assert predict_examples(model, examples.take(np.zeros(0, np.int64))).shape == (0, 4)


def test_new_model_starts_at_the_base_rates(small_config: RankerConfig) -> None:
    rates = np.array([0.01, 0.2, 0.1, 0.5])
    got = predict_examples(
        RankerModel(small_config, SIZES, OBJECTIVES, rates), random_examples(500)
    )
    np.testing.assert_allclose(np.exp(np.log(got).mean(axis=0)), rates, rtol=0.5)


def test_one_group_needs_one_tower(small_config: RankerConfig) -> None:
    model = RankerModel(small_config, SIZES, OBJECTIVES[1::2], np.array([0.2, 0.5]))
    assert {name.split("/")[0] for name in model.tensors() if "/" in name} == {"passive"}
    assert predict_examples(model, random_examples(3)).shape == (3, 2)


def test_seed_decides_the_initial_weights(small_config: RankerConfig) -> None:
    def weights(seed: int) -> dict[str, NDArray[np.float32]]:
        config = replace(small_config, seed=seed)
        return RankerModel(config, SIZES, OBJECTIVES, np.full(4, 0.1)).tensors()

    first, again, other = weights(1), weights(1), weights(2)
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, again[name])
    assert not np.array_equal(first["member_table"], other["member_table"])
    assert not np.array_equal(first["member_table"][:5, :3], first["hashtag_table"])


def test_predict_of_a_trained_run(simulation: Simulation, trained: TrainedRun) -> None:
    dataset = simulation.dataset
    history = history_of(dataset, trained.config)
    rows = np.arange(100)
    got = predict(trained.ranker, dataset.log.take(rows), history.take(rows))
    tensors = dict(trained.ranker.tensors)
    assert got.shape == (100, len(dataset.objectives))
    assert np.all((got > 0) & (got < 1))
    np.testing.assert_array_equal(
        model_of(trained.ranker).tensors()["leaf_table"], tensors["leaf_table"]
    )
