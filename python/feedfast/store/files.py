"""Durable files: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

# Names that start like this are unfinished; readers ignore them.
TEMPORARY_PREFIX = ".tmp-"


def temporary_sibling(path: Path) -> Path:
    """A name in `path`'s folder that nobody else uses."""
    return path.with_name(
        f"{TEMPORARY_PREFIX}{path.name[:32]}-{os.getpid()}-{secrets.token_hex(8)}"
    )


def sync_folder(path: Path) -> None:
    """Makes renames and creations in the folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> None:
    """Creates the folder and its missing parents durably."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_synced(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Writes a new file and waits until its bytes are on the device."""
    with path.open("xb", buffering=0) as file:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            while view:  # one write call moves at most 2 GiB
                view = view[file.write(view) :]
        os.fsync(file.fileno())
