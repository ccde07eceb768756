"""Data files out of published wheels: fetched by pip at run time, kept in a cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/feedfast`, else `~/.cache/feedfast`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "feedfast"


def fetch_wheel_files(
    requirement: str, members: Sequence[str], *, cache_dir: Path | None, remedy: str
) -> list[Path]:
    """Paths of files out of a wheel, downloading it when the cache lacks one of them.

    A file appears in the cache only when it is whole, so an interrupted download is repeated, not
    trusted. The wheel's code is never installed or run.

    Args:
        requirement: Pinned, such as `recbole==1.2.1`.
        members: Paths inside the wheel.
        cache_dir: Where the files are kept; by default `default_cache_dir()`.
        remedy: What the user can do when there is no download; ends the message.

    Returns:
        One path per member, below `<cache_dir>/<requirement>/`.

    Raises:
        RuntimeError: pip failed or the wheel lacks a member.
    """
    folder = (default_cache_dir() if cache_dir is None else Path(cache_dir)) / requirement
    paths = [folder / member for member in members]
    if all(path.is_file() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as scratch:
        wheel = _download(requirement, Path(scratch), remedy)
        with zipfile.ZipFile(wheel) as archive:
            for member, path in zip(members, paths, strict=True):
                try:
                    extracted = Path(archive.extract(member, scratch))
                except (KeyError, zipfile.BadZipFile) as error:
                    raise RuntimeError(
                        f"{wheel.name}: cannot extract {member}: {error}; {remedy}"
                    ) from error
                path.parent.mkdir(parents=True, exist_ok=True)
                extracted.replace(path)
    return paths


def _download(requirement: str, folder: Path, remedy: str) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--quiet",
    ]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        last_lines = (
            " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
            or f"exit status {done.returncode}"
        )
        raise RuntimeError(f"pip could not download {requirement}: {last_lines}; {remedy}")
    return wheels[0]
