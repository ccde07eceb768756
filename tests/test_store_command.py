"""`feedfast store`: what its actions print, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feedfast.cli.main import main
from feedfast.ranker_artifact import publish_ranker
from feedfast.store import ModelStore
from store_content import check, publish
from synthetic_ranker import synthetic_ranker


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "store")
    publish(store, 1)
    publish(store, 2)
    publish(store, 3, model="other")
    return store


def run(*arguments: object) -> int:
    return main(["store", *map(str, arguments)])


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code = run(*arguments, "--json")
    return code, json.loads(capsys.readouterr().out)


def test_list(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", store.path) == 0
    printed = capsys.readouterr().out
    assert "feed@000002" in printed
    assert "shared with others" in printed
    code, document = run_json(capsys, "list", store.path)
    assert code == 0
    assert [entry["model"] for entry in document["versions"]] == ["feed", "feed", "other"]
    assert all(0 < entry["shared_bytes"] < entry["bytes"] for entry in document["versions"])
    assert document["bytes"] < sum(entry["bytes"] for entry in document["versions"])
    assert run("list", store.path / "none") == 2


def test_diff(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("diff", store.path, "feed@1", "feed") == 0
    assert "feed@000001 -> feed@000002: " in capsys.readouterr().out
    _, document = run_json(capsys, "diff", store.path, "feed", "other@1")
    changes = {section["name"]: section["change"] for section in document["sections"]}
    assert changes["table"] == "changed"
    assert changes["fixed"] == "same"
    assert document["description"] == {"seed": "changed"}
    _, document = run_json(capsys, "diff", store.path, "feed", "feed", "--new-store", store.path)
    assert document["fresh_bytes"] == 0
    assert run("diff", store.path, "feed", "feed@7") == 2
    assert "no version 000007 of model 'feed'; versions: 000001, 000002" in capsys.readouterr().err


def test_push_gc_and_check(
    store: ModelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    _, newest = run_json(capsys, "push", store.path, copy)
    assert [entry["entry"] for entry in newest] == ["feed@000002", "other@000001"]
    _, everything = run_json(capsys, "push", store.path, copy, "--all")
    assert [entry["published"] for entry in everything] == [True, False, False]
    _, one = run_json(capsys, "push", store.path, copy, "feed@1", "--verify", "full")
    assert one[0]["copied_blobs"] == 0
    assert check(ModelStore(copy).open("feed", 1, verify="full")) == 1
    assert run("push", store.path, copy, "feed", "--all") == 2
    assert run("push", tmp_path / "none", copy) == 2
    capsys.readouterr()

    _, dry = run_json(
        capsys, "gc", copy, "--keep-versions", 1, "--min-age", 0, "--dry-run", "--wait", 0
    )
    assert dry["removed_versions"] == ["feed@000001"]
    assert run("gc", copy, "--keep-versions", 1, "--min-age", 0) == 0
    assert f"removed {dry['removed_blobs']} blobs" in capsys.readouterr().out
    assert [entry.version for entry in ModelStore(copy).list()] == ["000002", "000001"]

    assert run("check", copy) == 0
    assert "no fault in 2 versions" in capsys.readouterr().out
    (blob,) = ModelStore(copy).open("other").manifest.sections["image"].blobs
    (copy / "blobs" / blob.sha256).write_bytes(b"IMAGE 3")
    assert run("check", copy) == 1
    printed = capsys.readouterr().out
    assert "1 faults" in printed
    assert "is altered" in printed
    code, document = run_json(capsys, "check", copy, "--model", "other")
    assert code == 1
    assert document["faults"][0]["blob"] == blob.sha256
    assert run_json(capsys, "check", copy, "--model", "feed")[0] == 0


def test_check_reads_the_images_of_a_ranker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ModelStore(tmp_path)
    publish_ranker(store, "feed", synthetic_ranker(3, with_effects=True))
    assert run("check", tmp_path) == 0
    # An image that its writer got wrong: the digest is right, the image is not.
    writer = store.writer("feed")
    writer.add_image("forest", b"no forest", layout="forest")
    writer.publish()
    capsys.readouterr()
    assert run("check", tmp_path) == 1
    assert "is no valid image" in capsys.readouterr().out
