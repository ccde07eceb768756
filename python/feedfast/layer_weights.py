"""Weights of dense layers in fp32, bf16 and int8: what `GatedLayer` and `CrossWeights` hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from feedfast import _core

__all__ = [
    "PRECISIONS",
    "FloatArray",
    "Precision",
    "WeightArray",
    "check_floats",
    "check_weights",
    "convert",
    "convert_all",
    "precision_of",
    "precision_of_all",
    "require",
    "rows_of",
    "widen",
]

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

FloatArray = NDArray[np.float32]
WeightArray = NDArray[Any]  # float32, uint16 (bits of bfloat16) or int8
Shape = tuple[int | None, ...]


def require(precision: str) -> Precision:
    """`precision`, or ValueError when it is unknown."""
    for known in PRECISIONS:
        if known == precision:
            return known
    raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")


def precision_of(name: str, array: object, precision: str | None) -> Precision:
    """The precision of an array of weights, which `precision` must not contradict.

    Raises:
        TypeError: The array is None or holds no weights.
        ValueError: `precision` is unknown or not the array's, or a uint16 array comes without it.
    """
    if precision is not None:
        require(precision)
    if array is None:
        raise TypeError(f"{name} is required; got None")
    dtype = np.asarray(array).dtype
    found: Precision
    if dtype.kind == "f":
        found = "fp32"
    elif dtype.name == "bfloat16":
        found = "bf16"
    elif dtype == np.int8:
        found = "int8"
    elif dtype == np.uint16:
        if precision is None:
            raise ValueError(f"{name} holds uint16: say precision='bf16' if these are its bits")
        found = "bf16"
    else:
        raise TypeError(f"{name} must hold floats, bfloat16 or int8; got dtype {dtype}")
    if precision is not None and precision != found:
        raise ValueError(f"{name} holds {found} weights; precision says {precision!r}")
    return found


def check_floats(name: str, array: object, shape: Shape) -> FloatArray:
    """`array` as contiguous float32 of this shape (None: any size of at least 1).

    Raises:
        TypeError: The array is None or does not hold floats.
        ValueError: It has another shape.
    """
    if array is None:
        raise TypeError(f"{name} is required; got None")
    values = np.asarray(array)
    if values.dtype.kind != "f":
        raise TypeError(f"{name} must hold floats; got dtype {values.dtype}")
    _check_shape(name, values, shape)
    return np.ascontiguousarray(values, dtype=np.float32)


def check_weights(
    name: str, array: object, shape: Shape, scale: object, precision: Precision
) -> tuple[WeightArray, FloatArray | None]:
    """A matrix of weights as the kernels take it, and its scales.

    Args:
        name: For messages.
        array: float32 (or another float type), bfloat16 or its bits, int8.
        shape: [in, out], None for any size of at least 1.
        scale: [out] float32 for int8, else None.
        precision: What the array must hold.

    Raises:
        TypeError: The array holds something else, or no weights.
        ValueError: The shape is another, or scales are missing or given without int8.
    """
    precision_of(name, array, precision)
    values = np.asarray(array)
    _check_shape(name, values, shape)
    if precision != "int8":
        if scale is not None:
            raise ValueError(f"{name} holds {precision} weights, which have no scales")
        if precision == "fp32":
            return np.ascontiguousarray(values, dtype=np.float32), None
        return np.ascontiguousarray(values).view(np.uint16), None
    if scale is None:
        raise ValueError(f"{name} holds int8 weights; their scales are missing")
    scales = check_floats(f"scales of {name}", scale, (values.shape[1],))
    return np.ascontiguousarray(values), scales


def _check_shape(name: str, values: NDArray[Any], shape: Shape) -> None:
    fits = values.ndim == len(shape) and all(
        size == want if want is not None else size >= 1
        for size, want in zip(values.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(">= 1" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have shape [{wanted}]; got {list(values.shape)}")


def widen(array: WeightArray, scale: FloatArray | None) -> FloatArray:
    """The float32 weights that checked ones stand for: [in, out]."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    if scale is not None:
        return array.astype(np.float32) * scale
    return array


def convert(array: FloatArray, precision: Precision) -> tuple[WeightArray, FloatArray | None]:
    """float32 weights in another precision, and the scales of int8.

    bf16 rounds to nearest, ties to even. int8 is symmetric per output channel:
    `scale = max |weight| / 127`, at most half a scale of error.

    Raises:
        ValueError: A weight to become int8 is NaN or infinite.
    """
    if precision == "bf16":
        return _core.round_to_bf16(array), None
    if precision == "int8":
        return _core.quantize_columns(array)
    return array, None


class Layer(Protocol):
    """A layer whose weights have a precision."""

    @property
    def precision(self) -> Precision | None: ...  # None only before it is made

    def to(self, precision: Precision, /) -> Any: ...


LayerType = TypeVar("LayerType", bound=Layer)


def convert_all(layers: Iterable[LayerType], precision: Precision) -> tuple[LayerType, ...]:
    """The layers, those in fp32 converted to `precision`.

    Raises:
        ValueError: The precision is unknown.
    """
    require(precision)
    return tuple(layer.to(precision) if layer.precision == "fp32" else layer for layer in layers)


def precision_of_all(layers: Sequence[Layer]) -> Precision | Literal["mixed"]:
    """Precision of at least one layer, `mixed` when they differ."""
    first, *others = {layer.precision for layer in layers}
    return "mixed" if others or first is None else first


def rows_of(x: object) -> FloatArray:
    """The input of a stack of layers, C-contiguous.

    Raises:
        TypeError: x is not float32.
    """
    rows = np.asarray(x)
    if rows.dtype != np.float32:
        raise TypeError(f"x must be float32; got {rows.dtype}")
    return np.ascontiguousarray(rows)
