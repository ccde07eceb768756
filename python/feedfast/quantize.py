"""Embedding tables with row-wise int8 codes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from feedfast import _core
from feedfast.bags import FloatArray, Pooling, as_float32, as_int64

HEADER_BYTES = 4


class QuantizedTable:
    """A table [num_rows, dim] in 4 + dim bytes a row: float16 scale, float16 bias, dim codes.

    `w = scale * code + bias`. Per row the bias is the least value rounded down and the scale takes
    the greatest value to code 255, so that `|w - original| <= scale / 2` and no code saturates.
    """

    def __init__(self, packed: npt.NDArray[np.uint8]) -> None:
        """Wraps packed rows without a copy.

        Args:
            packed: [num_rows, 4 + dim] uint8, C-contiguous, as `packed` gives them.

        Raises:
            TypeError: Not a uint8 array.
            ValueError: Not of rank 2, not contiguous, or no code in a row.
        """
        if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8:
            found = packed.dtype if isinstance(packed, np.ndarray) else type(packed).__name__
            raise TypeError(f"packed must be a uint8 array; got {found}")
        if packed.ndim != 2 or packed.shape[1] <= HEADER_BYTES or not packed.flags.c_contiguous:
            raise ValueError(
                f"packed must be a C-contiguous [num_rows, {HEADER_BYTES} + dim] array with "
                f"dim >= 1; got shape {packed.shape}"
            )
        self._packed = packed

    @classmethod
    def quantize(
        cls, table: npt.NDArray[np.floating], bits: int = 8, *, threads: int = 1
    ) -> QuantizedTable:
        """Quantizes a float table row by row; the bytes depend on the table alone.

        Args:
            table: [num_rows, dim] float32; float16 and float64 are converted.
            bits: Bits per code; 8.
            threads: Threads to use.

        Raises:
            ValueError: `bits` is not 8, the table is not of rank 2, or an element is NaN or
                outside the float16 range of +-65504; the message gives its position.
        """
        if bits != 8:
            raise ValueError(f"bits must be 8; got {bits}")
        return cls(_core.quantize_rows(as_float32("table", table), threads=threads))

    @property
    def packed(self) -> npt.NDArray[np.uint8]:
        """[num_rows, 4 + dim] uint8; not a copy."""
        return self._packed

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return int(self._packed.shape[0])

    @property
    def dim(self) -> int:
        """Columns of the table."""
        return int(self._packed.shape[1]) - HEADER_BYTES

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, headers included."""
        return self._packed.nbytes

    def pooled_lookup(
        self,
        values: npt.ArrayLike,
        offsets: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        pooling: Pooling = "sum",
        threads: int = 1,
    ) -> FloatArray:
        """As `feedfast.pooled_lookup`, with rows decoded on the way; returns [num_bags, dim]."""
        return _core.pooled_lookup_int8(
            self._packed,
            as_int64("values", values),
            as_int64("offsets", offsets),
            None if weights is None else as_float32("weights", weights),
            pooling=pooling,
            threads=threads,
        )

    def dequantize(self, *, threads: int = 1) -> FloatArray:
        """The decoded table, [num_rows, dim] float32: what a lookup of single rows gives."""
        return _core.dequantize_rows(self._packed, threads=threads)
