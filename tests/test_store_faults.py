"""Writers that are killed and files that are damaged: a store never opens with wrong content."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from feedfast.store import ModelStore, tensor_file
from feedfast.store.manifest import Manifest
from store_content import check, publish

# Publishes versions for ever; killed from outside.
ENDLESS_WRITER = """
import itertools, sys
from feedfast.store import ModelStore
from store_content import publish
for seed in itertools.count():
    publish(ModelStore(sys.argv[1]), seed)
    print(seed, flush=True)
"""

# Kills itself at each call, in turn, that changes the store; a fork for every point.
STEPWISE_WRITER = """
import os, pathlib, signal, sys
from feedfast.store import ModelStore, files
from store_content import publish

def run(path, fatal):
    calls = 0
    def deadly(function):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return wrapped
    os.fsync = deadly(os.fsync)
    pathlib.Path.rename = deadly(pathlib.Path.rename)
    pathlib.Path.replace = deadly(pathlib.Path.replace)
    pathlib.Path.mkdir = deadly(pathlib.Path.mkdir)
    files.write_synced = deadly(files.write_synced)
    publish(ModelStore(path), fatal)

path, fatal = sys.argv[1], 0
while True:
    fatal += 1
    child = os.fork()
    if child == 0:
        run(path, fatal)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(fatal, os.WIFSIGNALED(status), flush=True)
    if not os.WIFSIGNALED(status):
        break
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}


def assert_every_version_is_right(path: Path) -> list[int]:
    store = ModelStore(path)
    return [check(store.open(entry.model, entry.version, verify="full")) for entry in store.list()]


@pytest.mark.parametrize("seed", range(8))
def test_killed_at_a_random_moment(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS_WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as process:
        assert process.stdout is not None
        finished = int(process.stdout.readline())
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        finished += sum(1 for _ in process.stdout)
    seeds = assert_every_version_is_right(tmp_path)
    # At most one more than was reported: it was published, then killed.
    assert seeds == list(range(len(seeds)))
    assert finished + 1 <= len(seeds) <= finished + 2
    publish(ModelStore(tmp_path), 77)
    assert check(ModelStore(tmp_path).open("feed", verify="full")) == 77


def test_killed_at_every_step(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEPWISE_WRITER, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    points = done.stdout.splitlines()
    assert len(points) >= 15
    assert points[-1].endswith("False")
    seeds = assert_every_version_is_right(tmp_path)
    # Only kills after the last rename leave a version; the last run finished.
    assert seeds[-1] == len(points)
    assert len(seeds) <= 3


def write_store(path: Path) -> ModelStore:
    store = ModelStore(path)
    publish(store, 1)
    return store


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)


def damage(file: Path, rng: np.random.Generator) -> str:
    """Flips bits, cuts or lengthens; returns what was done."""
    content = bytearray(file.read_bytes())
    kind = rng.choice(["flip", "cut", "append", "zero"])
    position = int(rng.integers(0, len(content)))
    if kind == "flip":
        content[position] ^= 1 << int(rng.integers(0, 8))
    elif kind == "cut":
        del content[position:]
    elif kind == "append":
        content += rng.bytes(int(rng.integers(1, 100)))
    else:
        content[position : position + 16] = bytes(len(content[position : position + 16]))
    changed = bytes(content) != file.read_bytes()
    file.write_bytes(content)
    return f"{kind} at {position}" if changed else ""


def test_any_damage_is_refused_by_full_and_never_crashes_header(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    rng = np.random.default_rng(20_261_121)
    for file in files_of(store.path):
        original = file.read_bytes()
        for _ in range(60):
            what = damage(file, rng)
            if what:
                if file.name == "manifest.json" and same_manifest(file, original):
                    continue  # white space: nothing is lost
                with pytest.raises((ValueError, FileNotFoundError)):
                    store.open("feed", verify="full")
                try:
                    opened = store.open("feed", verify="header")
                except (ValueError, FileNotFoundError):
                    pass
                else:
                    for name, section in opened.manifest.sections.items():
                        if section.kind == "table":
                            opened.table(name).sum()
                        elif section.kind == "tensors":
                            for tensor in opened.tensors(name).values():
                                tensor.sum()
            file.write_bytes(original)
    assert check(store.open("feed", verify="full")) == 1


def same_manifest(file: Path, original: bytes) -> bool:
    try:
        return Manifest.from_json(file.read_bytes()) == Manifest.from_json(original)
    except ValueError:
        return False


def test_messages_name_blob_and_section(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    (blob,) = store.open("feed").manifest.sections["table"].blobs
    path = tmp_path / "blobs" / blob.sha256
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(
        ValueError, match=rf"section 'table': blob {blob.sha256} has {len(content) - 1} bytes"
    ):
        store.open("feed")
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    store.open("feed")
    with pytest.raises(ValueError, match=rf"section 'table': blob {blob.sha256} is altered"):
        store.open("feed", verify="full")
    path.unlink()
    with pytest.raises(ValueError, match=rf"section 'table': blob {blob.sha256} is missing"):
        store.open("feed")
    # The next writer of the same content puts it back.
    publish(store, 1)
    assert check(store.open("feed", "000001", verify="full")) == 1


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    folder = tmp_path / "models" / "feed"
    shutil.copytree(folder / "000001", folder / "000002")
    with pytest.raises(ValueError, match="is the manifest of 'feed' version 000001"):
        store.open("feed")


def test_any_header_is_parsed_or_refused() -> None:
    rng = np.random.default_rng(7)
    valid, _ = tensor_file.plan_header(
        {"a": (np.dtype(np.float32), (3, 2)), "b": (np.dtype(np.uint8), (5,))}, align=64
    )
    size = len(valid) + 29
    assert set(tensor_file.parse_header(valid, size).tensors) == {"a", "b"}
    accepted = 0
    for _ in range(5000):
        mutated = bytearray(valid)
        for _ in range(int(rng.integers(1, 4))):
            mutated[int(rng.integers(0, len(valid)))] = int(rng.integers(0, 256))
        try:
            header = tensor_file.parse_header(bytes(mutated), size)
        except ValueError:
            continue
        accepted += 1
        file = np.zeros(size, np.uint8)
        for name in header.tensors:
            tensor_file.view_tensor(file, header, name).sum()
    assert 0 < accepted < 5000  # padding and names may change without harm


@pytest.mark.parametrize(
    "entries",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1 << 61, 8], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F8", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}},
        {"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}},
        {"a": 3},
        [],
        3,
    ],
)
def test_malformed_headers(entries: object) -> None:
    text = json.dumps(entries).encode()
    with pytest.raises(ValueError):  # noqa: PT011 - any wording, but no other exception
        tensor_file.parse_header(len(text).to_bytes(8, "little") + text, 8 + len(text) + 4)


@pytest.mark.parametrize("text", [b"", b"[" * 100_000, b"{}", b"3", b"\xff", b'{"format": 1e999}'])
def test_malformed_manifests(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Manifest.from_json(text)
