"""Calibrators fitted at export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from feedfast.cli.main import main
from feedfast.data import Simulation
from feedfast.metrics import log_loss, objective_report
from feedfast.ranker.calibrate import fit_isotonic, fit_platt, resolve_methods
from feedfast.scorer import Scorer
from feedfast.training import TrainedRun

FloatArray = NDArray[np.float32]


def drawn(a: float, b: float, n: int = 40_000, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Probabilities that are off by sigmoid(a logit + b), and labels."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-2.0, 1.5, n)
    true = 1 / (1 + np.exp(-(a * logit + b)))
    predicted = 1 / (1 + np.exp(-logit))
    return predicted.astype(np.float32), (rng.random(n) < true).astype(np.float32)


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (0.5, 1.0), (2.0, -1.0)])
def test_platt_finds_the_line_and_isotonic_comes_near(a: float, b: float) -> None:
    p, y = drawn(a, b)
    platt, isotonic = fit_platt(p, y), fit_isotonic(p, y)
    logit = np.linspace(-5, 2, 41)
    x = (1 / (1 + np.exp(-logit))).astype(np.float32)
    want = 1 / (1 + np.exp(-(a * logit + b)))
    # Three deviations of the estimate at the ends of the data.
    np.testing.assert_allclose(platt(x), want, rtol=0.12, atol=1e-3)
    for calibrator in (platt, isotonic):
        report = objective_report(y, calibrator(p))
        assert report.oe == pytest.approx(1.0, abs=0.01)
        assert report.log_loss <= log_loss(y, p) + 1e-5
    new_p, new_y = drawn(a, b, seed=1)
    best = log_loss(new_y, platt(new_p))
    assert log_loss(new_y, isotonic(new_p)) == pytest.approx(best, rel=0.01)


def test_isotonic_of_any_shape() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(20_000).astype(np.float32)
    true = np.where(p < 0.5, 0.1, 0.6)
    y = (rng.random(p.size) < true).astype(np.float32)
    calibrator = fit_isotonic(p, y)
    np.testing.assert_allclose(calibrator([0.2, 0.4, 0.6, 0.9]), [0.1, 0.1, 0.6, 0.6], atol=0.05)
    assert (np.diff(calibrator.y) >= 0).all()


def test_few_and_extreme_rows() -> None:
    for p, y in (
        ([0.5, 0.5], [0, 1]),
        ([0.0, 1.0, 0.0, 1.0], [0, 1, 0, 1]),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]),  # upside down: constant
        ([1e-7, 2e-7, 3e-7], [0, 0, 1]),
    ):
        for fit in (fit_platt, fit_isotonic):
            calibrator = fit(np.array(p, np.float32), np.array(y, np.float32))
            got = calibrator([0.0, 1e-7, 0.3, 0.7, 1.0])
            assert (np.diff(got) >= 0).all()
            assert (got > 0).all()
            assert (got < 1).all()


def test_methods_by_objective() -> None:
    objectives = ("click", "like", "a=b")
    assert resolve_methods(["like=none", "platt", "a=b=isotonic"], objectives) == {
        "click": "platt",
        "like": "none",
        "a=b": "isotonic",
    }
    with pytest.raises(ValueError, match="'beta' is no method; allowed: isotonic, platt, none"):
        resolve_methods(["beta"], objectives)
    with pytest.raises(ValueError, match="'vote' is not an objective; allowed: click"):
        resolve_methods(["vote=platt"], objectives)


def test_export_calibrates(
    simulation: Simulation, trained: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = simulation.dataset
    dataset.write_parquet(tmp_path / "log.parquet")
    name = dataset.objectives[0].name
    arguments = ["export", "--run", str(trained.directory), "--store", str(tmp_path / "store")]
    more = ["--data", str(tmp_path / "log.parquet"), "--calibrate", "isotonic", "--json"]
    assert main([*arguments, *more, "--calibrate", f"{name}=platt"]) == 0
    report = json.loads(capsys.readouterr().out)["calibration"]
    assert [row["method"] for row in report[:2]] == ["platt", "isotonic"]
    assert all(row["O/E"] == pytest.approx(1.0, abs=0.02) for row in report)
    assert report[0]["NE"] < report[0]["NE before"]
    scorer = Scorer.open(tmp_path / "store")
    calibrators = scorer._opened.tensors("calibrators")
    assert {key.rpartition("/")[0] for key in calibrators} == set(scorer.objectives)
    assert main([*arguments, "--calibrate", "platt"]) == 2
    assert "--calibrate needs --data" in capsys.readouterr().err
