"""Memory by section: what the kernel counts for the mappings of a store."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedfast.cli.main import main
from feedfast.process_memory import memory_by_file, page_faults, process_memory
from feedfast.ranker_artifact import publish_ranker
from feedfast.store import ModelStore
from store_content import publish, table
from synthetic_ranker import synthetic_ranker

PAGE = os.sysconf("SC_PAGESIZE")


def inspect(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main(["inspect", *map(str, arguments), "--memory", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_mapped_files_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "with space"
    np.ones(64 * PAGE, np.uint8).tofile(path)
    before, faults = process_memory(), page_faults()
    mapped = np.memmap(path, np.uint8, "r")
    assert memory_by_file()[str(path)].rss <= 64 * PAGE
    assert int(mapped.sum()) == 64 * PAGE
    found = memory_by_file()[str(path)]
    assert found.rss == 64 * PAGE
    assert found.anonymous == 0
    assert 0 < found.pss <= found.rss
    assert (page_faults() - faults).minor > 0
    path.unlink()
    assert memory_by_file()[str(path)].rss == 64 * PAGE
    assert process_memory().rss > 0
    assert (process_memory() - before).anonymous < 64 << 20
    with pytest.raises(FileNotFoundError):
        process_memory(2**22 + 1)


def test_sections_of_a_ranker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish_ranker(ModelStore(tmp_path), "feed", synthetic_ranker(3, num_members=20_000))
    document = inspect(capsys, tmp_path)
    assert [stage["stage"] for stage in document["stages"]] == [
        "before",
        "open",
        "load",
        "every page read",
    ]
    members = document["sections"][0]
    assert members["name"] == "member_table"
    # All of it but the page of the header.
    assert members["bytes"] - 2 * PAGE <= members["read"]["rss"] <= members["bytes"] + PAGE
    assert members["open"]["rss"] <= members["read"]["rss"]
    assert {section["name"] for section in document["sections"]} >= {"towers", "forest"}


def test_any_model_and_any_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ModelStore(tmp_path)
    publish(store, 1)
    with store.writer("big") as writer:
        writer.add_table("table", table(100_000, 8))
        writer.publish()
    opened = store.open("big")
    opened.table("table").sum()
    seen = inspect(capsys, tmp_path, "--model", "big", "--pid", os.getpid())
    assert seen["sections"][0]["rss"] >= 100_000 * 8 * 4
    assert len(inspect(capsys, tmp_path, "--model", "feed", "--version", 1)["sections"]) == 6
    assert main(["inspect", str(tmp_path), "--memory"]) == 2
    assert "--memory needs --model; models: big, feed" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path), "--pid", "1"]) == 2
    assert "--pid goes with --memory" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path), "--model", "big", "--memory"]) == 0
    assert "every page read" in capsys.readouterr().out


def test_blocks_of_the_same_rows_are_counted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ModelStore(tmp_path).writer("zeros") as writer:
        writer.add_table("table", np.zeros((3 << 16, 64), np.float32))
        writer.publish()
    blobs = ModelStore(tmp_path).open("zeros").manifest.sections["table"].blobs
    assert len(set(blobs)) < len(blobs)
    (section,) = inspect(capsys, tmp_path)["sections"]
    assert section["read"]["rss"] <= section["bytes"]
    compare = ["--compare", str(tmp_path)]
    assert main(["inspect", str(tmp_path), "--memory", *compare]) == 2
    assert "--compare goes without --memory" in capsys.readouterr().err
