"""The manifest of one model version: which blobs are its sections, and how they are to be read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from feedfast.store.layouts import row_layout

FORMAT = "feedfast.model_store"
# Versions that are read. A manifest is written with the lowest one that has everything it uses:
# 2 adds the layouts float16, bfloat16 and int4_rowwise and tensors of bfloat16 and int8.
FORMAT_VERSIONS = (1, 2)

Kind = Literal["table", "tensors", "image"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
MAX_MANIFEST_BYTES = 64 << 20


def check_name(what: str, name: str) -> str:
    """`name`, when it can be one component of a path.

    Raises:
        ValueError: It is not 1 to 128 letters, digits, dots, dashes and underscores, or starts with
            one of the last three.
    """
    if not _NAME.match(name):
        raise ValueError(
            f"{what} {name!r} is not a name; allowed: 1 to 128 letters, digits, '.', '_' and '-', "
            "the first a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class BlobRef:
    """One blob of a section.

    Attributes:
        sha256: Hexadecimal digest of all bytes; the name of the file under `blobs/`.
        num_bytes: Size of the file.
        num_rows: Rows of a table block; None in other kinds.
    """

    sha256: str
    num_bytes: int
    num_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """One named part of a model.

    Attributes:
        name: Unique within the model.
        kind: `table`: row blocks of one matrix; `tensors`: one safetensors file; `image`: one blob
            with a format of its own.
        blobs: In row order for a table, exactly one for the other kinds.
        layout: Table: one of `layouts.LAYOUTS`. Image: the name of its format. Empty for tensors.
        shape: (rows, dim) of a table; () for the other kinds.
    """

    name: str
    kind: Kind
    blobs: tuple[BlobRef, ...]
    layout: str = ""
    shape: tuple[int, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of all blobs, headers included."""
        return sum(blob.num_bytes for blob in self.blobs)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a table."""
        return row_layout(self.layout).row_bytes(self.shape[1])


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model version. `description` is what the model's own reader needs, as JSON values."""

    model: str
    version: str
    sections: Mapping[str, Section]
    description: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = 1

    def to_json(self) -> bytes:
        """The bytes of manifest.json: readable, with the sha256 of its content inside."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "format_version": self.format_version,
            "model": self.model,
            "version": self.version,
            "sections": {
                name: _section_to_json(section) for name, section in self.sections.items()
            },
            "description": self.description,
        }
        content["content_sha256"] = _content_sha256(content)
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    @staticmethod
    def from_json(text: bytes) -> Manifest:
        """Parses and checks manifest.json.

        Raises:
            ValueError: It is truncated, altered, malformed, or of an unknown format version.
        """
        try:
            content = json.loads(text.decode())
            found = _content_sha256({k: v for k, v in content.items() if k != "content_sha256"})
        except (ValueError, RecursionError, AttributeError) as error:
            raise ValueError(f"not a JSON object: {error}") from None
        if content.get("format") != FORMAT:
            raise ValueError(f"not a manifest: format is not {FORMAT!r}")
        version = content.get("format_version")
        if type(version) is not int or version not in FORMAT_VERSIONS:
            raise ValueError(
                f"format_version {version!r} is unknown; this build reads "
                f"{', '.join(map(str, FORMAT_VERSIONS))}"
            )
        if content.get("content_sha256") != found:
            raise ValueError("altered: its content does not match content_sha256")
        sections = _mapping(content, "sections")
        return Manifest(
            model=check_name("model", _text(content, "model")),
            version=check_name("version", _text(content, "version")),
            sections={name: _section_from_json(name, value) for name, value in sections.items()},
            description=_mapping(content, "description"),
            format_version=version,
        )


def _content_sha256(content: Mapping[str, Any]) -> str:
    """Over the compact form with sorted keys, so that white space and order do not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _section_to_json(section: Section) -> dict[str, Any]:
    value: dict[str, Any] = {"kind": section.kind}
    if section.layout:
        value["layout"] = section.layout
    if section.kind == "table":
        value["dtype"] = row_layout(section.layout).dtype_name
        value["shape"] = list(section.shape)
    value["blobs"] = [
        {"sha256": blob.sha256, "bytes": blob.num_bytes}
        | ({} if blob.num_rows is None else {"rows": blob.num_rows})
        for blob in section.blobs
    ]
    return value


def _mapping(value: object, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{key!r} is not an object")
    return found


def _text(value: object, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise ValueError(f"{key!r} is not a string")
    return found


def _size(value: dict[str, Any], key: str) -> int:
    found = value.get(key)
    if type(found) is not int or not 0 <= found < 1 << 62:
        raise ValueError(f"{key!r} is not a size; got {found!r}")
    return found


def _section_from_json(name: str, value: object) -> Section:
    check_name("section", name)
    try:
        return _parse_section(name, value)
    except ValueError as error:
        raise ValueError(f"section {name!r}: {error}") from None


def _parse_section(name: str, value: object) -> Section:
    if not isinstance(value, dict) or not isinstance(value.get("blobs"), list):
        raise ValueError("not an object with a list of blobs")
    kind = value.get("kind")
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; allowed: {', '.join(KINDS)}")
    blobs = []
    for entry in value["blobs"]:
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("sha256"), str)
            or not _SHA256.match(entry["sha256"])
        ):
            raise ValueError("a blob has no sha256")
        blobs.append(
            BlobRef(
                entry["sha256"],
                _size(entry, "bytes"),
                _size(entry, "rows") if kind == "table" else None,
            )
        )
    if kind != "table":
        if len(blobs) != 1:
            raise ValueError(f"{len(blobs)} blobs; a section of kind {kind!r} has 1")
        return Section(name, kind, tuple(blobs), _text(value, "layout") if kind == "image" else "")
    layout = row_layout(value.get("layout")).name
    shape = value.get("shape")
    if not isinstance(shape, list) or len(shape) != 2:
        raise ValueError("shape of a table is not [rows, dim]")
    rows, dim = (_size({"shape": extent}, "shape") for extent in shape)
    if dim == 0:
        raise ValueError("dim of a table is 0")
    if rows != sum(blob.num_rows or 0 for blob in blobs):
        raise ValueError(
            f"{rows} rows, but its blobs have {sum(blob.num_rows or 0 for blob in blobs)}"
        )
    return Section(name, kind, tuple(blobs), layout, (rows, dim))
