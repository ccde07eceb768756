"""Rankers with a cross network: what TensorFlow trained is what the scorer serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feedfast.cli.main import main
from feedfast.config import CrossConfig, RankerConfig
from feedfast.data import Simulation, row_requests
from feedfast.ranker.predict import predict
from feedfast.ranker.rows import history_of
from feedfast.scorer import Scorer
from feedfast.training import train


@pytest.mark.parametrize("rank", [None, 3])
def test_scorer_agrees_with_tensorflow(
    simulation: Simulation, small_config: RankerConfig, tmp_path: Path, rank: int | None
) -> None:
    config = replace(small_config, cross=CrossConfig(layers=2, rank=rank))
    run = train(simulation.dataset, config, tmp_path / "run")
    weight = run.ranker.tensors["cross/1/weight"]
    assert weight.shape[0] == (weight.shape[1] if rank is None else rank)
    command = ["export", "--run", str(tmp_path / "run"), "--store", str(tmp_path / "store")]
    assert main(command) == 0
    assert main([*command, "--model", "small", "--precision", "cross=int8"]) == 0

    rows = np.arange(2000)
    log = simulation.dataset.log.take(rows)
    history = history_of(simulation.dataset, run.config).take(rows)
    want = predict(run.ranker, log, history)
    requests = row_requests(log, history)
    got = Scorer.open(tmp_path / "store").score_batch(requests).probabilities
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    small = Scorer.open(tmp_path / "store", model="small").score_batch(requests).probabilities
    assert 0.0 < np.abs(small - want).max() < 0.05
