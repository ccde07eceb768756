"""Evaluation reports and the baseline beside the ranker."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from feedfast import metrics
from feedfast.data import Simulation
from feedfast.ranker.baseline import baseline_probabilities
from feedfast.ranker.predict import predict
from feedfast.ranker.rows import history_of, split_rows
from feedfast.training import TrainedRun, evaluate


def test_report_is_of_the_test_rows(simulation: Simulation, trained: TrainedRun) -> None:
    dataset = simulation.dataset
    report = evaluate(trained, dataset, true_probabilities=simulation.probabilities)
    rows = split_rows(dataset.log, trained.config)
    history = history_of(dataset, trained.config).take(rows.test)
    p = predict(trained.ranker, dataset.log.take(rows.test), history)
    assert (report.num_train_rows, report.num_test_rows) == (len(rows.train), len(rows.test))
    assert "logistic regression" in report.baseline_note
    for k, objective in enumerate(report.objectives):
        labels = dataset.log.labels[rows.test, k]
        assert objective.name == dataset.objectives[k].name
        assert objective.model == metrics.objective_report(labels, p[:, k])
        assert objective.train_base_rate == pytest.approx(
            np.nanmean(dataset.log.labels[rows.train, k]), rel=1e-5
        )
        assert objective.baseline is not None
        assert objective.oracle is not None
        assert objective.oracle.num_rows == objective.model.num_rows
    click = report.objectives[0]
    assert click.oracle is not None
    assert click.oracle.normalized_entropy < click.model.normalized_entropy
    want = (1 - click.model.normalized_entropy) / (1 - click.oracle.normalized_entropy)
    assert click.oracle_share == pytest.approx(want)


def test_report_is_plain_json(simulation: Simulation, trained: TrainedRun) -> None:
    report = evaluate(trained, simulation.dataset, baseline=False)
    document = json.loads(report.to_json())
    assert document == report.to_dict()
    first = document["objectives"][0]
    assert first["baseline"] is None
    assert first["oracle_share"] is None
    assert len(first["model"]["calibration"]) == 10
    assert math.isnan(report.objectives[0].oracle_share)


def test_another_dataset_is_refused(simulation: Simulation, trained: TrainedRun) -> None:
    log = simulation.dataset.log.take(np.arange(simulation.dataset.log.num_rows - 1))
    with pytest.raises(ValueError, match=r"is not the one that .* was trained on"):
        evaluate(trained, replace(simulation.dataset, log=log))
    with pytest.raises(ValueError, match="true_probabilities: shape"):
        evaluate(trained, simulation.dataset, true_probabilities=np.zeros((3, 8), np.float32))


def test_baseline_of_degenerate_objectives(simulation: Simulation, trained: TrainedRun) -> None:
    dataset = simulation.dataset
    log, history = dataset.log, history_of(dataset, trained.config)
    examples = trained.ranker.features.encode(log, history)
    labels = log.labels[:, :3].copy()
    labels[:, 1], labels[:, 2] = math.nan, 1.0
    p = baseline_probabilities(
        examples, labels, examples, num_leaves=trained.ranker.features.sizes.num_leaves
    )
    assert metrics.auc(labels[:, 0], p[:, 0]) > 0.55
    assert np.isnan(p[:, 1]).all()
    np.testing.assert_array_equal(p[:, 2], 1.0)
