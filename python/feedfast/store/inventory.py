"""What a store holds: versions with what they share, and the difference between two of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from feedfast.store.blobs import BLOBS
from feedfast.store.files import TEMPORARY_PREFIX
from feedfast.store.manifest import Manifest, Section
from feedfast.store.versions import ModelVersion, all_versions, read_manifest

Change = Literal["same", "changed", "added", "removed"]


@dataclass(frozen=True, slots=True)
class VersionSize:
    """One version and its bytes, as its manifest tells them.

    Attributes:
        entry: Model and version.
        num_bytes: Of its blobs, each counted once.
        shared_bytes: Of those blobs that another version of the store names too.
        num_blobs: How many there are.
        format_version: Of the manifest.
        fault: Why the manifest cannot be read, in which case the others are 0; empty otherwise.
    """

    entry: ModelVersion
    num_bytes: int = 0
    shared_bytes: int = 0
    num_blobs: int = 0
    format_version: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All versions of a store.

    Attributes:
        versions: In order of name and number.
        blob_bytes: Of the blobs that any version names, each counted once.
        unnamed_bytes: Of files under `blobs/` that no version names; see `collect_garbage`.
    """

    versions: tuple[VersionSize, ...]
    blob_bytes: int
    unnamed_bytes: int


@dataclass(frozen=True, slots=True)
class SectionChange:
    """One section in two versions.

    Attributes:
        name: Of the section.
        change: `changed` also when only the layout or the shape is another.
        old_bytes, new_bytes: Of its blobs, 0 where there is none.
        old_blobs, new_blobs: How many blobs.
        fresh_bytes, fresh_blobs: Of the new version's blobs that the old version has nowhere: what
            a push to a store with the old version copies.
        detail: What differs beside the blobs, such as the shape.
    """

    name: str
    change: Change
    old_bytes: int
    new_bytes: int
    old_blobs: int
    new_blobs: int
    fresh_bytes: int
    fresh_blobs: int
    detail: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Two versions compared: sections in order of name, and keys of the description."""

    sections: tuple[SectionChange, ...]
    description: Mapping[str, Change]

    @property
    def fresh_bytes(self) -> int:
        """Bytes of all blobs that the new version has and the old one has not."""
        return sum(section.fresh_bytes for section in self.sections)


def blobs_of(manifest: Manifest) -> dict[str, int]:
    """Bytes of every blob that the manifest names, by digest."""
    return {
        blob.sha256: blob.num_bytes
        for section in manifest.sections.values()
        for blob in section.blobs
    }


def take_inventory(root: Path) -> Inventory:
    """Reads every manifest of the store at `root`, and no blob."""
    blobs: dict[ModelVersion, dict[str, int]] = {}
    formats: dict[ModelVersion, int] = {}
    faults: dict[ModelVersion, str] = {}
    for entry in all_versions(root):
        try:
            manifest = read_manifest(root, entry.model, entry.version)
        except (ValueError, OSError) as error:
            faults[entry] = str(error)
            continue
        blobs[entry], formats[entry] = blobs_of(manifest), manifest.format_version
    users = Counter(digest for named in blobs.values() for digest in named)
    sizes = {digest: size for named in blobs.values() for digest, size in named.items()}
    versions = [
        VersionSize(entry, fault=faults[entry])
        if entry in faults
        else VersionSize(
            entry,
            sum(blobs[entry].values()),
            sum(size for digest, size in blobs[entry].items() if users[digest] > 1),
            len(blobs[entry]),
            formats[entry],
        )
        for entry in sorted((*blobs, *faults), key=lambda e: (e.model, int(e.version)))
    ]
    unnamed = 0
    if (root / BLOBS).is_dir():
        with os.scandir(root / BLOBS) as entries:
            unnamed = sum(
                file.stat(follow_symlinks=False).st_size
                for file in entries
                if file.name not in sizes and not file.name.startswith(TEMPORARY_PREFIX)
            )
    return Inventory(tuple(versions), sum(sizes.values()), unnamed)


def compare_manifests(old: Manifest, new: Manifest) -> Difference:
    """What a reader of `old` would have to fetch, and what is described in another way."""
    known = blobs_of(old)
    counted: set[str] = set()
    changes = []
    for name in sorted({*old.sections, *new.sections}):
        before, after = old.sections.get(name), new.sections.get(name)
        fresh = {
            blob.sha256: blob.num_bytes
            for blob in (after.blobs if after is not None else ())
            if blob.sha256 not in known and blob.sha256 not in counted
        }
        counted.update(fresh)
        changes.append(
            SectionChange(
                name,
                _change(before, after),
                before.num_bytes if before is not None else 0,
                after.num_bytes if after is not None else 0,
                len(before.blobs) if before is not None else 0,
                len(after.blobs) if after is not None else 0,
                sum(fresh.values()),
                len(fresh),
                _detail(before, after),
            )
        )
    keys = sorted({*old.description, *new.description})
    absent = object()
    description = {
        key: _change(
            old.description.get(key, absent), new.description.get(key, absent), absent=absent
        )
        for key in keys
    }
    return Difference(tuple(changes), description)


def _change(before: Any, after: Any, *, absent: object = None) -> Change:
    if before is absent:
        return "added"
    if after is absent:
        return "removed"
    return "same" if before == after else "changed"


def _detail(before: Section | None, after: Section | None) -> str:
    if before is None or after is None:
        return ""
    parts = [
        f"{what} {old} -> {new}"
        for what, old, new in (
            ("kind", before.kind, after.kind),
            ("layout", before.layout, after.layout),
            ("shape", list(before.shape), list(after.shape)),
        )
        if old != new
    ]
    return ", ".join(parts)
