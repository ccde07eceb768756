"""Writes one model version into a store."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.store import files, tensor_file
from feedfast.store.blobs import BLOBS, blob_path, blob_problem
from feedfast.store.layouts import Layout, RowLayout, row_layout
from feedfast.store.locks import share_with_writers
from feedfast.store.manifest import BlobRef, Manifest, Section, check_name
from feedfast.store.versions import MODELS, publish_manifest

BLOCK_BYTES = 16 << 20
TENSOR_ALIGN = 64
TABLE_ALIGN = 4096
# The tensor of a table block's file.
ROWS = "rows"


def rows_per_block(row_bytes: int) -> int:
    """Rows of one block of a split table: at least 16 MiB and a multiple of 1024 rows.

    The bytes of a block are a multiple of 2 MiB, so that blocks mapped side by side can use huge
    pages, unless that makes blocks larger than 64 MiB; then they are a multiple of 4096.
    """
    for unit in (2 << 20, TABLE_ALIGN):
        step = math.lcm(1024, unit // math.gcd(row_bytes, unit))
        rows = -(-BLOCK_BYTES // (step * row_bytes)) * step
        if rows * row_bytes <= 4 * BLOCK_BYTES:
            break
    return rows


class ModelWriter:
    """Collects the sections of one model version; `publish` makes them visible at once.

    Blobs are written as they are added, under their digest; a blob that the store has already is
    not written again. Nothing refers to them until `publish` has renamed the manifest into place,
    so a writer that is killed leaves at most unused blobs and temporary names. Several writers may
    work on one store and one model at a time: each gets a version of its own. Until a writer has
    published, is closed or collected, no garbage is collected in its store.
    """

    def __init__(self, store_path: str | os.PathLike[str], model: str) -> None:
        self._root = Path(store_path)
        self._model = check_name("model", model)
        self._blobs = self._root / BLOBS
        self._sections: dict[str, Section] = {}
        self._format_version = 1
        files.make_folders(self._blobs)
        self._lock = share_with_writers(self._root)

    def add_table(
        self,
        name: str,
        table: NDArray[Any],
        *,
        layout: Layout = "float32",
        dim: int | None = None,
    ) -> None:
        """Adds a matrix as row blocks.

        Args:
            name: Section name.
            table: The rows in this layout, as `encode_table` gives them: [rows, dim] float32 or
                float16; bfloat16 as ml_dtypes.bfloat16 or uint16; rows of codes as uint8 [rows,
                4 + dim] (int8) or [rows, 4 + (dim + 1) // 2] (int4).
            layout: How a row is stored.
            dim: Columns of the table; default: as many as its rows can hold, which an odd dim of
                int4 codes is one short of.

        Raises:
            ValueError: Unknown layout, a dtype, rank or dim that does not fit, a name used twice.
        """
        try:
            found = row_layout(layout)
        except ValueError as error:
            raise ValueError(f"section {name!r}: {error}") from None
        table = tensor_file.as_stored(table)
        if table.ndim != 2 or table.dtype != found.dtype or found.largest_dim(table.shape[1]) < 1:
            raise ValueError(
                f"section {name!r}: a table of layout {layout!r} is {found.dtype} with "
                f"2 dimensions and at least {found.columns(1)} columns; got "
                f"{table.dtype} of shape {table.shape}"
            )
        num_rows, columns = table.shape
        if dim is None:
            dim = found.largest_dim(columns)
        if dim < 1 or found.columns(dim) != columns:
            raise ValueError(
                f"section {name!r}: {columns} columns of layout {layout!r} do not hold dim {dim}"
            )
        self._add_blocks(name, found, num_rows, dim, lambda first, end: table[first:end])

    def add_table_rows(
        self,
        name: str,
        source: NDArray[Any],
        rows: NDArray[np.int64],
        *,
        layout: Layout,
        dim: int,
        zero_row: int | None = None,
    ) -> None:
        """Adds chosen rows of a matrix as a table; holds one block of them in memory.

        Args:
            name: Section name.
            source: Rows in this layout, such as a mapped table.
            rows: [rows of the new table] positions in `source`.
            layout, dim: As in `add_table`, of both.
            zero_row: A row of the new table that is zeros instead; None: none.

        Raises:
            ValueError: A name used twice.
        """

        def read(first: int, end: int) -> NDArray[Any]:
            block = source[rows[first:end]]
            if zero_row is not None and first <= zero_row < end:
                block[zero_row - first] = 0
            return block

        self._add_blocks(name, row_layout(layout), len(rows), dim, read)

    def _add_blocks(
        self,
        name: str,
        layout: RowLayout,
        num_rows: int,
        dim: int,
        read: Callable[[int, int], NDArray[Any]],
    ) -> None:
        """Adds a table whose rows [first, end) are `read(first, end)`."""
        step = rows_per_block(layout.row_bytes(dim))
        blobs = []
        for first in range(0, num_rows, step) or (0,):
            block = np.ascontiguousarray(read(first, min(first + step, num_rows)))
            digest, num_bytes = self._add_tensors({ROWS: block}, align=TABLE_ALIGN)
            blobs.append(BlobRef(digest, num_bytes, block.shape[0]))
        self._add(Section(name, "table", tuple(blobs), layout.name, (num_rows, dim)))
        self._format_version = max(self._format_version, layout.format_version)

    def add_tensors(self, name: str, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Adds named arrays as one safetensors file. None at all is allowed.

        Dtypes: float32, float16, bfloat16 (ml_dtypes.bfloat16 or uint16), int64, int32, int8,
        uint8.

        Raises:
            ValueError: A dtype that is not stored, or a name used twice.
        """
        arrays = {
            key: np.ascontiguousarray(tensor_file.as_stored(tensor))
            for key, tensor in tensors.items()
        }
        self._add(
            Section(name, "tensors", (BlobRef(*self._add_tensors(arrays, align=TENSOR_ALIGN)),))
        )
        needed = tensor_file.format_version(array.dtype for array in arrays.values())
        self._format_version = max(self._format_version, needed)

    def add_image(self, name: str, image: bytes | memoryview, *, layout: str) -> None:
        """Adds a blob with a format of its own, named by `layout`.

        Raises:
            ValueError: A name used twice.
        """
        blob = BlobRef(*self._add_blob([image]))
        self._add(Section(name, "image", (blob,), check_name("layout", layout)))

    def add_present(self, section: Section) -> None:
        """Adds a section of another version of this store; its blobs are shared.

        Raises:
            ValueError: The store has not got one of its blobs, or a name used twice.
        """
        for blob in section.blobs:
            path = self._blobs / blob.sha256
            try:
                num_bytes = path.stat().st_size
            except FileNotFoundError:
                num_bytes = -1
            if num_bytes != blob.num_bytes:
                raise ValueError(
                    f"section {section.name!r}: blob {blob.sha256} is not in {self._root}"
                )
            with contextlib.suppress(PermissionError):
                os.utime(path)
        self._add(section)
        self._format_version = max(self._format_version, self._needed_version(section))

    def manifest(self, description: Mapping[str, Any] | None = None) -> Manifest:
        """What `publish` would make visible now, under a version that nobody has, 000000."""
        return Manifest(
            self._model, "000000", dict(self._sections), description or {}, self._format_version
        )

    def publish(self, description: Mapping[str, Any] | None = None) -> str:
        """Makes the sections a version of the model and returns its number, such as `000001`.

        The number is one above the largest at the moment of the rename. A writer publishes once.

        Args:
            description: JSON values that the model's reader needs.

        Raises:
            ValueError: The writer is closed.
        """
        if self._lock.descriptor < 0:
            raise ValueError("the writer is closed; a writer publishes one version")
        folder = self._root / MODELS / self._model
        files.make_folders(folder)
        files.sync_folder(self._blobs)
        number = 1 + max(
            (int(name) for name in os.listdir(folder) if name.isascii() and name.isdecimal()),
            default=0,
        )
        while True:
            version = f"{number:06d}"
            manifest = Manifest(
                self._model, version, self._sections, description or {}, self._format_version
            )
            try:
                publish_manifest(self._root, manifest)
            except FileExistsError:
                number += 1
                continue
            self.close()
            return version

    def close(self) -> None:
        """Ends the work: what was added and not published is garbage from now on."""
        self._lock.close()

    def __enter__(self) -> ModelWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _needed_version(self, section: Section) -> int:
        """The first version of the store that has such a section; its blobs are there."""
        if section.kind == "table":
            return row_layout(section.layout).format_version
        if section.kind == "tensors":
            (blob,) = section.blobs
            try:
                header = tensor_file.read_header(blob_path(self._root, blob))
            except ValueError as error:
                raise ValueError(f"section {section.name!r}: blob {blob.sha256}: {error}") from None
            return tensor_file.format_version(spec.dtype for spec in header.tensors.values())
        return 1

    def _add(self, section: Section) -> None:
        check_name("section", section.name)
        if section.name in self._sections:
            raise ValueError(f"section {section.name!r} was added before")
        self._sections[section.name] = section

    def _add_tensors(self, tensors: Mapping[str, NDArray[Any]], *, align: int) -> tuple[str, int]:
        specs = {key: (tensor.dtype, tensor.shape) for key, tensor in tensors.items()}
        header, order = tensor_file.plan_header(specs, align=align)
        data = [tensors[key].reshape(-1).view(np.uint8).data for key in order]
        return self._add_blob([header, *data])

    def _add_blob(self, pieces: list[bytes | memoryview]) -> tuple[str, int]:
        digest = hashlib.sha256()
        num_bytes = 0
        for piece in pieces:
            digest.update(piece)
            num_bytes += memoryview(piece).nbytes
        name = digest.hexdigest()
        path = self._blobs / name
        # One that was damaged after it was written is replaced.
        if blob_problem(self._root, BlobRef(name, num_bytes), full=True) is None:
            # As new: where locks do not reach, garbage is told from fresh blobs by age.
            with contextlib.suppress(PermissionError):
                os.utime(path)
        else:
            files.replace_durably(path, pieces)
        return name, num_bytes
