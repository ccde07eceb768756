"""The command line end to end on a small simulated feed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedfast.data import simulate

OBJECTIVES = ["click", "dwell", "expand", "like", "comment", "reshare", "vote", "creator_reply"]


def run_cli(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "feedfast.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def run_json(*arguments: object, cwd: Path) -> Any:
    done = run_cli(*arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `feedfast demo --quick` has run."""
    folder = tmp_path_factory.mktemp("demo")
    document = run_json("demo", "--quick", cwd=folder)
    (folder / "demo.json").write_text(json.dumps(document))
    return folder


def test_demo_reports_quality_latency_and_sizes(folder: Path) -> None:
    document = json.loads((folder / "demo.json").read_text())
    evaluation = document["evaluation"]["objectives"]
    assert [entry["name"] for entry in evaluation] == OBJECTIVES
    for entry in evaluation:
        assert 0.0 < entry["model"]["auc"] < 1.0
        assert entry["model"]["oe_low"] <= entry["model"]["oe"] <= entry["model"]["oe_high"]
        assert entry["baseline"]["auc"] > 0.0
        assert entry["oracle"]["auc"] > entry["model"]["auc"]
    assert document["heavy_packages"] == []
    assert document["store_bytes"]["int8"] < document["store_bytes"]["fp32"]
    for latency in document["latency_ms"].values():
        assert 0.0 < latency["p50"] <= latency["p99"]


def test_demo_report_is_one_page_that_needs_nothing_else(folder: Path) -> None:
    page = (folder / "demo" / "simulated-quick" / "report.html").read_text()
    assert page.count("<svg") == 3
    for objective in OBJECTIVES:
        assert objective in page
    assert "<script" not in page
    assert "<link" not in page


def test_store_of_the_demo_is_inspected(folder: Path) -> None:
    models = run_json("inspect", "demo/simulated-quick/store", cwd=folder)
    assert [model["model"] for model in models] == ["feed", "feed-int8"]
    for model in models:
        assert sum(section["percent"] for section in model["sections"]) == pytest.approx(100.0)
        assert model["bytes"] == sum(section["bytes"] for section in model["sections"])


def test_a_log_without_labels_is_scored_with_the_history_of_another(folder: Path) -> None:
    table = simulate(num_members=300, num_requests=60, num_posts=2_000).dataset.log.to_table()
    labels = [name for name in table.column_names if name.startswith("label.")]
    pq.write_table(table, folder / "earlier.parquet")
    pq.write_table(table.slice(200).drop_columns(labels), folder / "input.parquet")
    arguments = ["score", "--store", "demo/simulated-quick/store", "--input", "input.parquet"]
    outputs = []
    for name, more in (("cold", []), ("warm", ["--history", "earlier.parquet"])):
        output = f"{name}.parquet"
        document = run_json(*arguments, *more, "--output", output, cwd=folder)
        assert document["candidates"] == 400
        outputs.append(pq.read_table(folder / output))
    cold, warm = outputs
    assert cold.column_names == [
        *("request_id", "item"),
        *(f"p.{name}" for name in OBJECTIVES),
        *("score", "rank"),
    ]
    assert cold["request_id"].equals(warm["request_id"])
    assert not cold["p.click"].equals(warm["p.click"])
    for request in (
        warm.group_by("request_id").aggregate([("rank", "list"), ("score", "list")]).to_pylist()
    ):
        by_rank = np.array(request["score_list"])[np.argsort(request["rank_list"])]
        assert np.all(np.diff(by_rank) <= 0)


def test_a_log_that_does_not_say_its_groups_is_told_the_flag(folder: Path) -> None:
    log = simulate(num_members=100, num_requests=20, num_posts=2_000).dataset.log
    pq.write_table(log.to_table().replace_schema_metadata(), folder / "plain.parquet")
    done = run_cli("train", "--data", "plain.parquet", "--run", "run", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("feedfast train: plain.parquet: objective 'click' has group None")
    assert "--group click=..." in done.stderr
    assert not (folder / "run").exists()


def test_what_is_not_a_log_is_refused_by_name(folder: Path) -> None:
    pq.write_table(pa.table({"viewer": [1]}), folder / "other.parquet")
    done = run_cli(
        *("score", "--store", "demo/simulated-quick/store", "--input", "other.parquet"),
        *("--output", "scores.parquet"),
        cwd=folder,
    )
    assert done.returncode == 2
    assert "other.parquet: column" in done.stderr
