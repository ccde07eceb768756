"""Plans of memory against what is stored and measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from feedfast.cli.main import main
from feedfast.config import CrossConfig, ForestConfig, RankerConfig, TableConfig, TowerConfig
from feedfast.memory_plan import (
    MemoryShape,
    SectionPlan,
    plan_memory,
    shape_of_config,
    shape_of_model,
)
from feedfast.ranker_artifact import publish_ranker
from feedfast.ranker_description import RankerDescription
from feedfast.store import ModelStore
from synthetic_ranker import synthetic_ranker

GATES: tuple[Any, ...] = (
    {"passive": "hidden", "active": "input"},
    {"passive": "low_rank", "active": None},
)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize(
    "precision", ["fp32", "fp16", {"tables": "int8", "layers": "bf16"}, {"layers": "int8"}]
)
def test_plans_meet_what_is_stored(tmp_path: Path, precision: Any, gates: Any) -> None:
    store = ModelStore(tmp_path)
    artifact = synthetic_ranker(
        3, num_members=20_000, gates=gates, with_effects=True, units=(24, 10)
    )
    publish_ranker(store, "feed", artifact, precision=precision)
    opened = store.open("feed")
    description = RankerDescription.from_json(opened.description)
    plan = {section.name: section for section in plan_memory(shape_of_model(opened, description))}
    sections = opened.manifest.sections
    assert set(plan) == set(sections) - {"calibrators"}
    for name, section in plan.items():
        stored = sections[name].num_bytes
        assert abs(section.bytes - stored) <= max(1024, 0.01 * stored), name
    for name in ("member_table", "hashtag_table", "leaf_table", "forest"):
        assert plan[name].bytes == sections[name].num_bytes
    assert plan["member_table"].parameters == 20_001 * 9
    weights = sum(
        x.size for name, x in opened.tensors("towers").items() if not name.endswith("_scale")
    )
    assert plan["towers"].parameters == weights


def test_a_config_has_the_layers_it_trains() -> None:
    config = RankerConfig(
        member=TableConfig(dim=8),
        hashtag=TableConfig(dim=4),
        forest=ForestConfig(num_trees=3, max_depth=2, leaf_dim=5),
        passive=TowerConfig(units=(16, 6), gate="hidden"),
        active=TowerConfig(units=(10,), gate="input", gate_rank=2),
        cross=CrossConfig(layers=2, rank=3),
    )
    shape = shape_of_config(config, members=99, hashtags=9, features=7, passive=2, active=1)
    width = 4 * 8 + 2 * 4 + 5 + 7
    towers = {s.name: s for s in plan_memory(shape)}["towers"]
    cross = 2 * (2 * 3 * width + width)
    passive = (width + 1) * 16 + 17 * 16 + 17 * 6 + 7 * 6 + 7 * 2
    active = (width + 1) * 10 + 2 * (width + 10) + 10 + 11 * 1
    assert towers.parameters == cross + passive + active
    half = shape_of_config(
        config, members=99, hashtags=9, features=7, passive=2, active=1, precision="int8"
    )
    assert {s.name: s for s in plan_memory(half)}["towers"].bytes < towers.bytes / 2
    assert shape.leaves == 12
    with pytest.raises(ValueError, match="counts must not be negative"):
        shape_of_config(config, members=-1, hashtags=9, features=7, passive=2, active=1)
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, int8; got 'fp8'"):
        shape_of_config(
            config,
            members=1,
            hashtags=9,
            features=7,
            passive=2,
            active=1,
            precision="fp8",  # type: ignore[arg-type]
        )


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "memory", "--members", "1000,2000", "--tables", "fp32,int8", "--json"]
    assert main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["members"], row["tables"]) for row in rows] == [
        (1000, "fp32"),
        (1000, "int8"),
        (2000, "fp32"),
        (2000, "int8"),
    ]
    assert rows[0]["parameters"] == rows[1]["parameters"]
    assert rows[0]["bytes"] > rows[1]["bytes"]
    assert rows[0]["resident"] == sum(s["mapped"] + s["private"] for s in rows[0]["sections"])
    config = tmp_path / "config.json"
    config.write_text(RankerConfig(member=TableConfig(dim=2)).to_json())
    assert main(["plan", "memory", "--config", str(config)]) == 0
    assert "100,000,000 members, int4" in capsys.readouterr().out
    config.write_text("{]")
    assert main(["plan", "memory", "--config", str(config)]) == 2
    assert f"{config}: config: not JSON" in capsys.readouterr().err
    assert main(["plan", "memory", "--tables", "fp8"]) == 2
    assert "'fp8' is no precision; allowed: fp32" in capsys.readouterr().err
    for members in ("many", "0", "10,-1", "1e3", ""):
        assert main(["plan", "memory", "--members", members]) == 2
        assert "--members must be whole numbers >= 1" in " ".join(capsys.readouterr().err.split())
    capsys.readouterr()
    for option in ("--model=feed", "--version=3"):
        assert main(["plan", "memory", option]) == 2
        assert "--model and --version go with --check" in capsys.readouterr().err


def test_a_plan_checks_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ModelStore(tmp_path)
    publish_ranker(store, "feed", synthetic_ranker(3, num_members=50_000, member_dim=64))
    assert main(["plan", "memory", "--check", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in document["rows"]}
    assert rows["member_table"]["planned"] == rows["member_table"]["measured"]
    assert rows["mapped"]["measured"] > rows["member_table"]["measured"]
    assert all(row["holds"] for row in rows.values())


def test_the_plan_of_a_small_model_can_be_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_table_twice(shape: MemoryShape) -> tuple[SectionPlan, ...]:
        member_table, *others = plan_memory(shape)
        doubled = dataclasses.replace(
            member_table, bytes=2 * member_table.bytes, mapped=2 * member_table.mapped
        )
        return (doubled, *others)

    monkeypatch.setattr("feedfast.cli.plan_memory.plan_memory", one_table_twice)
    publish_ranker(ModelStore(tmp_path), "feed", synthetic_ranker(3))
    assert main(["plan", "memory", "--check", str(tmp_path), "--json"]) == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {name for name, row in rows.items() if not row["holds"]} == {"member_table", "mapped"}
