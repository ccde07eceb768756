"""Copies versions between stores: the blobs that are missing, then the manifest."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from feedfast.store import files
from feedfast.store.blobs import BLOBS, Advance, blob_path, blob_problem
from feedfast.store.locks import share_with_writers
from feedfast.store.manifest import BlobRef, Manifest
from feedfast.store.versions import (
    MODELS,
    ModelVersion,
    find_version,
    manifest_path,
    open_manifest,
    publish_manifest,
    read_manifest,
)

_CHUNK_BYTES = 4 << 20

# (bytes done, all bytes, the blob at hand)
PushProgress = Callable[[int, int, str], object]


@dataclass(frozen=True, slots=True)
class PushReport:
    """What one push did.

    Attributes:
        entry: The version, the same in both stores.
        published: False when the other store had it already.
        copied_blobs, copied_bytes: That were missing there, or damaged when it looked.
        present_blobs, present_bytes: That were there.
    """

    entry: ModelVersion
    published: bool
    copied_blobs: int
    copied_bytes: int
    present_blobs: int
    present_bytes: int


def push(
    source: Path,
    destination: Path,
    model: str,
    version: str | int | None = None,
    *,
    full: bool = False,
    progress: PushProgress | None = None,
) -> PushReport:
    """Makes a version of one store a version of another, with the same number and the same bytes.

    Every copied blob is compared with its digest on the way, so a damaged source publishes nothing.
    A push that is killed leaves whole blobs, which the next one finds, and at most one unfinished
    file. Readers of the destination see the version when all of it is there.

    Args:
        source: Folder of the store to read.
        destination: Folder of the store to write; made when it is missing.
        model: Name of the model.
        version: Its number; None is the largest one.
        full: Compare the digests of blobs that the destination has, not just their sizes, and copy
            those that are damaged.
        progress: Told how far the copy is, a few times a second at most for large blobs.

    Raises:
        FileNotFoundError: The source has no such model or version.
        FileExistsError: The destination has another version of this number.
        ValueError: A blob of the source is missing, truncated or altered; nothing was published.
    """
    entry = find_version(source, model, version)
    manifest, held = open_manifest(source, model, entry.version)
    with held:
        files.make_folders(destination / BLOBS)
        files.make_folders(destination / MODELS / model)
        with share_with_writers(destination):
            return _push(source, destination, entry, manifest, full=full, progress=progress)


def _push(
    source: Path,
    destination: Path,
    entry: ModelVersion,
    manifest: Manifest,
    *,
    full: bool,
    progress: PushProgress | None,
) -> PushReport:
    there_already = _has_the_same(destination, entry, manifest)
    blobs = {
        blob.sha256: (section.name, blob)
        for section in manifest.sections.values()
        for blob in section.blobs
    }
    total = sum(blob.num_bytes for _, blob in blobs.values())
    done = copied_blobs = copied_bytes = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total, name)

    for name, blob in blobs.values():
        before = done
        problem = blob_problem(destination, blob, full=full, advance=advance)
        done = before
        if problem is not None:
            try:
                _copy(source, destination, blob, advance)
            except ValueError as error:
                raise ValueError(
                    f"{source}: model {entry.model!r} version {entry.version}: "
                    f"section {name!r}: {error}"
                ) from None
            copied_blobs += 1
            copied_bytes += blob.num_bytes
        else:
            with contextlib.suppress(PermissionError):  # as ModelWriter: fresh where age counts
                os.utime(blob_path(destination, blob))
        done = before
        advance(blob.num_bytes)
    files.sync_folder(destination / BLOBS)
    if not there_already:
        try:
            publish_manifest(destination, manifest)
        except FileExistsError:  # somebody else was faster: with the same version?
            there_already = _has_the_same(destination, entry, manifest)
            if not there_already:
                raise
    return PushReport(
        entry,
        published=not there_already,
        copied_blobs=copied_blobs,
        copied_bytes=copied_bytes,
        present_blobs=len(blobs) - copied_blobs,
        present_bytes=total - copied_bytes,
    )


def _has_the_same(destination: Path, entry: ModelVersion, manifest: Manifest) -> bool:
    try:
        found = read_manifest(destination, entry.model, entry.version)
    except FileNotFoundError:
        return False
    if found != manifest:
        raise FileExistsError(
            f"{manifest_path(destination, entry.model, entry.version)}: the destination has "
            f"another version {entry.version} of {entry.model!r}; its sections differ"
        )
    return True


def _copy(source: Path, destination: Path, blob: BlobRef, advance: Advance) -> None:
    path = blob_path(source, blob)
    try:
        stream = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise ValueError(f"blob {blob.sha256} is missing") from None
    with stream:
        digest = hashlib.sha256()
        num_bytes = 0

        def pieces() -> Iterator[memoryview]:
            nonlocal num_bytes
            buffer = memoryview(bytearray(_CHUNK_BYTES))
            while count := stream.readinto(buffer):
                digest.update(buffer[:count])
                num_bytes += count
                yield buffer[:count]
                advance(count)
            # Before the file takes its name.
            if num_bytes != blob.num_bytes:
                raise ValueError(
                    f"blob {blob.sha256} has {num_bytes} bytes; the manifest says {blob.num_bytes}"
                )
            if digest.hexdigest() != blob.sha256:
                raise ValueError(
                    f"blob {blob.sha256} is altered: its sha256 is {digest.hexdigest()}"
                )

        files.remove_abandoned(blob_path(destination, blob))
        files.replace_durably(blob_path(destination, blob), pieces())
