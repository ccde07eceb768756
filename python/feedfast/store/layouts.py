"""How rows of a table section are stored: float32 or smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.quantize import HEADER_BYTES, QuantizedTable, RangeMethod

Layout = Literal["float32", "float16", "bfloat16", "int8_rowwise", "int4_rowwise"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

# Rows that are converted at a time: bounds the memory beside the result.
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class RowLayout:
    """One layout; cpp/embedding_kernels/table.h has the same.

    Attributes:
        name: As in the manifest.
        dtype: Of the array as it is stored and opened; bfloat16 is uint16, which numpy has.
        code_bits: Bits of a code behind a scale and a bias; 0 when elements are numbers.
        format_version: Of the first manifests that may name it.
    """

    name: Layout
    dtype: np.dtype[Any]
    code_bits: int
    format_version: int

    def columns(self, dim: int) -> int:
        """Columns of the stored array of a table with `dim` columns."""
        if self.code_bits == 0:
            return dim
        return HEADER_BYTES + -(-dim * self.code_bits // 8)

    @property
    def dtype_name(self) -> str:
        """Of the elements, as the manifest says it."""
        return "uint8" if self.code_bits else self.name

    def row_bytes(self, dim: int) -> int:
        """Bytes of one row of a table with `dim` columns."""
        return self.columns(dim) * self.dtype.itemsize

    def largest_dim(self, columns: int) -> int:
        """Columns of the largest table whose stored array has `columns`; below 1 if none has."""
        if self.code_bits == 0:
            return columns
        return (columns - HEADER_BYTES) * 8 // self.code_bits


_BY_NAME: dict[str, RowLayout] = {
    layout.name: layout
    for layout in (
        RowLayout("float32", np.dtype(np.float32), 0, 1),
        RowLayout("float16", np.dtype(np.float16), 0, 2),
        RowLayout("bfloat16", np.dtype(np.uint16), 0, 2),
        RowLayout("int8_rowwise", np.dtype(np.uint8), 8, 1),
        RowLayout("int4_rowwise", np.dtype(np.uint8), 4, 2),
    )
}


def row_layout(name: object) -> RowLayout:
    """The layout of this name.

    Raises:
        ValueError: There is none.
    """
    found = _BY_NAME.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"layout {name!r} is unknown; allowed: {', '.join(LAYOUTS)}")
    return found


def encode_table(
    table: NDArray[np.float32],
    layout: Layout,
    *,
    method: RangeMethod = "minmax",
    threads: int = 1,
) -> NDArray[Any]:
    """A float32 table in another layout, as `ModelWriter.add_table` takes it.

    Args:
        table: [rows, dim] float32.
        layout: 16-bit floats are rounded to nearest, ties to even; codes are those of
            `QuantizedTable.quantize`.
        method: Range of the codes, as in `QuantizedTable.quantize`.
        threads: Threads that quantize.

    Returns:
        [rows, row_layout(layout).columns(dim)]; the table itself for `float32`.

    Raises:
        ValueError: The layout is unknown, the table is not float32 of rank 2, or an element is NaN
            or beyond the layout's range; the message gives its position.
    """
    found = row_layout(layout)
    if table.ndim != 2 or table.dtype != np.float32:
        raise ValueError(f"table must be float32 [rows, dim]; got {table.dtype} {table.shape}")
    if layout == "float32":
        return table
    if found.code_bits:
        quantized = QuantizedTable.quantize(table, found.code_bits, method=method, threads=threads)
        return quantized.packed
    encoded = np.empty(table.shape, found.dtype)
    for first in range(0, table.shape[0], _ROWS_AT_ONCE):
        rows = table[first : first + _ROWS_AT_ONCE]
        part = _to_bfloat16(rows) if layout == "bfloat16" else _to_float16(rows)
        infinite = _exponent_is_full(part, layout)
        if infinite.any():
            row, column = np.argwhere(infinite)[0]
            raise ValueError(
                f"table[{first + row}, {column}] = {rows[row, column]} is not a finite {layout}"
            )
        encoded[first : first + _ROWS_AT_ONCE] = part
    return encoded


def view_rows(rows: NDArray[Any], layout: Layout, dim: int) -> _core.Table:
    """Stored rows as the kernels take them; not a copy.

    Args:
        rows: [num_rows, row_layout(layout).columns(dim)] of the layout's dtype, C-contiguous.
        layout: Of the rows.
        dim: Columns of the table.
    """
    found = row_layout(layout)
    if found.code_bits:
        return _core.Table.quantized(rows, dim=dim, bits=found.code_bits)
    if layout == "float32":
        return _core.Table.float32(rows)
    bits = rows.view(np.uint16)
    return _core.Table.float16(bits) if layout == "float16" else _core.Table.bfloat16(bits)


def _to_float16(rows: NDArray[np.float32]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):  # the caller looks for infinities
        return rows.astype(np.float16)


def _to_bfloat16(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves, rounded to nearest even; NaN keeps a full exponent."""
    bits = np.ascontiguousarray(rows).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16
    return np.where(np.isnan(rows), np.uint16(0x7FC0), rounded.astype(np.uint16))


def _exponent_is_full(part: NDArray[Any], layout: Layout) -> NDArray[np.bool_]:
    """Where 16-bit floats are infinite or NaN."""
    mask = np.uint16(0x7F80 if layout == "bfloat16" else 0x7C00)
    full: NDArray[np.bool_] = (part.view(np.uint16) & mask) == mask
    return full
