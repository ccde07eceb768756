"""Exported rankers measured on labelled rows: precisions, budgets and the commands around them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feedfast.cli.main import main
from feedfast.config import RankerConfig
from feedfast.data import Simulation, load
from feedfast.metrics import normalized_entropy
from feedfast.ranker.export import artifact_of, export
from feedfast.ranker.predict import predict
from feedfast.ranker.rows import history_of, split_rows
from feedfast.ranker.stored import LabelledRequests, evaluate_stored, precisions_within_budget
from feedfast.ranker_artifact import RankerEncoder
from feedfast.scorer import Scorer
from feedfast.store import ModelStore
from feedfast.training import TrainedRun, train


@pytest.fixture(scope="module")
def held_out(simulation: Simulation, trained: TrainedRun) -> LabelledRequests:
    history = trained.config.history
    return LabelledRequests.of(
        simulation.dataset,
        run=trained,
        max_members=history.max_members,
        max_hashtags=history.max_hashtags,
    )


def test_held_out_rows_are_those_of_the_run(
    simulation: Simulation, trained: TrainedRun, held_out: LabelledRequests, tmp_path: Path
) -> None:
    dataset = simulation.dataset
    rows = split_rows(dataset.log, trained.config).test
    np.testing.assert_array_equal(held_out.labels, dataset.log.labels[rows])
    export(trained.ranker, tmp_path)
    history = history_of(dataset, trained.config).take(rows)
    want = predict(trained.ranker, dataset.log.take(rows), history)
    scorer = Scorer.open(tmp_path)
    np.testing.assert_allclose(
        scorer.score_batch(held_out.requests).probabilities, want, rtol=0, atol=1e-5
    )
    evaluation = evaluate_stored(scorer, held_out, num_bytes=1)
    for index, objective in enumerate(evaluation.objectives):
        ne = normalized_entropy(held_out.labels[:, index], want[:, index])
        assert objective.report.normalized_entropy == pytest.approx(ne, rel=1e-4)
        assert objective.delta is None
    everything = LabelledRequests.of(dataset, run=None, max_members=5, max_hashtags=5)
    assert len(everything.labels) == dataset.log.num_rows


def test_the_budget_is_held_by_what_is_published(
    trained: TrainedRun, held_out: LabelledRequests, tmp_path: Path
) -> None:
    encoder = RankerEncoder(artifact_of(trained.ranker))
    choice = precisions_within_budget(encoder, held_out, tmp_path / "store", max_ne_delta=1e-4)
    assert set(choice.precisions.values()) != {"fp32"}
    store = ModelStore(tmp_path / "store")
    assert store.list() == ()
    assert list((tmp_path / "store").iterdir()) == []
    encoder.publish(store, "whole", {})
    encoder.publish(store, "small", choice.precisions)
    whole, small = (Scorer.open(store.path, model=name) for name in ("whole", "small"))
    evaluation = evaluate_stored(small, held_out, num_bytes=1, against=whole, against_bytes=2)
    assert evaluation.worst_delta <= 1e-4
    assert evaluation.worst_delta == pytest.approx(choice.delta, rel=1e-6)
    assert 0.0 < max(o.delta.greatest for o in evaluation.objectives if o.delta) < 0.02


@pytest.mark.download
def test_the_budget_is_held_on_movielens(tmp_path: Path) -> None:
    dataset = load("movielens")
    config = RankerConfig()
    config = replace(config, training=replace(config.training, max_epochs=1))
    run = train(dataset, config, tmp_path / "run")
    history = config.history
    data = LabelledRequests.of(
        dataset, run=run, max_members=history.max_members, max_hashtags=history.max_hashtags
    )
    encoder = RankerEncoder(artifact_of(run.ranker), threads=2)
    store = ModelStore(tmp_path / "store")
    choice = precisions_within_budget(encoder, data, store.path, max_ne_delta=1e-4, threads=2)
    whole = sum(encoder.num_bytes(section, "fp32") for section in choice.precisions)
    small = sum(
        encoder.num_bytes(section, precision)  # type: ignore[arg-type]
        for section, precision in choice.precisions.items()
    )
    assert small < 0.5 * whole
    encoder.publish(store, "whole", {})
    encoder.publish(store, "small", choice.precisions)
    scorers = [Scorer.open(store.path, model=name, threads=2) for name in ("small", "whole")]
    evaluation = evaluate_stored(
        scorers[0], data, num_bytes=small, against=scorers[1], against_bytes=whole
    )
    assert evaluation.worst_delta <= 1e-4


def test_a_table_that_a_precision_cannot_hold_stays_larger(
    trained: TrainedRun, held_out: LabelledRequests, tmp_path: Path
) -> None:
    ranker = trained.ranker
    table = ranker.tensors["leaf_table"].copy()
    table[:, 0] += 1e6  # beyond float16, int8 and int4
    tensors = {**ranker.tensors, "leaf_table": table}
    encoder = RankerEncoder(artifact_of(replace(ranker, tensors=tensors)))
    choice = precisions_within_budget(encoder, held_out, tmp_path, max_ne_delta=1.0)
    assert choice.precisions["leaf_table"] in ("bf16", "fp32")


def test_a_layer_that_a_precision_cannot_hold_stays_larger(
    trained: TrainedRun, held_out: LabelledRequests, tmp_path: Path
) -> None:
    tensors = {name: tensor.copy() for name, tensor in trained.ranker.tensors.items()}
    tensors["passive/0/weight"][:, 0] = 0.0
    tensors["passive/0/bias"][0] = -1.0  # its output is 0 for every row,
    tensors["passive/1/weight"][0] = 3.4e38  # which bf16 multiplies by infinity
    encoder = RankerEncoder(artifact_of(replace(trained.ranker, tensors=tensors)))
    choice = precisions_within_budget(encoder, held_out, tmp_path, max_ne_delta=1e-6)
    assert choice.precisions["passive/1"] == "fp32"
    tried = {m.precision: m.delta for m in choice.measurements if m.section == "passive/1"}
    assert tried["bf16"] == np.inf


def test_commands(
    simulation: Simulation, trained: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.parquet"
    simulation.dataset.write_parquet(log)
    store, run = str(tmp_path / "store"), str(trained.directory)

    def command(*arguments: str) -> dict[str, object]:
        assert main([*arguments, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert isinstance(document, dict)
        return document

    command("export", "--run", run, "--store", store)
    chosen = command(
        "export", "--run", run, "--store", store, "--max-ne-delta", "1e-3", "--data", str(log)
    )
    assert chosen["version"] == "000002"
    assert float(str(chosen["ne_delta"])) <= 1e-3
    assert int(str(chosen["bytes"])) < int(str(chosen["fp32_bytes"]))
    compared = command(
        *("evaluate", "--store", store, "--data", str(log)),
        *("--against", store, "--against-version", "1"),
    )
    assert compared["num_rows"] == simulation.dataset.log.num_rows
    command("export", "--run", run, "--store", store, "--precision", "tables=int4,leaf_table=bf16")
    sections = ModelStore(store).open("feed").manifest.sections
    assert sections["member_table"].layout == "int4_rowwise"
    assert sections["leaf_table"].layout == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--store", "s", "--max-ne-delta", "1e-4"], "--max-ne-delta needs --data"),
        (
            [
                "export",
                "--store",
                "s",
                "--data",
                "simulated",
                "--max-ne-delta",
                "1",
                "--precision",
                "x",
            ],
            "leave --precision out",
        ),
    ],
)
def test_commands_refuse(
    trained: TrainedRun, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*arguments, "--run", str(trained.directory)]) != 0
    assert message in capsys.readouterr().err
