"""The model store: a folder of immutable, content-addressed blobs and manifests that name them.

The format is described in docs/formats/model_store.md.
"""

from __future__ import annotations

from feedfast.store.layouts import LAYOUTS, Layout, encode_table
from feedfast.store.manifest import BlobRef, Manifest, Section
from feedfast.store.model_store import ModelStore, ModelVersion
from feedfast.store.reader import OpenedModel, SectionSize, Verify
from feedfast.store.writer import ModelWriter

__all__ = [
    "LAYOUTS",
    "BlobRef",
    "Layout",
    "Manifest",
    "ModelStore",
    "ModelVersion",
    "ModelWriter",
    "OpenedModel",
    "Section",
    "SectionSize",
    "Verify",
    "encode_table",
]
