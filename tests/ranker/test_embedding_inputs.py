"""Embedding inputs and low-rank gates: the exported, folded ranker equals the trained one."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from feedfast.config import EmbeddingInputConfig, RankerConfig
from feedfast.data import Dataset, Simulation, row_requests
from feedfast.metrics import normalized_entropy
from feedfast.ranker.embedding_inputs import EmbeddingInput, find_embedding_inputs
from feedfast.ranker.examples import Examples
from feedfast.ranker.export import export
from feedfast.ranker.features import FeatureSpace
from feedfast.ranker.input_scaling import InputScaling
from feedfast.ranker.model import RankerModel, model_inputs
from feedfast.ranker.predict import predict
from feedfast.ranker.rows import history_of, split_rows
from feedfast.scorer import Scorer
from feedfast.training import TrainedRun, train

WIDTH = 6


def with_vectors(dataset: Dataset, *, scale: float = 1.0) -> Dataset:
    """The data set with two vectors: of the post, which tells something, and of the viewer."""
    log = dataset.log
    rng = np.random.default_rng(5)
    of_post = rng.normal(size=(4, WIDTH))
    told = np.nan_to_num(log.labels[:, :1]) + rng.normal(size=(log.num_rows, 4))
    post = 3.0 + told @ of_post
    post[rng.random(log.num_rows) < 0.1] = np.nan
    viewer = rng.normal(size=(log.num_rows, 2))
    post[:, 0] *= scale
    return replace(
        dataset,
        log=replace(
            log,
            dense=np.concatenate([post[:, :3], log.dense, post[:, 3:]], 1).astype(np.float32),
            dense_names=(
                *(f"text_{i}" for i in range(3)),
                *log.dense_names,
                *(f"text_{i}" for i in range(3, WIDTH)),
            ),
            shared=np.concatenate([log.shared, viewer], axis=1).astype(np.float32),
            shared_names=(*log.shared_names, "face_0", "face_1"),
        ),
    )


def config_of(small: RankerConfig, **kinds: Any) -> RankerConfig:
    return replace(
        small,
        passive=replace(small.passive, gate="input", gate_rank=3),
        active=replace(small.active, gate="hidden", gate_rank=2),
        embedding_inputs=(
            EmbeddingInputConfig(prefix="text_", kind=kinds["text"], dim=2),
            EmbeddingInputConfig(prefix="face_", kind=kinds["face"], dim=1),
        ),
    )


KINDS = [
    {"text": "batch_norm", "face": "projection"},
    {"text": "projection", "face": "batch_norm"},
]


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: kinds["text"])
def test_folded_ranker_equals_the_trained_one(
    simulation: Simulation, small_config: RankerConfig, tmp_path: Path, kinds: dict[str, str]
) -> None:
    dataset = with_vectors(simulation.dataset)
    run = train(dataset, config_of(small_config, **kinds), tmp_path / "run")
    tensors = run.ranker.tensors
    assert {name.split("/")[2] for name in tensors if name.startswith("embedding/")} == {
        "mean",
        "variance",
        "projection",
    }
    export(run.ranker, tmp_path / "store")
    rows = np.arange(2000)
    log, history = dataset.log.take(rows), history_of(dataset, run.config).take(rows)
    want = predict(run.ranker, log, history)
    got = Scorer.open(tmp_path / "store").score_batch(row_requests(log, history)).probabilities
    # float32 on both sides; folding itself is exact to the last places
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    again = TrainedRun.open(tmp_path / "run").ranker
    assert again.features.embedding_inputs == run.ranker.features.embedding_inputs
    np.testing.assert_array_equal(predict(again, log, history), want)


@pytest.mark.parametrize("kind", ["batch_norm", "projection"])
def test_a_badly_scaled_column_does_not_hurt(
    simulation: Simulation, small_config: RankerConfig, tmp_path: Path, kind: str
) -> None:
    figures = []
    for scale in (1.0, 1000.0):
        dataset = with_vectors(simulation.dataset, scale=scale)
        config = config_of(small_config, text=kind, face="batch_norm")
        run = train(dataset, config, tmp_path / f"run-{scale}")
        test = split_rows(dataset.log, config).test
        log, history = dataset.log.take(test), history_of(dataset, config).take(test)
        predicted = predict(run.ranker, log, history)
        figures.append(
            [normalized_entropy(y, p) for y, p in zip(log.labels.T, predicted.T, strict=True)]
        )
    np.testing.assert_allclose(figures[1], figures[0], rtol=2e-3)


def test_batch_norm_learns_moments_and_ignores_missing_values(
    simulation: Simulation, small_config: RankerConfig, tmp_path: Path
) -> None:
    dataset = with_vectors(simulation.dataset)
    config = config_of(small_config, text="batch_norm", face="projection")
    rows = np.arange(dataset.log.num_rows)
    features = FeatureSpace.fit(dataset, rows, config)
    model = RankerModel(
        config, features.sizes, dataset.objectives, np.full(len(dataset.objectives), 0.1)
    )
    log = dataset.log
    examples: Examples = features.encode(log, history_of(dataset, config))
    columns = list(
        find_embedding_inputs(
            config.embedding_inputs, shared=log.shared_names, dense=log.dense_names
        )[0].columns
    )
    assert np.isnan(examples.dense[:, columns]).any()
    assert not np.isnan(np.delete(examples.dense, columns, axis=1)).any()
    moved = replace(examples, dense=examples.dense * 2 + 1)
    inputs = model_inputs(moved)
    for _ in range(600):
        model._scaling["dense"](inputs["dense"], training=True)
    got = model.tensors()
    np.testing.assert_allclose(got["embedding/text_/mean"], 1.0, atol=0.02)
    np.testing.assert_allclose(got["embedding/text_/variance"], 4.0, atol=0.05)
    scaled = model._scaling["dense"](inputs["dense"]).numpy()
    assert scaled.shape == examples.dense.shape
    np.testing.assert_array_equal(scaled[np.isnan(moved.dense)], 0.0)
    others = np.delete(np.arange(scaled.shape[1]), columns)
    np.testing.assert_array_equal(scaled[:, others], moved.dense[:, others])


def test_batch_norm_keeps_the_scale_of_a_column_that_few_rows_have() -> None:
    group = EmbeddingInput(name="text_", part="dense", kind="batch_norm", columns=(1,), dim=1)
    layer = InputScaling("dense", 2, [group], itertools.count())
    rng = np.random.default_rng(7)
    for _ in range(1500):
        x = rng.normal(3.0, 2.0, size=(64, 2)).astype(np.float32)
        x[rng.random(64) > 0.02, 1] = np.nan  # about one value in a batch, often none
        layer(tf.constant(x), training=True)
    learned = {name: float(v.numpy()[0]) for name, v in layer.named_variables()}
    assert learned["embedding/text_/mean"] == pytest.approx(3.0, abs=0.6)
    assert learned["embedding/text_/variance"] == pytest.approx(4.0, abs=1.6)


def test_inputs_that_are_not_there_or_overlap() -> None:
    def find(*prefixes: str) -> None:
        find_embedding_inputs(
            [EmbeddingInputConfig(prefix=p) for p in prefixes],
            shared=["a_0", "b"],
            dense=["a_1", "c"],
        )

    with pytest.raises(ValueError, match="embedding input 'x': no feature starts with it"):
        find("x")
    with pytest.raises(ValueError, match="'a_': both shared and dense features start with it"):
        find("a_")
    with pytest.raises(ValueError, match="embedding inputs 't' and 'text' share features"):
        RankerConfig(
            embedding_inputs=(EmbeddingInputConfig(prefix="t"), EmbeddingInputConfig(prefix="text"))
        )
    with pytest.raises(ValueError, match="gate_rank needs a gate"):
        RankerConfig.from_json('{"passive": {"gate": "none", "gate_rank": 2}}')
    config = RankerConfig.from_json(
        '{"passive": {"gate_rank": 2}, "cross": {"rank": null, "layers": 3},'
        ' "embedding_inputs": [{"prefix": "text_"}]}'
    )
    assert RankerConfig.from_json(config.to_json()) == config
    with pytest.raises(ValueError, match="cannot be folded through a cross network"):
        replace(config, embedding_inputs=(EmbeddingInputConfig(prefix="text_", kind="projection"),))
