from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from feedfast.store import ModelStore, writer
from store_content import check, publish, table


def test_publish_open_and_list(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "deep" / "store")
    assert store.list() == ()
    versions = [publish(store, seed) for seed in range(3)] + [publish(store, 7, "other")]
    assert versions == ["000001", "000002", "000003", "000001"]
    assert [(entry.model, entry.version) for entry in store.list()] == [
        ("feed", "000001"),
        ("feed", "000002"),
        ("feed", "000003"),
        ("other", "000001"),
    ]
    assert check(store.open("feed")) == 2
    assert check(store.open("feed", "000001", verify="full")) == 0
    assert check(store.open("feed", 2)) == 1
    assert check(store.open("other", verify="full")) == 7


def test_equal_sections_share_one_blob(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, 1)
    before = {path: path.stat().st_ino for path in (tmp_path / "blobs").iterdir()}
    publish(store, 1)
    assert {path: path.stat().st_ino for path in (tmp_path / "blobs").iterdir()} == before
    publish(store, 2)
    shared = [
        {blob.sha256 for blob in store.open("feed", version).manifest.sections["fixed"].blobs}
        for version in (1, 3)
    ]
    assert shared[0] == shared[1]


def test_tensor_blobs_open_with_the_stock_library(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, 3)
    sections = store.open("feed").manifest.sections
    for name, align in (("table", 4096), ("codes", 4096), ("tensors", 64), ("none", 64)):
        (blob,) = sections[name].blobs
        path = tmp_path / "blobs" / blob.sha256
        assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % align == 0
        loaded = safetensors.numpy.load_file(path)
        if name == "table":
            np.testing.assert_array_equal(loaded["rows"], table(300, 5, 3))
        if name == "tensors":
            np.testing.assert_array_equal(loaded["a/x"], table(1, 7, 3)[0])


@pytest.mark.parametrize("columns", [1, 3, 64])
def test_big_tables_are_split_and_mapped_as_one(
    tmp_path: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BLOCK_BYTES", 1 << 16)
    store = ModelStore(tmp_path)
    step = writer.rows_per_block(4 * columns)
    whole = table(2 * step + 17, columns)
    for rows in (0, 1, step - 1, step, step + 1, 2 * step + 17):
        model_writer = store.writer("feed")
        model_writer.add_table("table", whole[:rows])
        model_writer.publish()
        opened = store.open("feed", verify="full")
        assert len(opened.manifest.sections["table"].blobs) == max(1, -(-rows // step))
        np.testing.assert_array_equal(opened.table("table"), whole[:rows])
    # Only the last block differs between these two: the others are shared.
    changed = whole.copy()
    changed[-1] += 1
    model_writer = store.writer("feed")
    model_writer.add_table("table", changed)
    model_writer.publish()
    blobs = store.open("feed").manifest.sections["table"].blobs
    assert blobs[:2] == opened.manifest.sections["table"].blobs[:2]
    assert blobs[2] != opened.manifest.sections["table"].blobs[2]


@pytest.mark.parametrize("row_bytes", [1, 4, 5, 67, 68, 132, 256, 260, 1024, 4000, 70_000])
def test_rows_per_block(row_bytes: int) -> None:
    rows = writer.rows_per_block(row_bytes)
    assert rows % 1024 == 0
    assert rows * row_bytes >= 16 << 20
    assert rows * row_bytes % 4096 == 0


def test_mapped_sections_outlive_the_store_and_are_read_only(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, 5)
    opened = store.open("feed")
    rows = opened.table("table")
    for path in (tmp_path / "blobs").iterdir():
        path.unlink()
    assert check(opened) == 5
    del opened
    np.testing.assert_array_equal(rows, table(300, 5, 5))
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 1


def test_section_sizes_are_shares_of_the_whole(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, 0)
    sizes = store.open("feed").section_sizes()
    assert [size.num_bytes for size in sizes] == sorted((s.num_bytes for s in sizes), reverse=True)
    assert sum(size.share for size in sizes) == pytest.approx(1.0)
    assert next(s for s in sizes if s.name == "image").num_bytes == len("image 0")


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    with pytest.raises(FileNotFoundError, match="no model 'feed'; models: none"):
        store.open("feed")
    publish(store, 0)
    with pytest.raises(FileNotFoundError, match="no model 'seed'; models: feed"):
        store.open("seed")
    with pytest.raises(FileNotFoundError, match="no version 000009 of model 'feed'; versions: 0"):
        store.open("feed", 9)
    for version in ("newest", "", -1, "²"):
        with pytest.raises(ValueError, match="version must be a number such as 1 or '000001'; got"):
            store.open("feed", version)
    with pytest.raises(ValueError, match="verify must be one of header, background, full; got"):
        store.open("feed", verify="none")  # type: ignore[arg-type]
    for name in ("", "..", "a/b", ".x", "a" * 129, "ä"):
        with pytest.raises(ValueError, match="is not a name"):
            store.open(name)
        with pytest.raises(ValueError, match="is not a name"):
            store.writer(name)
    model_writer = store.writer("feed")
    model_writer.add_image("a", b"", layout="text")
    with pytest.raises(ValueError, match="section 'a' was added before"):
        model_writer.add_tensors("a", {})
    with pytest.raises(ValueError, match="section 'b': a table of layout 'float32' is float32"):
        model_writer.add_table("b", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="at least 5 columns; got uint8 of shape"):
        model_writer.add_table("b", np.zeros((2, 4), np.uint8), layout="int8_rowwise")
    with pytest.raises(ValueError, match="dtype complex128 cannot be stored"):
        model_writer.add_tensors("b", {"x": np.zeros(1, complex)})
    opened = store.open("feed")
    with pytest.raises(ValueError, match="section 'x' is missing"):
        opened.table("x")
    with pytest.raises(ValueError, match="section 'image' is of kind 'image'; 'table' is needed"):
        opened.table("image")
    with pytest.raises(ValueError, match="has layout 'text'; 'forest' is needed"):
        opened.image("image", layout="forest")


def test_unknown_format_version_is_refused(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, 0)
    path = tmp_path / "models" / "feed" / "000001" / "manifest.json"
    content = json.loads(path.read_text())
    content["format_version"] = 9
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json: format_version 9 is unknown"):
        store.open("feed")


def _publish_many(path: str, seeds: list[int], results: Any) -> None:
    results.put([(publish(ModelStore(path), seed), seed) for seed in seeds])


def test_concurrent_writers_never_share_a_version(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [
        context.Process(
            target=_publish_many, args=(str(tmp_path), list(range(10 * w, 10 * w + 10)), results)
        )
        for w in range(4)
    ]
    for worker in workers:
        worker.start()
    published = dict(entry for _ in workers for entry in results.get(timeout=60))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sorted(published) == [f"{number:06d}" for number in range(1, 41)]
    store = ModelStore(tmp_path)
    for version, seed in published.items():
        assert check(store.open("feed", version, verify="full")) == seed
    assert sorted(os.listdir(tmp_path / "models" / "feed")) == sorted(published)
