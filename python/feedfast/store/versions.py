"""Manifests in their folders: which versions there are, reading and publishing one."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from feedfast.store import files
from feedfast.store.locks import FileLock, hold_open
from feedfast.store.manifest import MAX_MANIFEST_BYTES, Manifest

MODELS = "models"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of one model."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


def manifest_path(root: Path, model: str, version: str) -> Path:
    """The file of a manifest."""
    return root / MODELS / model / version / MANIFEST


def versions_of(root: Path, model: str) -> tuple[str, ...]:
    """Published versions of a model, ascending."""
    folder = root / MODELS / model
    if not folder.is_dir():
        return ()
    names = [name for name in os.listdir(folder) if name.isascii() and name.isdecimal()]
    published = [name for name in names if (folder / name / MANIFEST).is_file()]
    return tuple(sorted(published, key=int))


def all_versions(root: Path) -> tuple[ModelVersion, ...]:
    """All versions of all models, in order of name and number."""
    models = root / MODELS
    if not models.is_dir():
        return ()
    found = (
        ModelVersion(folder.name, version)
        for folder in models.iterdir()
        for version in versions_of(root, folder.name)
    )
    return tuple(sorted(found, key=lambda entry: (entry.model, int(entry.version))))


def version_name(version: str | int) -> str:
    """The name of a version's folder.

    Raises:
        ValueError: Not a number.
    """
    text = str(version)
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"version must be a number such as 1 or '000001'; got {version!r}")
    return f"{int(text):06d}"


def find_version(root: Path, model: str, version: str | int | None) -> ModelVersion:
    """A version by its number; None is the largest one.

    Raises:
        FileNotFoundError: No such model or version; the message lists those there are.
        ValueError: The version is not a number.
    """
    versions = versions_of(root, model)
    if not versions:
        models = ", ".join(sorted({entry.model for entry in all_versions(root)})) or "none"
        raise FileNotFoundError(f"{root}: no model {model!r}; models: {models}")
    wanted = versions[-1] if version is None else version_name(version)
    if wanted not in versions:
        raise FileNotFoundError(
            f"{root}: no version {wanted} of model {model!r}; versions: {', '.join(versions)}"
        )
    return ModelVersion(model, wanted)


def read_manifest(root: Path, model: str, version: str) -> Manifest:
    """Reads `models/<model>/<version>/manifest.json` under the store at `root`.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be trusted; the message names the file.
    """
    manifest, lock = open_manifest(root, model, version)
    lock.close()
    return manifest


def open_manifest(root: Path, model: str, version: str) -> tuple[Manifest, FileLock]:
    """As `read_manifest`, with a lock that keeps the version from being removed while it is held.

    Raises:
        FileNotFoundError, ValueError: As `read_manifest`.
    """
    file = manifest_path(root, model, version)
    lock = hold_open(file)
    try:
        return _parse(file, lock, model, version), lock
    except BaseException:
        lock.close()
        raise


def _parse(file: Path, lock: FileLock, model: str, version: str) -> Manifest:
    num_bytes = os.fstat(lock.descriptor).st_size
    if num_bytes > MAX_MANIFEST_BYTES:
        raise ValueError(f"{file}: {num_bytes} bytes; a manifest has at most {MAX_MANIFEST_BYTES}")
    with os.fdopen(os.dup(lock.descriptor), "rb") as stream:
        text = stream.read()
    try:
        manifest = Manifest.from_json(text)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if (manifest.model, manifest.version) != (model, version):
        raise ValueError(
            f"{file}: is the manifest of {manifest.model!r} version {manifest.version}"
        )
    return manifest


def _readable(manifest: Manifest) -> bytes:
    """The bytes of a manifest, when reading them gives it back.

    A manifest that cannot be read would keep garbage from being collected, too. Names that are no
    text, such as {1: ...}, are written and sorted in another way than they are read.
    """
    where = f"model {manifest.model!r} version {manifest.version}"
    text = manifest.to_json()
    if len(text) > MAX_MANIFEST_BYTES:
        raise ValueError(
            f"{where}: its manifest has {len(text)} bytes; allowed: {MAX_MANIFEST_BYTES}"
        )
    try:
        Manifest.from_json(text)
    except ValueError as error:
        raise ValueError(
            f"{where}: its description is not what JSON gives back; "
            f"allowed: JSON values with text as names ({error})"
        ) from None
    return text


def publish_manifest(root: Path, manifest: Manifest) -> None:
    """Makes a version visible, at once and durably. Its blobs are there and synced already.

    Raises:
        FileExistsError: The version has a manifest.
        ValueError: Nobody could read it: its description is not JSON, or too large.
    """
    text = _readable(manifest)
    folder = root / MODELS / manifest.model
    unfinished = files.temporary_sibling(folder / manifest.version)
    unfinished.mkdir()
    try:
        files.write_synced(unfinished / MANIFEST, [text])
        files.sync_folder(unfinished)
        # Fails if the version has a manifest: somebody else took the number.
        unfinished.rename(folder / manifest.version)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(
                errno.EEXIST, "the version exists", str(folder / manifest.version)
            ) from None
        raise
    files.sync_folder(folder)
