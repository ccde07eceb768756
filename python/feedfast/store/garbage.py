"""Removes what no version names: blobs of versions that are gone and of writers that were killed.

What keeps a blob in use from being removed:

- A manifest that names it. All are read first; when one cannot be, nothing is removed.
- A writer that has not published. Writers share a lock (`writers.lock`) from their first blob to
  their manifest, collection holds it alone: it starts when no writer is at work, and a writer that
  starts meanwhile waits for its end. A killed writer's lock is gone with its process.
- Its age, where locks do not reach (another machine on a network file system, another tool): files
  younger than `min_age_s` stay. Writers renew the age of blobs that they find and reuse.
- A reader that has its version open: such a version is not removed by `keep_versions`. Mappings
  outlive the names of their files in any case.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from feedfast.store import files
from feedfast.store.blobs import BLOBS
from feedfast.store.inventory import blobs_of
from feedfast.store.locks import hold_alone, without_writers
from feedfast.store.versions import (
    MODELS,
    ModelVersion,
    all_versions,
    manifest_path,
    read_manifest,
)

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What was removed, or would be.

    Attributes:
        removed_versions: Older than the newest `keep_versions` of their model.
        open_versions: That would have been removed, had nobody had them open.
        removed_blobs, removed_bytes: That no remaining version names.
        young_blobs, young_bytes: That no version names either, but are younger than the limit.
        leftovers: Unfinished files and folders of writers that were killed, removed.
        foreign: Names under `blobs/` that are no blobs; left alone.
    """

    removed_versions: tuple[ModelVersion, ...]
    open_versions: tuple[ModelVersion, ...]
    removed_blobs: int
    removed_bytes: int
    young_blobs: int
    young_bytes: int
    leftovers: int
    foreign: tuple[str, ...]


def collect_garbage(
    root: Path,
    *,
    keep_versions: int | None = None,
    min_age_s: float = 3600.0,
    wait_s: float = 0.0,
    dry_run: bool = False,
) -> GarbageReport:
    """Removes files of the store at `root` that nothing needs.

    Args:
        root: Folder of the store.
        keep_versions: Remove versions first, all but the newest so many of each model; None: none.
        min_age_s: Younger blobs and leftovers stay.
        wait_s: How long to wait for writers that are at work.
        dry_run: Remove nothing, report what would be.

    Raises:
        FileNotFoundError: There is no store, or its versions are behind a broken link.
        TimeoutError: A writer is at work.
        ValueError: A manifest cannot be read, so that nobody knows what it names; or
            `keep_versions` is below 1, `min_age_s` or `wait_s` negative.
    """
    if keep_versions is not None and keep_versions < 1:
        raise ValueError(f"keep_versions must be >= 1; got {keep_versions}")
    if not min_age_s >= 0:
        raise ValueError(f"min_age_s must be >= 0; got {min_age_s}")
    if not wait_s >= 0:
        raise ValueError(f"wait_s must be >= 0; got {wait_s}")
    if not (root / BLOBS).is_dir():
        raise FileNotFoundError(f"{root} is not a model store: it has no folder {BLOBS}/")
    models = root / MODELS
    if models.is_symlink() and not models.exists():  # nobody knows what its versions name
        raise FileNotFoundError(f"{models} is a link to {models.readlink()}, which does not exist")
    with without_writers(root, wait_s=wait_s), ExitStack() as held:
        versions = all_versions(root)
        needed = {
            entry: blobs_of(read_manifest(root, entry.model, entry.version)) for entry in versions
        }
        removed, still_open = [], []
        for entry in _older(versions, keep_versions):
            lock = hold_alone(manifest_path(root, entry.model, entry.version))
            if lock is None:
                still_open.append(entry)
                continue
            if dry_run:
                lock.close()
            else:
                held.enter_context(lock)  # until the version has gone
            removed.append(entry)
            del needed[entry]
        oldest = time.time() - min_age_s
        if not dry_run:
            _remove_versions(root, removed)
        named = {digest for blobs in needed.values() for digest in blobs}
        return _sweep(
            root, named, oldest=oldest, dry_run=dry_run, removed=removed, still_open=still_open
        )


def _older(versions: Sequence[ModelVersion], keep_versions: int | None) -> tuple[ModelVersion, ...]:
    if keep_versions is None:
        return ()
    by_model: dict[str, list[ModelVersion]] = defaultdict(list)
    for entry in versions:
        by_model[entry.model].append(entry)
    return tuple(entry for listed in by_model.values() for entry in listed[:-keep_versions])


def _remove_versions(root: Path, versions: Sequence[ModelVersion]) -> None:
    """Each vanishes at once; what is left of it when we die is a leftover."""
    for entry in versions:
        folder = root / MODELS / entry.model / entry.version
        unnamed = files.temporary_sibling(folder)
        folder.rename(unnamed)
        files.sync_folder(folder.parent)  # before blobs go that its manifest names
        shutil.rmtree(unnamed)


def _sweep(
    root: Path,
    named: set[str],
    *,
    oldest: float,
    dry_run: bool,
    removed: Sequence[ModelVersion],
    still_open: Sequence[ModelVersion],
) -> GarbageReport:
    removed_blobs = removed_bytes = young_blobs = young_bytes = leftovers = 0
    foreign = []
    for path in sorted((root / BLOBS).iterdir()):
        if path.name in named:
            continue
        unfinished = path.name.startswith(files.TEMPORARY_PREFIX)
        if not path.is_file() or not (unfinished or _DIGEST.match(path.name)):
            foreign.append(path.name)
            continue
        status = path.stat()
        if status.st_mtime > oldest:
            young_blobs += 1
            young_bytes += status.st_size
            continue
        if unfinished:
            leftovers += 1
        else:
            removed_blobs += 1
        removed_bytes += status.st_size
        if not dry_run:
            path.unlink()
    for folder in sorted((root / MODELS).glob(f"*/{files.TEMPORARY_PREFIX}*")):
        if folder.is_dir() and folder.stat().st_mtime <= oldest:
            leftovers += 1
            if not dry_run:
                shutil.rmtree(folder)
    if not dry_run:
        files.sync_folder(root / BLOBS)
    return GarbageReport(
        removed_versions=tuple(removed),
        open_versions=tuple(still_open),
        removed_blobs=removed_blobs,
        removed_bytes=removed_bytes,
        young_blobs=young_blobs,
        young_bytes=young_bytes,
        leftovers=leftovers,
        foreign=tuple(foreign),
    )
