"""`feedfast plan shards` and `plan calibrate`, from the command line."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedfast.cli import plan_shards
from feedfast.cli.main import main
from feedfast.comm import NullEngine
from feedfast.sharding import ShardingPlan, TableShape, Topology, Workload, plan_tables, preset
from feedfast.sharding import published as published_steps
from feedfast.sharding.calibration import calibrate
from feedfast.sharding.published import PUBLISHED, compare_published, tables_of

TABLES = [
    {"name": "members", "rows": 2_000_000, "dim": 64, "lookups_per_example": 50},
    {"name": "hashtags", "rows": 200_000, "dim": 32, "zipf": 1, "order": "frequency"},
    {"name": "country", "rows": 250, "dim": 8},
]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    path = tmp_path / "tables.json"
    path.write_text(json.dumps(TABLES))
    return path


def result(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    assert main(["plan", "shards", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_prints_placements_reasons_and_the_step(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot, out = tmp_path / "plan.svg", tmp_path / "plan.json"
    arguments = ["plan", "shards", "--hosts", "2", "--gpus", "2", "--tables", str(tables)]
    assert main([*arguments, "--plot", str(plot), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for part in (
        "predicted, not measured",
        "data_parallel:",
        "row exchange",
        "rank 3",
        "examples/s",
    ):
        assert part in text
    assert plot.read_text().startswith("<svg")
    plan = ShardingPlan.from_json(out.read_text())
    assert (plan.num_ranks, plan.ranks_per_host) == (4, 2)
    assert [table.name for table in plan.tables] == ["members", "hashtags", "country"]


def test_json_has_the_whole_plan(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = result(capsys, "--gpus", "4", "--tables", tables, "--dense-ms", "3", "--bf16")
    assert document["predicted"] is True
    assert document["part_seconds"]["dense"] == 0.003
    assert math.isclose(sum(document["part_seconds"].values()), document["step_seconds"])
    assert len(document["memory_bytes"]) == 4
    plan = ShardingPlan.from_json(json.dumps(document["plan"]))
    for table in plan.tables:
        assert document["alternatives"][table.name][0]["kind"] == plan.placement(table.name).kind
    only = result(capsys, "--gpus", "4", "--tables", tables, "--kinds", "table,column")
    assert {p["kind"] for p in only["plan"]["placements"]} <= {"table", "column"}


def test_plans_for_measured_machines(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with NullEngine() as engine:
        topology = calibrate(engine, memory_bytes=1 << 30, name="here")
    path = tmp_path / "here.json"
    path.write_text(topology.to_json())
    assert result(capsys, "--tables", tables, "--cluster", path)["topology"]["name"] == "here"
    document = result(capsys, "--tables", tables, "--cluster", path, "--gpus", "2", "--memory", "2")
    assert document["topology"]["ranks_per_host"] == 2
    assert document["topology"]["memory_bytes"] == 2 << 30


def test_calibrates_processes_that_it_starts(tmp_path: Path) -> None:
    path = tmp_path / "two.json"
    arguments = ["--processes", "2", "--memory", "0.5", "--name", "two", "--json"]
    assert main(["plan", "calibrate", "--out", str(path), *arguments]) == 0
    topology = Topology.from_json(path.read_text())
    assert (topology.name, topology.source) == ("two", "measured")
    assert (topology.num_hosts, topology.ranks_per_host) == (1, 2)
    assert topology.memory_bytes == 1 << 29
    assert 1.0 <= topology.workers <= 2.0
    assert topology.local_latency > 0


def test_one_process_that_is_in_no_job_is_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.json"
    assert main(["plan", "calibrate", "--out", str(path)]) != 0
    assert "this process is alone: give --processes N" in " ".join(capsys.readouterr().err.split())
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --tables FILE or --store STORE"),
        (["--tables", "TABLES", "--store", "x"], "give --tables FILE or --store STORE"),
        (["--tables", "TABLES", "--model", "feed"], "go with --store"),
        (["--tables", "TABLES", "--kinds", "rows"], "'rows' is no kind; allowed: data_parallel"),
        (["--tables", "TABLES", "--cluster", "v100"], "'v100' is neither a100, h100 nor a file"),
        (["--tables", "TABLES", "--cluster", "TABLES"], "topology: must be an object"),
        (["--tables", "TABLES", "--gpus", "2", "--memory", "0.1"], "'members' has the most"),
        (["--tables", "TABLES", "--batch", "0"], "batch_per_rank must be >= 1"),
        (["--tables", "TABLES", "--memory", "nan"], "--memory must be finite and above 0; got nan"),
        (["--tables", "TABLES", "--memory", "inf"], "--memory must be finite and above 0; got inf"),
        (["--tables", "TABLES", "--dense-mb", "inf"], "--dense-mb must be finite and >= 0"),
        (["--tables", "TABLES", "--hosts", "0"], "num_hosts must be >= 1; got 0"),
        (["--tables", "TABLES", "--hosts", "999999999"], "at most 1,048,576 ranks"),
        (["--tables", "TABLES", "--min-columns", "0"], "min_columns must be >= 1; got 0"),
        (["--tables", "BAD"], r"tables\[0\]: member 'dim' is missing"),
        (["--tables", "EMPTY"], "must be a list of at least one table"),
    ],
)
def test_errors_name_what_is_wrong(
    tables: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = {"TABLES": tables, "BAD": tmp_path / "bad.json", "EMPTY": tmp_path / "empty.json"}
    paths["BAD"].write_text('[{"name": "members", "rows": 10}]')
    paths["EMPTY"].write_text("[]")
    assert main(["plan", "shards", *(str(paths.get(a, a)) for a in arguments)]) != 0
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_published_models_have_their_published_sizes() -> None:
    # README of the synthetic models: numbers of tables (with the shared ones once) and GiB.
    for model, tables, gib in (
        ("tiny", 55, 4.2),
        ("small", 107, 26.3),
        ("medium", 311, 206.2),
        ("large", 612, 773.8),
    ):
        shapes = tables_of(model)
        assert len(shapes) == tables
        assert sum(shape.weight_bytes for shape in shapes) / 2**30 == pytest.approx(gib, abs=0.06)
    criteo = sum(shape.weight_bytes for shape in tables_of("criteo"))
    assert criteo / 1e9 == pytest.approx(91.10, abs=0.01)  # published as GiB, but GB


def test_predictions_beside_published_steps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = [step for step in PUBLISHED if step.model == "tiny"]
    *first, last = compare_published([tiny[0], tiny[1], tiny[1]])
    assert [item.fitted_seconds for item in first] == [None, None]
    # What the fit was made of comes out again.
    assert last.fitted_seconds == pytest.approx(tiny[1].step_seconds)
    assert last.preset_seconds > 0
    monkeypatch.setattr(published_steps.compare_published, "__defaults__", (tiny[:1], None))
    document = result(capsys, "--published")
    assert [row["model"] for row in document] == ["tiny"]


_ODD_VALUES = (
    *(math.nan, math.inf, -math.inf, -1, 0, 1, 2, 0.5, 1e308, 2**31, 2**63, 2**70, 10**400),
    *(None, True, "", "x", "row", [], {}, [[]], {"name": 1}),
)


def _changed(rng: np.random.Generator, document: Any) -> Any:
    """`document` with one value of it replaced, left out, or a member added."""
    document = copy.deepcopy(document)
    at, key = document, None
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = keys[rng.integers(len(keys))]
        if not (isinstance(at[key], (dict, list)) and at[key] and rng.random() < 0.8):
            break
        at = at[key]
    what = rng.integers(8)
    if what == 0:
        del at[key]
    elif what == 1 and isinstance(at, dict):
        at["unheard_of"] = 1
    else:
        at[key] = _ODD_VALUES[rng.integers(len(_ODD_VALUES))]
    return document


def test_odd_values_give_value_errors(tables: Path) -> None:
    rng = np.random.default_rng(20_261_122)
    plan = plan_tables(
        [TableShape(**table) for table in TABLES],
        preset("a100", num_hosts=2, ranks_per_host=2),
        Workload(batch_per_rank=16),
    ).plan
    topology = preset("a100", num_hosts=2, ranks_per_host=2)
    readers: list[tuple[Any, Any]] = [
        (ShardingPlan.from_json, json.loads(plan.to_json())),
        (Topology.from_json, json.loads(topology.to_json())),
        (_read_tables(tables), TABLES),
    ]
    for read, document in readers:
        refused = 0
        for _ in range(400):
            try:
                read(json.dumps(_changed(rng, document)))
            except ValueError:
                refused += 1
        assert refused > 200


def _read_tables(path: Path) -> Any:
    def read(text: str) -> None:
        path.write_text(text)
        plan_shards.tables_from_file(path)

    return read
