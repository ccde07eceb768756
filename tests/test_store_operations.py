"""Inventory, difference, push, check and garbage of model stores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from feedfast.store import (
    ModelStore,
    ModelVersion,
    all_versions,
    check_store,
    collect_garbage,
    compare_manifests,
    files,
    push,
    read_manifest,
    take_inventory,
)
from feedfast.store.locks import hold_alone
from feedfast.store.versions import manifest_path, publish_manifest
from store_content import check, publish, table

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}


def blob_files(path: Path) -> set[str]:
    return set(os.listdir(path / "blobs"))


def age(path: Path, seconds: float) -> None:
    """Makes every blob older than it is."""
    for file in (path / "blobs").iterdir():
        os.utime(file, (time.time() - seconds,) * 2)


# ---- inventory and difference


def test_inventory_counts_shared_blobs_once(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, 1)
    publish(store, 2)
    publish(store, 7, model="other")
    inventory = take_inventory(tmp_path)
    first = inventory.versions[0]
    manifests = [read_manifest(tmp_path, e.model, e.version) for e in all_versions(tmp_path)]
    sizes = {b.sha256: b.num_bytes for m in manifests for s in m.sections.values() for b in s.blobs}
    assert inventory.blob_bytes == sum(sizes.values())
    assert inventory.unnamed_bytes == 0
    assert [str(size.entry) for size in inventory.versions] == [
        "feed@000001",
        "feed@000002",
        "other@000001",
    ]
    # `fixed` and the empty tensors are the same in all of them; everything else has a seed.
    shared = sum(
        blob.num_bytes for name in ("fixed", "none") for blob in manifests[0].sections[name].blobs
    )
    assert first.shared_bytes == shared
    assert first.num_bytes == sum(section.num_bytes for section in manifests[0].sections.values())
    (tmp_path / "blobs" / "x").write_bytes(b"abc")
    (tmp_path / "models" / "feed" / "000001" / "manifest.json").write_text("{}")
    damaged = take_inventory(tmp_path)
    assert "not a manifest" in damaged.versions[0].fault
    assert damaged.unnamed_bytes > 3


def test_difference_counts_what_a_push_would_copy(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    whole = table(5 << 20, 1)  # 20 MiB: two blocks
    for step, name in enumerate(("gone", "fresh")):
        writer = store.writer("feed")
        writer.add_table("table", whole)
        writer.add_table("same", table(3, 2))
        writer.add_image(name, f"image {step}".encode(), layout="text")
        writer.publish({"step": step, "kept": True, name: 1})
        whole[-1] += 1
    old, new = (read_manifest(tmp_path, "feed", f"00000{number}") for number in (1, 2))
    difference = compare_manifests(old, new)
    changes = {change.name: change for change in difference.sections}
    assert {name: change.change for name, change in changes.items()} == {
        "table": "changed",
        "same": "same",
        "gone": "removed",
        "fresh": "added",
    }
    assert (changes["table"].new_blobs, changes["table"].fresh_blobs) == (2, 1)
    assert difference.fresh_bytes == changes["table"].fresh_bytes + len(b"image 1")
    assert difference.description == {
        "step": "changed",
        "kept": "same",
        "gone": "removed",
        "fresh": "added",
    }
    assert compare_manifests(old, old).fresh_bytes == 0


# ---- push


def test_push_copies_what_is_missing(tmp_path: Path) -> None:
    source, destination = ModelStore(tmp_path / "a"), ModelStore(tmp_path / "b")
    publish(source, 1)
    publish(source, 2)
    seen: list[tuple[int, int]] = []
    first = push(
        source.path,
        destination.path,
        "feed",
        1,
        progress=lambda done, total, _: seen.append((done, total)),
    )
    assert (first.published, first.present_blobs) == (True, 0)
    assert seen[-1] == (first.copied_bytes, first.copied_bytes)
    assert seen == sorted(seen)
    assert check(destination.open("feed", verify="full")) == 1
    second = push(source.path, destination.path, "feed")
    assert second.entry == ModelVersion("feed", "000002")
    assert second.present_blobs == 2  # `fixed` and `none`
    assert check(destination.open("feed", verify="full")) == 2
    again = push(source.path, destination.path, "feed")
    assert (again.published, again.copied_blobs, again.copied_bytes) == (False, 0, 0)
    manifests = [
        (path / "models/feed/000002/manifest.json") for path in (source.path, destination.path)
    ]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()


def test_push_repairs_on_request(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "a")
    publish(store, 1)
    push(store.path, tmp_path / "b", "feed")
    (blob,) = store.open("feed").manifest.sections["table"].blobs
    damaged = tmp_path / "b" / "blobs" / blob.sha256
    damaged.write_bytes(bytes(blob.num_bytes))
    assert push(store.path, tmp_path / "b", "feed").copied_blobs == 0
    assert push(store.path, tmp_path / "b", "feed", full=True).copied_blobs == 1
    assert not check_store(tmp_path / "b").faults


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_push_of_a_damaged_source_publishes_nothing(tmp_path: Path, damage: str) -> None:
    store = ModelStore(tmp_path / "a")
    publish(store, 1)
    (blob,) = store.open("feed").manifest.sections["table"].blobs
    file = store.path / "blobs" / blob.sha256
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    if damage == "truncated":
        file.write_bytes(content[:-1])
    elif damage == "missing":
        file.unlink()
    says = {"altered": "is altered: its sha256 is", "truncated": "has", "missing": "is missing"}
    with pytest.raises(ValueError, match=f"section 'table': blob {blob.sha256} {says[damage]}"):
        push(store.path, tmp_path / "b", "feed")
    assert not all_versions(tmp_path / "b")
    assert blob.sha256 not in blob_files(tmp_path / "b")
    assert not [name for name in blob_files(tmp_path / "b") if name.startswith(".tmp-")]


def test_pushes_of_one_version_may_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(ModelStore(tmp_path / "a"), 1)
    module = sys.modules["feedfast.store.push"]
    monkeypatch.setattr(module, "publish_manifest", lambda *_: overtake(lambda: push(*stores)))
    stores = tmp_path / "a", tmp_path / "b", "feed"

    def overtake(faster: Callable[[], object]) -> None:
        monkeypatch.undo()
        faster()
        publish_manifest(stores[1], read_manifest(stores[0], "feed", "000001"))

    assert not push(*stores).published
    assert check(ModelStore(tmp_path / "b").open("feed", verify="full")) == 1


def test_push_never_replaces_a_version(tmp_path: Path) -> None:
    publish(ModelStore(tmp_path / "a"), 1)
    publish(ModelStore(tmp_path / "b"), 2)
    with pytest.raises(FileExistsError, match="has another version 000001 of 'feed'"):
        push(tmp_path / "a", tmp_path / "b", "feed")
    assert check(ModelStore(tmp_path / "b").open("feed", verify="full")) == 2
    with pytest.raises(FileNotFoundError, match="no model 'x'; models: feed"):
        push(tmp_path / "a", tmp_path / "b", "x")


# Kills itself at the n-th sync or rename of a push.
KILLED_PUSH = """
import os, pathlib, signal, sys
from feedfast.store import push
fatal = int(sys.argv[3])
def deadly(function):
    def wrapped(*args, **kwargs):
        global fatal
        fatal -= 1
        if fatal == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped
os.fsync = deadly(os.fsync)
pathlib.Path.rename = deadly(pathlib.Path.rename)
pathlib.Path.replace = deadly(pathlib.Path.replace)
push(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), "feed")
"""


def test_a_killed_push_goes_on_where_it_stopped(tmp_path: Path) -> None:
    publish(ModelStore(tmp_path / "a"), 3)
    kills = 0
    # Further each time: what was copied need not be copied again.
    for fatal in (1, 4, 5, 7, 9, 6, 100):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                KILLED_PUSH,
                str(tmp_path / "a"),
                str(tmp_path / "b"),
                str(fatal),
            ],
            check=False,
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        kills += 1
        store = ModelStore(tmp_path / "b")
        assert [check(store.open(e.model, e.version, verify="full")) for e in store.list()] in (
            [],
            [3],
        )
    assert kills >= 3
    assert check(ModelStore(tmp_path / "b").open("feed", verify="full")) == 3
    collect_garbage(tmp_path / "b", min_age_s=0)
    assert not [name for name in blob_files(tmp_path / "b") if name.startswith(".tmp-")]
    assert check(ModelStore(tmp_path / "b").open("feed", verify="full")) == 3


# ---- check


def test_check_names_every_fault(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, 1)
    publish(store, 2)
    publish(store, 3)
    report = check_store(tmp_path)
    assert (report.faults, report.num_versions) == ((), 3)
    assert report.num_bytes == take_inventory(tmp_path).blob_bytes
    manifest = store.open("feed", 1).manifest
    (shared,) = manifest.sections["fixed"].blobs
    (image,) = manifest.sections["image"].blobs
    (own,) = manifest.sections["tensors"].blobs
    file = tmp_path / "blobs" / shared.sha256
    content = bytearray(file.read_bytes())
    content[-1] ^= 4
    file.write_bytes(content)
    (tmp_path / "blobs" / own.sha256).unlink()
    unreadable = tmp_path / "blobs" / image.sha256
    unreadable.unlink()
    unreadable.symlink_to(unreadable.name)  # the system reads it as little as a bad sector
    (tmp_path / "models" / "feed" / "000003" / "manifest.json").write_text("{}")
    report = check_store(tmp_path)
    assert any(fault.what.startswith("cannot be read: ") for fault in report.faults)
    faults = {(str(f.entry), f.section, f.blob) for f in report.faults}
    assert faults == {
        ("feed@000001", "fixed", shared.sha256),
        ("feed@000001", "image", image.sha256),
        ("feed@000001", "tensors", own.sha256),
        ("feed@000002", "fixed", shared.sha256),
        ("feed@000003", "", ""),
    }


def test_check_asks_about_images(tmp_path: Path) -> None:
    publish(ModelStore(tmp_path), 1)

    def refuse(path: Path) -> None:
        raise ValueError(f"{len(path.read_bytes())} bytes of nonsense")

    (fault,) = check_store(tmp_path, images={"text": refuse}).faults
    assert (fault.section, fault.what) == ("image", "is no valid image: 7 bytes of nonsense")
    with pytest.raises(FileNotFoundError, match="no model 'x'"):
        check_store(tmp_path, model="x")
    with pytest.raises(FileNotFoundError, match="is not a model store"):
        check_store(tmp_path / "x")


# ---- garbage


def test_garbage_is_what_no_version_names(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, 1)
    publish(store, 2)
    before = blob_files(tmp_path)
    assert collect_garbage(tmp_path, min_age_s=0).removed_blobs == 0
    assert blob_files(tmp_path) == before
    writer = store.writer("feed")
    writer.add_table("table", table(9, 9, 9))
    writer.close()
    (tmp_path / "blobs" / "notes.txt").write_text("kept")
    (tmp_path / "blobs" / ".tmp-x-1-2").write_text("left over")
    (tmp_path / "models" / "feed" / ".tmp-000009-1-2").mkdir()
    young = collect_garbage(tmp_path, min_age_s=600)
    assert (young.removed_blobs, young.young_blobs, young.leftovers) == (0, 2, 0)
    dry = collect_garbage(tmp_path, min_age_s=0, dry_run=True, keep_versions=1)
    assert dry.removed_versions == (ModelVersion("feed", "000001"),)
    assert len(blob_files(tmp_path)) == len(before) + 3
    report = collect_garbage(tmp_path, min_age_s=0)
    assert (report.removed_blobs, report.leftovers, report.foreign) == (1, 2, ("notes.txt",))
    assert blob_files(tmp_path) == before | {"notes.txt"}
    last = collect_garbage(tmp_path, min_age_s=0, keep_versions=1)
    assert (last.removed_versions, last.removed_blobs) == (
        dry.removed_versions,
        dry.removed_blobs - 1,
    )
    assert [entry.version for entry in store.list()] == ["000002"]
    assert check(store.open("feed", verify="full")) == 2


def test_open_versions_are_not_removed(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, 1)
    publish(store, 2)
    opened = store.open("feed", 1)
    report = collect_garbage(tmp_path, min_age_s=0, keep_versions=1)
    assert (report.removed_versions, report.open_versions) == (
        (),
        (ModelVersion("feed", "000001"),),
    )
    rows = opened.table("table")
    del opened
    report = collect_garbage(tmp_path, min_age_s=0, keep_versions=1)
    assert report.removed_versions == (ModelVersion("feed", "000001"),)
    # The mapping is there as long as a view of it.
    np.testing.assert_array_equal(rows, table(300, 5, 1))


def test_asking_who_has_a_version_open_does_not_hide_it(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, 1)
    lock = hold_alone(manifest_path(tmp_path, "feed", "000001"))
    assert lock is not None
    opened: list[int] = []
    reader = threading.Thread(target=lambda: opened.append(check(store.open("feed", 1))))
    reader.start()
    reader.join(0.1)
    assert reader.is_alive()
    lock.close()
    reader.join()
    assert opened == [1]


def test_versions_behind_a_broken_link_keep_their_blobs(tmp_path: Path) -> None:
    publish(ModelStore(tmp_path), 1)
    before = blob_files(tmp_path)
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    (tmp_path / "models").symlink_to("not mounted")
    with pytest.raises(FileNotFoundError, match="is a link to not mounted, which does not exist"):
        collect_garbage(tmp_path, min_age_s=0)
    assert blob_files(tmp_path) == before


def test_a_foreign_file_among_models_stops_no_collection(tmp_path: Path) -> None:
    publish(ModelStore(tmp_path), 1)
    foreign = tmp_path / "models" / "feed" / ".tmp-notes"
    foreign.write_text("")
    os.utime(foreign, (0, 0))
    assert collect_garbage(tmp_path, min_age_s=0).leftovers == 0
    assert foreign.exists()


def test_unfinished_files_of_other_containers_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ModelStore(tmp_path / "a"), 1)
    (tmp_path / "b" / "blobs").mkdir(parents=True)
    for digest in blob_files(tmp_path / "a"):
        monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)  # above every process id
        own = files.temporary_sibling(tmp_path / "b" / "blobs" / digest)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(files, "_pid_space", lambda: "0" * 12)
            others = files.temporary_sibling(own.with_name(digest))
        monkeypatch.undo()
        own.touch()
        others.touch()
    push(tmp_path / "a", tmp_path / "b", "feed")
    assert not own.exists()
    assert others.exists()


def test_a_description_that_cannot_be_read_is_not_published(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    with store.writer("feed") as writer:
        writer.add_table("table", table(9, 9, 9))
        with pytest.raises(ValueError, match="description is not what JSON gives back"):
            writer.publish({"rows": {10: 1, 9: 2}})
        assert writer.publish({"rows": {"10": 1, "9": 2}}) == "000001"
    assert [entry.version for entry in store.list()] == ["000001"]


def test_writers_and_collection_wait_for_each_other(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, 1)
    writer = store.writer("feed")
    writer.add_table("table", table(9, 9, 9))
    age(tmp_path, 1e6)
    with pytest.raises(TimeoutError, match=r"a writer is at work \(it holds writers.lock\)"):
        collect_garbage(tmp_path, min_age_s=0)
    collector = threading.Thread(target=collect_garbage, args=(tmp_path,), kwargs={"wait_s": 60})
    collector.start()
    version = writer.publish()
    collector.join()
    assert store.open("feed", version, verify="full").table("table").shape == (9, 9)
    with pytest.raises(ValueError, match="the writer is closed"):
        writer.publish()


def test_a_child_of_a_writer_does_not_hold_up_collection(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, 1)
    publish(store, 2)
    opened = store.open("feed", 1)
    with store.writer("feed") as writer:
        writer.add_table("table", table(9, 9, 9))
        released, release = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(release)
            os.read(released, 1)
            os._exit(0)
    try:
        del opened  # the child has it open all the same
        report = collect_garbage(tmp_path, min_age_s=0, keep_versions=1)
        assert report.open_versions == (ModelVersion("feed", "000001"),)
    finally:
        os.close(release)
        os.waitpid(child, 0)
        os.close(released)
    assert collect_garbage(tmp_path, keep_versions=1).removed_versions == report.open_versions


def test_a_reused_blob_is_young_again(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    with store.writer("feed") as writer:
        writer.add_table("table", table(9, 9, 9))
    age(tmp_path, 1e6)
    with store.writer("feed") as writer:
        writer.add_table("table", table(9, 9, 9))
    assert collect_garbage(tmp_path, min_age_s=3600).young_blobs == 1


def test_a_damaged_blob_is_not_reused(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    with store.writer("feed") as writer:
        writer.add_table("table", table(9, 9, 9))
        writer.publish()
    (name,) = blob_files(tmp_path)
    path = tmp_path / "blobs" / name
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with store.writer("feed") as writer:
        writer.add_table("table", table(9, 9, 9))
        writer.publish()
    opened = store.open("feed", verify="full")
    np.testing.assert_array_equal(opened.table("table"), table(9, 9, 9))


def test_a_shared_section_brings_its_format_version(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    with store.writer("old") as writer:
        writer.add_tensors("bits", {"x": np.arange(3, dtype=np.uint16)})  # bfloat16
        writer.add_tensors("floats", {"x": np.arange(3, dtype=np.float32)})
        writer.publish()
    sections = store.open("old").manifest.sections
    for name, version in (("floats", 1), ("bits", 2)):
        with store.writer(name) as writer:
            writer.add_present(sections[name])
            assert writer.manifest().format_version == version
            writer.publish()
        assert store.open(name, verify="full").tensors(name)["x"].size == 3
    blob = tmp_path / "blobs" / sections["bits"].blobs[0].sha256
    blob.write_bytes(bytes(blob.stat().st_size))
    with store.writer("again") as writer, pytest.raises(ValueError, match="section 'bits': blob"):
        writer.add_present(sections["bits"])


def test_chosen_rows_are_written_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedfast.store.writer.BLOCK_BYTES", 1)
    source = table(5000, 512)
    rows = np.random.default_rng(0).permutation(5000)[:4500]
    store = ModelStore(tmp_path)
    with store.writer("feed") as writer:
        writer.add_table_rows("table", source, rows, layout="float32", dim=512, zero_row=1500)
        writer.publish()
    opened = store.open("feed", verify="full")
    assert len(opened.section("table", "table").blobs) == 5
    want = source[rows]
    want[1500] = 0
    np.testing.assert_array_equal(opened.table("table"), want)


def test_garbage_needs_every_manifest(tmp_path: Path) -> None:
    publish(ModelStore(tmp_path), 1)
    publish(ModelStore(tmp_path), 2)
    before = blob_files(tmp_path)
    (tmp_path / "models" / "feed" / "000001" / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"000001/manifest\.json: "):
        collect_garbage(tmp_path, min_age_s=0, keep_versions=1)
    assert blob_files(tmp_path) == before
    for arguments in (
        {"keep_versions": 0},
        {"min_age_s": -1.0},
        {"min_age_s": float("nan")},
        {"wait_s": float("nan")},
    ):
        with pytest.raises(ValueError, match="must be >= "):
            collect_garbage(tmp_path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="is not a model store"):
        collect_garbage(tmp_path / "models")


# Publishes versions that share blobs with removed ones, and checks each right after.
RACING_WRITER = """
import sys
from feedfast.store import ModelStore
from store_content import check, publish
store = ModelStore(sys.argv[1])
for seed in range(int(sys.argv[2]), int(sys.argv[3])):
    version = publish(store, seed % 3)
    try:
        opened = store.open("feed", version, verify="full")
    except FileNotFoundError:
        continue  # collected as one of the older versions
    assert check(opened) == seed % 3
"""


def test_collection_races_with_writers_and_readers(tmp_path: Path) -> None:
    publish(ModelStore(tmp_path), 0)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", RACING_WRITER, str(tmp_path), str(first), str(first + 25)],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in (0, 100, 200)
    ]
    removed = rounds = 0
    while any(writer.poll() is None for writer in writers):
        try:
            report = collect_garbage(tmp_path, min_age_s=0, keep_versions=2, wait_s=5)
        except TimeoutError:
            continue
        removed += report.removed_blobs
        rounds += 1
        assert check(ModelStore(tmp_path).open("feed", verify="full")) in range(3)
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    assert rounds > 0
    collect_garbage(tmp_path, min_age_s=0, keep_versions=1)
    report = check_store(tmp_path)
    assert (report.faults, report.num_versions) == ((), 1)
    assert take_inventory(tmp_path).unnamed_bytes == 0
