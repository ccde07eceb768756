"""Durable files: the old or the whole new one, whoever else writes and whatever fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import feedfast as ff
from feedfast.data.log import write_parquet
from feedfast.store.files import replace_durably, replacing
from feedfast.trees import LeafEncoder

FOREST = Path(__file__).parent / "data" / "forest_v1.bin"


def test_content_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_durably(path, [b"old and longer"])
    replace_durably(path, [b"n", memoryview(np.frombuffer(b"ew", np.uint8))])
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def half() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_durably(path, half())
    assert path.read_bytes() == b"old"
    with pytest.raises(RuntimeError, match="not even begun"), replacing(path):
        raise RuntimeError("not even begun")
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        assert first.parent == second.parent == tmp_path
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


WRITERS: dict[str, Callable[[Path], None]] = {
    "vocabulary": lambda path: ff.Vocabulary.build(["a", "b"]).save(path),
    "forest": lambda path: LeafEncoder.open(FOREST).save(path),
    "parquet": lambda path: write_parquet(pa.table({"x": [1, 2]}), path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_writer_replaces_and_names_a_missing_folder(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.with_name("file.partial").write_bytes(b"of another program")
    WRITERS[kind](path)
    assert path.read_bytes() != b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "file.partial"]
    with pytest.raises(FileNotFoundError, match=r"folder .*/nowhere does not exist; cannot write"):
        WRITERS[kind](tmp_path / "nowhere" / "file")
    assert not (tmp_path / "nowhere").exists()
