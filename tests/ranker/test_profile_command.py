from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feedfast.cli.main import main
from feedfast.data import Simulation
from feedfast.training import TrainedRun


def test_profile_of_a_run_names_the_ops_of_its_step(
    trained: TrainedRun,
    simulation: Simulation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = tmp_path / "log.parquet"
    pq.write_table(simulation.dataset.log.to_table(), log)
    arguments = ["profile", "--data", str(log), "--run", str(trained.directory), "--steps", "3"]
    for objective in simulation.dataset.objectives:
        arguments += ["--group", f"{objective.name}={objective.group}"]
    trace, plot = tmp_path / "trace.json", tmp_path / "plot.svg"
    assert main([*arguments, "--json", "--trace", str(trace), "--plot", str(plot)]) == 0
    document = json.loads(capsys.readouterr().out)
    types = {part["type"] for part in document["parts"]}
    assert any("MatMul" in name for name in types)
    assert any("Row" in name for name in types)  # the update of the tables
    assert document["num_steps"] == 3
    assert json.loads(trace.read_text())["traceEvents"]
    assert plot.read_text().startswith("<svg")
    assert main([*arguments, "--top", "4"]) == 0
    assert "one step takes" in capsys.readouterr().out


def test_counts_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--data", "simulated", "--steps", "0"]) == 2
    assert "--steps and --top must be at least 1; got 0 and 20" in capsys.readouterr().err
