"""The store as a whole: which models and versions it holds."""

from __future__ import annotations

import os
from pathlib import Path

from feedfast.store.manifest import check_name
from feedfast.store.reader import VERIFY, OpenedModel, Verify
from feedfast.store.versions import ModelVersion, all_versions, find_version, open_manifest
from feedfast.store.writer import ModelWriter


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
        return all_versions(self.path)

    def open(
        self, model: str, version: str | int | None = None, *, verify: Verify = "header"
    ) -> OpenedModel:
        """Opens a version and maps its sections.

        Args:
            model: Name of the model.
            version: Its number; None is the largest one.
            verify: `header` checks the manifest, the size of every blob and the headers of tensor
                files, and is safe on any content; `full` also reads every byte and compares the
                digests; `background` opens like `header` and does the rest in a thread, see
                `OpenedModel.wait_verified`.

        Raises:
            FileNotFoundError: No such model or version; the message lists those there are.
            ValueError: A manifest or blob is truncated, altered, missing or of an unknown format
                version; the message names it and its section. Or `verify` is unknown.
        """
        if verify not in VERIFY:
            raise ValueError(f"verify must be one of {', '.join(VERIFY)}; got {verify!r}")
        check_name("model", model)
        while True:
            found = find_version(self.path, model, version)
            try:
                manifest, lock = open_manifest(self.path, model, found.version)
            except FileNotFoundError:
                # The newest one may grow old and be removed before it is open.
                if version is None and find_version(self.path, model, None) != found:
                    continue
                raise
            break
        return OpenedModel(self.path, manifest, verify=verify, lock=lock)

    def writer(self, model: str) -> ModelWriter:
        """A writer of one new version of `model`."""
        return ModelWriter(self.path, model)
