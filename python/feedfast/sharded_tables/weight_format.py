"""Weights of 16 bits as numpy holds them: float16, and bfloat16 as its bits."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.bags import FloatArray

TableDtype = Literal["float32", "float16", "bfloat16"]

Weights = NDArray[Any]  # float32, float16 or, of bfloat16, uint16
_LARGEST_HALF = 65504.0


def weights_dtype(dtype: str) -> np.dtype[Any]:
    """Of the arrays that hold such weights; numpy has no bfloat16."""
    kinds: dict[str, type[Any]] = {"float32": np.float32, "float16": np.float16}
    return np.dtype(kinds.get(dtype, np.uint16))


def rounded(values: FloatArray, dtype: TableDtype) -> Weights:
    """Weights of `dtype`, to nearest even; what no float16 holds becomes its largest."""
    if dtype == "float32":
        return values
    if dtype == "float16":
        return np.clip(values, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
    return _core.to_bfloat16(np.ascontiguousarray(values))


def as_float32(weights: Weights, dtype: TableDtype) -> FloatArray:
    """The numbers that weights of `dtype` are, exactly; float32 ones are not copied."""
    if dtype == "bfloat16":
        return _core.from_bfloat16(np.ascontiguousarray(weights))
    return weights.astype(np.float32, copy=False)
