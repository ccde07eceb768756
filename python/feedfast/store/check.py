"""Verifies all of a store: every manifest, every blob, every header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from feedfast.store.blobs import blob_path, blob_problem
from feedfast.store.manifest import BlobRef, Manifest
from feedfast.store.reader import OpenedModel
from feedfast.store.versions import ModelVersion, all_versions, manifest_path, read_manifest

# (bytes done, all bytes, the version at hand)
CheckProgress = Callable[[int, int, str], object]
# Takes the file of an image and raises a ValueError when it is not what it should be.
ImageCheck = Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        entry: The version that is damaged.
        section: Of the version; empty when its manifest is damaged.
        blob: Digest by which the manifest names it; empty when a manifest or a whole section is
            damaged.
        what: What is wrong.
    """

    entry: ModelVersion
    section: str
    blob: str
    what: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Faults in order of version and section, and what was read."""

    faults: tuple[Fault, ...]
    num_versions: int
    num_blobs: int
    num_bytes: int


def check_store(
    root: Path,
    *,
    model: str | None = None,
    images: Mapping[str, ImageCheck] | None = None,
    progress: CheckProgress | None = None,
) -> CheckReport:
    """Reads every byte that the versions of the store at `root` name; blobs they share once.

    Args:
        root: Folder of the store.
        model: Only the versions of this one.
        images: Further checks by the layout of images, of files whose digest is right.
        progress: Told how far the check is.

    Raises:
        FileNotFoundError: There is no store, or no such model.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a model store: there is no such folder")
    versions = [entry for entry in all_versions(root) if model in (None, entry.model)]
    if model is not None and not versions:
        raise FileNotFoundError(f"{root}: no model {model!r}")
    faults: list[Fault] = []
    manifests: dict[ModelVersion, Manifest] = {}
    for entry in versions:
        try:
            manifests[entry] = read_manifest(root, entry.model, entry.version)
        except (ValueError, OSError) as error:
            faults.append(Fault(entry, "", "", str(error)))
    sizes = {
        blob: blob.num_bytes
        for manifest in manifests.values()
        for section in manifest.sections.values()
        for blob in section.blobs
    }
    total, done = sum(sizes.values()), 0
    problems: dict[BlobRef, str | None] = {}
    for entry, manifest in manifests.items():
        damaged = False
        for section in manifest.sections.values():
            for blob in section.blobs:
                if blob not in problems:

                    def advance(count: int, at: ModelVersion = entry) -> None:
                        nonlocal done
                        done += count
                        if progress is not None:
                            progress(done, total, str(at))

                    try:
                        problems[blob] = blob_problem(root, blob, full=True, advance=advance)
                    except OSError as error:  # such as a bad sector: the others are still read
                        problems[blob] = f"cannot be read: {error}"
                    check = (images or {}).get(section.layout) if section.kind == "image" else None
                    if problems[blob] is None and check is not None:
                        problems[blob] = _image_problem(check, blob_path(root, blob))
                problem = problems[blob]
                if problem is not None:
                    damaged = True
                    faults.append(Fault(entry, section.name, blob.sha256, problem))
        if not damaged:
            faults.extend(_header_faults(root, entry, manifest))
    # A version that was removed meanwhile has no faults.
    found = [fault for fault in faults if manifest_path(root, *astuple(fault.entry)).exists()]
    return CheckReport(tuple(found), len(versions), len(problems), done)


def _image_problem(check: ImageCheck, path: Path) -> str | None:
    try:
        check(path)
    except (ValueError, OSError) as error:
        return f"is no valid image: {error}"
    return None


def _header_faults(root: Path, entry: ModelVersion, manifest: Manifest) -> list[Fault]:
    """Headers against the manifest: whole blobs that do not fit together."""
    try:
        OpenedModel(root, manifest, verify="header")
    except (ValueError, OSError) as error:
        return [Fault(entry, "", "", str(error))]
    return []
