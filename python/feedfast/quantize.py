"""Embedding tables with row-wise int8 or int4 codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from feedfast import _core
from feedfast.bags import FloatArray, Pooling, as_float32, as_index, as_int64

HEADER_BYTES = 4

RangeMethod = Literal["minmax", "clip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationError:
    """How far a quantized table is from the one it was made from.

    Attributes:
        greatest: Of `|original - decoded|` over all elements.
        rms: Root mean square over all elements.
        saturated_rows: Share of the rows with an element outside what their codes cover, [0, 1].
    """

    greatest: float
    rms: float
    saturated_rows: float


class QuantizedTable:
    """A table [num_rows, dim] of codes: a row is a float16 scale, a float16 bias and dim codes.

    `w = scale * code + bias`. int8 codes take a byte each. int4 codes take half a byte: column 2k
    the low and column 2k + 1 the high bits of byte k. `|w - original| <= scale / 2` for every
    element within the interval that the codes of its row cover.
    """

    def __init__(
        self, packed: npt.NDArray[np.uint8], bits: int = 8, *, dim: int | None = None
    ) -> None:
        """Wraps packed rows without a copy.

        Args:
            packed: [num_rows, 4 + dim * bits / 8] uint8, C-contiguous, as `packed` gives them.
            bits: Bits per code, 8 or 4.
            dim: Columns of the table; default: as many as the packed rows can hold, which an odd
                dim of int4 codes is one short of.

        Raises:
            TypeError: Not a uint8 array.
            ValueError: Not of rank 2, not contiguous, no code in a row, other bits, or a dim that
                does not fit.
        """
        if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8:
            found = packed.dtype if isinstance(packed, np.ndarray) else type(packed).__name__
            raise TypeError(f"packed must be a uint8 array; got {found}")
        if packed.ndim != 2 or packed.shape[1] <= HEADER_BYTES or not packed.flags.c_contiguous:
            raise ValueError(
                f"packed must be a C-contiguous [num_rows, {HEADER_BYTES} + dim] array with "
                f"dim >= 1; got shape {packed.shape}"
            )
        _check_bits(bits)
        if dim is None:
            dim = (packed.shape[1] - HEADER_BYTES) * (8 // bits)
        self._packed = packed
        self._bits = bits
        self._view = _core.Table.quantized(packed, dim=dim, bits=bits)

    @classmethod
    def quantize(
        cls,
        table: npt.NDArray[np.floating],
        bits: int = 8,
        *,
        method: RangeMethod = "minmax",
        threads: int = 1,
    ) -> QuantizedTable:
        """Quantizes a float table row by row, to nearest; the bytes depend on the table alone.

        Args:
            table: [num_rows, dim] float32; float16 and float64 are converted.
            bits: Bits per code, 8 or 4.
            method: What the codes of a row cover: "minmax" all its values; "clip" the interval
                with the least sum of squared errors that a greedy search from both ends inwards
                finds, at about 100 times the cost; it pays for int4 codes.
            threads: Threads to use.

        Raises:
            ValueError: `bits` is neither 8 nor 4, the method is unknown, the table is not of
                rank 2, or an element is NaN or outside the float16 range of +-65504; the message
                gives its position.
        """
        _check_bits(bits)
        floats = as_float32("table", table)
        packed = _core.quantize_rows(floats, bits=bits, method=method, threads=threads)
        return cls(packed, bits, dim=floats.shape[1])

    @property
    def packed(self) -> npt.NDArray[np.uint8]:
        """[num_rows, 4 + dim * bits / 8] uint8, rounded up; not a copy."""
        return self._packed

    @property
    def bits(self) -> int:
        """Bits per code, 8 or 4."""
        return self._bits

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return self._view.num_rows

    @property
    def dim(self) -> int:
        """Columns of the table."""
        return self._view.dim

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, headers included."""
        return self._packed.nbytes

    @property
    def view(self) -> _core.Table:
        """The table as the kernels take it."""
        return self._view

    def pooled_lookup(
        self,
        values: npt.ArrayLike,
        offsets: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        pooling: Pooling = "sum",
        threads: int = 1,
    ) -> FloatArray:
        """As `feedfast.pooled_lookup`, with rows decoded on the way; returns [num_bags, dim]."""
        return _core.pooled_lookup(
            self._view,
            as_index("values", values),
            as_index("offsets", offsets),
            None if weights is None else as_float32("weights", weights),
            pooling=pooling,
            threads=threads,
        )

    def dequantize(self, *, threads: int = 1) -> FloatArray:
        """The decoded table, [num_rows, dim] float32: what a lookup of single rows gives."""
        return _core.dequantize_rows(self._view, threads=threads)

    def error_report(
        self, table: npt.NDArray[np.floating], *, threads: int = 1
    ) -> QuantizationError:
        """Compares with the float table [num_rows, dim] that this one was made from.

        Raises:
            ValueError: `table` has another shape.
        """
        greatest, rms, saturated = _core.quantization_error(
            self._view, as_float32("table", table), threads=threads
        )
        return QuantizationError(greatest=greatest, rms=rms, saturated_rows=saturated)

    def update_rows(
        self,
        rows: npt.ArrayLike,
        values: npt.NDArray[np.floating],
        *,
        method: RangeMethod = "minmax",
        threads: int = 1,
    ) -> None:
        """Quantizes some rows anew, in place; all others keep their bytes.

        Args:
            rows: [n] integers, rows of the table, none twice.
            values: [n, dim] float32, what the rows hold from now on.
            method: As in `quantize`.
            threads: Threads to use.

        Raises:
            IndexError: An element of `rows` is not a row of the table.
            ValueError: A row is given twice, `values` has another shape, one of them is NaN or
                outside +-65504, or `packed` is read-only. Nothing is written then.
        """
        if not self._packed.flags.writeable:
            raise ValueError("packed is read-only; make a table of a copy to update its rows")
        floats = as_float32("values", values)
        if floats.ndim == 2 and floats.shape[1] != self.dim:
            raise ValueError(f"values must have {self.dim} columns; got {floats.shape[1]}")
        _core.quantize_rows_at(
            self._packed,
            as_int64("rows", rows),
            floats,
            bits=self._bits,
            method=method,
            threads=threads,
        )


def _check_bits(bits: int) -> None:
    if bits not in (8, 4):
        raise ValueError(f"bits must be 8 or 4; got {bits}")
