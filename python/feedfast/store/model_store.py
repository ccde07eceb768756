"""The store as a whole: which models and versions it holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from feedfast.store.manifest import check_name
from feedfast.store.reader import VERIFY, OpenedModel, Verify, read_manifest
from feedfast.store.writer import ModelWriter


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of one model."""

    model: str
    version: str


class ModelStore:
    """A folder with blobs and manifests, see docs/formats/model_store.md.

    The folder need not exist until something is written. Objects are cheap and hold no state: every
    call reads the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"ModelStore({str(self.path)!r})"

    def list(self) -> tuple[ModelVersion, ...]:
        """All versions of all models, in order of name and number."""
        models = self.path / "models"
        if not models.is_dir():
            return ()
        versions = (
            ModelVersion(folder.name, version)
            for folder in models.iterdir()
            for version in self._versions(folder.name)
        )
        return tuple(sorted(versions, key=lambda entry: (entry.model, int(entry.version))))

    def open(
        self, model: str, version: str | int | None = None, *, verify: Verify = "header"
    ) -> OpenedModel:
        """Opens a version and maps its sections.

        Args:
            model: Name of the model.
            version: Its number; None is the largest one.
            verify: `header` checks the manifest, the size of every blob and the headers of tensor
                files, and is safe on any content; `full` reads every byte and compares the digests.

        Raises:
            FileNotFoundError: No such model or version; the message lists those there are.
            ValueError: A manifest or blob is truncated, altered, missing or of an unknown format
                version; the message names it and its section. Or `verify` is unknown.
        """
        if verify not in VERIFY:
            raise ValueError(f"verify must be one of {', '.join(VERIFY)}; got {verify!r}")
        check_name("model", model)
        versions = self._versions(model)
        if not versions:
            models = ", ".join(sorted({entry.model for entry in self.list()})) or "none"
            raise FileNotFoundError(f"{self.path}: no model {model!r}; models: {models}")
        wanted = versions[-1] if version is None else _version_name(version)
        if wanted not in versions:
            raise FileNotFoundError(
                f"{self.path}: no version {wanted} of model {model!r}; "
                f"versions: {', '.join(versions)}"
            )
        return OpenedModel(self.path, read_manifest(self.path, model, wanted), verify=verify)

    def writer(self, model: str) -> ModelWriter:
        """A writer of one new version of `model`."""
        return ModelWriter(self.path, model)

    def _versions(self, model: str) -> tuple[str, ...]:
        """Published versions, ascending."""
        folder = self.path / "models" / model
        if not folder.is_dir():
            return ()
        names = [name for name in os.listdir(folder) if name.isascii() and name.isdecimal()]
        published = [name for name in names if (folder / name / "manifest.json").is_file()]
        return tuple(sorted(published, key=int))


def _version_name(version: str | int) -> str:
    text = str(version)
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"version must be a number such as 1 or '000001'; got {version!r}")
    return f"{int(text):06d}"
