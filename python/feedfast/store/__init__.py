"""The model store: a folder of immutable, content-addressed blobs and manifests that name them.

The format is described in docs/formats/model_store.md, its operation in docs/store.md.
"""

from __future__ import annotations

from feedfast.store.check import CheckReport, Fault, check_store
from feedfast.store.garbage import GarbageReport, collect_garbage
from feedfast.store.inventory import (
    Difference,
    Inventory,
    SectionChange,
    VersionSize,
    compare_manifests,
    take_inventory,
)
from feedfast.store.layouts import LAYOUTS, Layout, encode_table
from feedfast.store.manifest import BlobRef, Manifest, Section
from feedfast.store.model_store import ModelStore
from feedfast.store.push import PushReport, push
from feedfast.store.reader import OpenedModel, SectionSize, Verify
from feedfast.store.versions import ModelVersion, all_versions, find_version, read_manifest
from feedfast.store.writer import ModelWriter

__all__ = [
    "LAYOUTS",
    "BlobRef",
    "CheckReport",
    "Difference",
    "Fault",
    "GarbageReport",
    "Inventory",
    "Layout",
    "Manifest",
    "ModelStore",
    "ModelVersion",
    "ModelWriter",
    "OpenedModel",
    "PushReport",
    "Section",
    "SectionChange",
    "SectionSize",
    "Verify",
    "VersionSize",
    "all_versions",
    "check_store",
    "collect_garbage",
    "compare_manifests",
    "encode_table",
    "find_version",
    "push",
    "read_manifest",
    "take_inventory",
]
