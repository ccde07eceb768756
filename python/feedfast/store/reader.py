"""Opens one model version: checks it and maps its sections."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.store import tensor_file
from feedfast.store.blobs import BLOBS, blob_path, open_blob
from feedfast.store.layouts import row_layout, view_rows
from feedfast.store.locks import FileLock
from feedfast.store.manifest import BlobRef, Kind, Manifest, Section
from feedfast.store.tensor_file import TensorHeader
from feedfast.store.verification import Verification
from feedfast.store.writer import ROWS, TABLE_ALIGN, TENSOR_ALIGN

Verify = Literal["header", "background", "full"]
VERIFY: tuple[Verify, ...] = get_args(Verify)


@dataclass(frozen=True, slots=True)
class SectionSize:
    """Bytes of one section, and its share of the sum over all sections of the model."""

    name: str
    kind: Kind
    num_bytes: int
    share: float


class OpenedModel:
    """A model version whose sections are mapped read-only.

    The arrays are views of the mapping, which lives as long as any of them: closing, replacing or
    collecting the store's files does not take it away from a request that runs.
    """

    def __init__(
        self, root: Path, manifest: Manifest, *, verify: Verify, lock: FileLock | None = None
    ) -> None:
        self.manifest = manifest
        self._lock = lock  # of the version, against its removal
        self._root = root
        self._blobs = os.fsencode(root / BLOBS)
        self.where = f"{root}: model {manifest.model!r} version {manifest.version}"
        self._arrays: dict[str, NDArray[Any] | dict[str, NDArray[Any]]] = {}
        self._verification = Verification(root, manifest, self.where)
        if verify == "full":
            self._verification.run()
            self._verification.wait(0)
        # Full blocks of a table have the same header, byte for byte.
        self._headers: dict[tuple[bytes, int], TensorHeader] = {}
        for section in manifest.sections.values():
            try:
                self._arrays[section.name] = self._map(section)
            except ValueError as error:
                raise ValueError(f"{self.where}: section {section.name!r}: {error}") from None
        self._headers.clear()
        if verify == "background":
            self._verification.start()
            weakref.finalize(self, self._verification.stop)

    @property
    def verified(self) -> bool:
        """Whether every byte of every blob has been compared with its digest, and was right."""
        return self._verification.done and self._verification.problem is None

    @property
    def verification_error(self) -> str | None:
        """What a verification found wrong, naming section and blob; None: nothing so far."""
        return self._verification.problem

    def wait_verified(self, timeout_s: float | None = None) -> None:
        """Returns once every byte is known to be right; before this a version takes no traffic.

        Any `verify` will do: what has not been verified or begun is begun now.

        Args:
            timeout_s: How long to wait; None: to the end.

        Raises:
            ValueError: A blob is missing, truncated or altered; the message names it.
            TimeoutError: Verification goes on after so many seconds.
        """
        self._verification.wait(timeout_s)

    def __repr__(self) -> str:
        return f"OpenedModel({self.where})"

    @property
    def description(self) -> Mapping[str, Any]:
        """What the model's writer passed to `publish`."""
        return self.manifest.description

    def section(self, name: str, kind: Kind) -> Section:
        """The section, when the model has it and it is of this kind.

        Raises:
            ValueError: It is missing or of another kind.
        """
        section = self.manifest.sections.get(name)
        if section is None:
            raise ValueError(f"{self.where}: section {name!r} is missing")
        if section.kind != kind:
            raise ValueError(
                f"{self.where}: section {name!r} is of kind {section.kind!r}; {kind!r} is needed"
            )
        return section

    def table(self, name: str) -> NDArray[Any]:
        """The rows of a table as they are stored: one array over all blocks, not a copy.

        [rows, dim] float32, float16, or uint16 for bfloat16; packed uint8 of rows of codes, as
        `feedfast.QuantizedTable` takes them.
        """
        self.section(name, "table")
        table = self._arrays[name]
        assert isinstance(table, np.ndarray)
        return table

    def table_view(self, name: str) -> _core.Table:
        """A table of any layout as the kernels take it; not a copy."""
        section = self.section(name, "table")
        return view_rows(self.table(name), row_layout(section.layout).name, section.shape[1])

    def tensors(self, name: str) -> Mapping[str, NDArray[Any]]:
        """The arrays of a section of kind `tensors`; bfloat16 as uint16."""
        self.section(name, "tensors")
        tensors = self._arrays[name]
        assert isinstance(tensors, dict)
        return tensors

    def image(self, name: str, *, layout: str) -> NDArray[np.uint8]:
        """The bytes of a section of kind `image`.

        Raises:
            ValueError: The section is missing, or of another kind or layout.
        """
        section = self.section(name, "image")
        if section.layout != layout:
            raise ValueError(
                f"{self.where}: section {name!r} has layout {section.layout!r}; "
                f"{layout!r} is needed"
            )
        image = self._arrays[name]
        assert isinstance(image, np.ndarray)
        return image

    def image_path(self, name: str, *, layout: str) -> Path:
        """The file of a section of kind `image`, for readers that map it themselves.

        Raises:
            ValueError: As `image`.
        """
        self.image(name, layout=layout)
        (blob,) = self.manifest.sections[name].blobs
        return self._path(blob)

    def section_paths(self, name: str) -> tuple[Path, ...]:
        """The files of a section of any kind, in order."""
        return tuple(self._path(blob) for blob in self.manifest.sections[name].blobs)

    def section_sizes(self) -> tuple[SectionSize, ...]:
        """Bytes of each section, the largest first."""
        sections = self.manifest.sections.values()
        total = max(1, sum(section.num_bytes for section in sections))
        return tuple(
            SectionSize(section.name, section.kind, section.num_bytes, section.num_bytes / total)
            for section in sorted(sections, key=lambda s: (-s.num_bytes, s.name))
        )

    def _path(self, blob: BlobRef) -> Path:
        return blob_path(self._root, blob)

    def _file(self, blob: BlobRef) -> bytes:
        """As `_path`; a big table has hundreds of blobs, and paths take their time."""
        return b"%b/%b" % (self._blobs, blob.sha256.encode())

    def _open(self, blob: BlobRef) -> int:
        try:
            return open_blob(self._file(blob), blob)
        except ValueError as error:
            raise ValueError(f"blob {blob.sha256} {error}") from None

    def _header(self, blob: BlobRef) -> TensorHeader:
        """The header of a safetensors file of the right size."""
        descriptor = self._open(blob)
        try:
            head = os.pread(descriptor, TABLE_ALIGN, 0)
            length = int.from_bytes(head[:8], "little")
            needed = 8 + min(length, tensor_file.MAX_HEADER_BYTES)
            head = head[:needed] if needed <= len(head) else os.pread(descriptor, needed, 0)
        finally:
            os.close(descriptor)
        known = self._headers.get((head, blob.num_bytes))
        if known is not None:
            return known
        try:
            header = tensor_file.parse_header(head, blob.num_bytes)
        except ValueError as error:
            raise ValueError(f"blob {blob.sha256}: {error}") from None
        if header.data_start % TENSOR_ALIGN != 0:
            raise ValueError(
                f"blob {blob.sha256}: data start at byte {header.data_start}, "
                f"which is not a multiple of {TENSOR_ALIGN}"
            )
        self._headers[head, blob.num_bytes] = header
        return header

    def _map(self, section: Section) -> NDArray[Any] | dict[str, NDArray[Any]]:
        if section.kind == "table":
            return self._map_table(section)
        (blob,) = section.blobs
        header = self._header(blob) if section.kind == "tensors" else None
        if header is None:
            os.close(self._open(blob))
        file = _core.map_blocks([(self._file(blob), 0, blob.num_bytes)])
        if header is None:
            return file
        return {name: tensor_file.view_tensor(file, header, name) for name in header.tensors}

    def _map_table(self, section: Section) -> NDArray[Any]:
        layout = row_layout(section.layout)
        dtype, columns = layout.dtype, layout.columns(section.shape[1])
        blocks = []
        for blob in section.blobs:
            header = self._header(blob)
            spec = header.tensors.get(ROWS)
            if len(header.tensors) != 1 or spec is None or spec.dtype != dtype:
                raise ValueError(f"blob {blob.sha256} is not one tensor {ROWS!r} of {dtype}")
            if spec.shape != (blob.num_rows, columns):
                raise ValueError(
                    f"blob {blob.sha256} has shape {spec.shape}; "
                    f"the manifest says {(blob.num_rows, columns)}"
                )
            blocks.append((self._file(blob), header.data_start, spec.end))
        rows = _core.map_blocks(blocks)
        return rows.view(dtype).reshape(section.shape[0], columns)
