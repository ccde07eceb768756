from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from feedfast.data.adapters.wheel_files import default_cache_dir, fetch_wheel_files


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip uses instead of the package index; holds the wheel of `tiny` 1.0."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny/data/a.txt", "first")
        wheel.writestr("tiny/data/b.txt", "second")
        wheel.writestr(
            "tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
        )
        wheel.writestr(
            "tiny-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def fetch(cache: Path, *members: str, requirement: str = "tiny==1.0") -> list[Path]:
    return fetch_wheel_files(requirement, members, cache_dir=cache, remedy="or use folder=")


def test_files_are_fetched_once(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    a, b = fetch(cache, "tiny/data/a.txt", "tiny/data/b.txt")
    assert (a.read_text(), b.read_text()) == ("first", "second")
    assert a == cache / "tiny==1.0" / "tiny" / "data" / "a.txt"
    assert {path.name for path in cache.rglob("*") if path.is_file()} == {"a.txt", "b.txt"}
    (index / "tiny-1.0-py3-none-any.whl").unlink()
    assert fetch(cache, "tiny/data/b.txt") == [b]


def test_what_went_wrong_is_said(index: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"cannot extract tiny/c\.txt.*; or use folder="):
        fetch(tmp_path / "cache", "tiny/c.txt")
    with pytest.raises(
        RuntimeError, match=r"pip could not download nothing==1: ERROR: .*; or use folder="
    ):
        fetch(tmp_path / "cache", "a", requirement="nothing==1")


def test_default_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "feedfast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "feedfast"
