"""Durable files: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

# Names that start like this are unfinished; readers ignore them.
TEMPORARY_PREFIX = ".tmp-"


def temporary_sibling(path: Path) -> Path:
    """A name in `path`'s folder that nobody else uses."""
    return path.with_name(
        f"{TEMPORARY_PREFIX}{path.name[:32]}-{os.getpid()}.{_pid_space()}-{secrets.token_hex(8)}"
    )


def remove_abandoned(path: Path) -> None:
    """Removes what processes that are gone left of files for `path`.

    Files of other machines and containers stay: whether their processes live cannot be seen here.
    """
    start = f"{TEMPORARY_PREFIX}{path.name[:32]}-"
    for sibling in path.parent.glob(f"{glob.escape(start)}*-*"):
        owner, _, space = sibling.name[len(start) :].split("-")[0].partition(".")
        if owner.isdigit() and space == _pid_space() and not Path("/proc", owner).exists():
            sibling.unlink(missing_ok=True)


def _pid_space() -> str:
    """Within which process ids are unique: a boot of a machine, and a container of it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    container = os.stat("/proc/self/ns/pid").st_ino
    return hashlib.sha256(f"{boot} {container}".encode()).hexdigest()[:12]


def sync_folder(path: Path) -> None:
    """Makes renames and creations in the folder durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def make_folders(path: Path) -> None:
    """Creates the folder and its missing parents durably."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_synced(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Writes a new file and waits until its bytes are on the device."""
    _write(path, pieces)
    _sync(path, os.O_RDONLY)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a name beside `path` to write a file under; it then takes the place of `path`.

    Whenever the process or the machine dies, `path` is what it was before or the whole new file.
    Any number of writers may replace one file; the last one to finish wins. When the block raises,
    nothing is left of its file.

    Raises:
        FileNotFoundError: The folder of `path` does not exist; nothing was written.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder {path.parent} does not exist; cannot write {path.name}")
    unfinished = temporary_sibling(path)
    try:
        yield unfinished
        _sync(unfinished, os.O_RDONLY)
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    sync_folder(path.parent)


def replace_durably(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Makes the pieces, one behind the other, the content of `path`; see `replacing`.

    Raises:
        FileNotFoundError: The folder of `path` does not exist.
        OSError: The file cannot be written; what was at `path` is unchanged.
    """
    with replacing(path) as unfinished:
        _write(unfinished, pieces)


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    with path.open("xb", buffering=0) as file:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            while view:  # one write call moves at most 2 GiB
                view = view[file.write(view) :]


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
