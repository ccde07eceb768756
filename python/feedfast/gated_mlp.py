"""Stacks of gated dense layers on the native kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from feedfast import _core

__all__ = ["GatedLayer", "GatedMLP"]

FloatArray = NDArray[np.float32]

_GATES = ("hidden", "input", None)
_ACTIVATIONS = ("relu", "linear")
_PRECISIONS = ("fp32",)


def _floats(name: str, array: FloatArray | None, shape: tuple[int | None, ...]) -> FloatArray:
    """`array` as contiguous float32 of this shape (None: any size of at least 1)."""
    if array is None:
        raise TypeError(f"{name} is required; got None")
    values = np.asarray(array)
    if values.dtype.kind != "f":
        raise TypeError(f"{name} must hold floats; got dtype {values.dtype}")
    fits = values.ndim == len(shape) and all(
        size == want if want is not None else size >= 1
        for size, want in zip(values.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(">= 1" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have shape [{wanted}]; got {list(values.shape)}")
    return np.ascontiguousarray(values, dtype=np.float32)


@dataclass(frozen=True, eq=False, slots=True)
class GatedLayer:
    """One dense layer with an optional multiplicative gate; x is a row [in], y a row [out].

    `h = activation(x @ weight + bias)`; without a gate `y = h`, with one
    `y = h * sigmoid(s @ gate_weight + gate_bias)`, where s is h (`gate="hidden"`, GateNet,
    arXiv:2007.03519) or x (`gate="input"`, GLU, arXiv:1612.08083).

    Args:
        weight: [in, out].
        bias: [out].
        gate_weight: [out, out] for a hidden gate, [in, out] for an input gate; or a pair of
            factors ([out or in, rank], [rank, out]) whose product stands for it. None without one.
        gate_bias: [out]; None without a gate.
        gate: `hidden`, `input` or None.
        activation: `relu` or `linear`.

    Arrays of another float type or layout are copied to contiguous float32.

    Raises:
        TypeError: `weight` or `bias` is None, or an array does not hold floats.
        ValueError: An array has the wrong shape, gate arrays are given without a gate or are
            missing with one, or a name is unknown. The message names the argument.
    """

    weight: FloatArray
    bias: FloatArray
    gate_weight: FloatArray | tuple[FloatArray, FloatArray] | None = None
    gate_bias: FloatArray | None = None
    gate: Literal["hidden", "input"] | None = None
    activation: Literal["relu", "linear"] = "relu"

    def __post_init__(self) -> None:
        if self.gate not in _GATES:
            raise ValueError(f"gate must be 'hidden', 'input' or None; got {self.gate!r}")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be 'relu' or 'linear'; got {self.activation!r}")
        set_field = object.__setattr__
        set_field(self, "weight", _floats("weight", self.weight, (None, None)))
        set_field(self, "bias", _floats("bias", self.bias, (self.units,)))
        if self.gate is None:
            if self.gate_weight is not None or self.gate_bias is not None:
                raise ValueError("gate_weight and gate_bias need gate='hidden' or gate='input'")
            return
        if self.gate_weight is None or self.gate_bias is None:
            raise ValueError(f"gate={self.gate!r} needs gate_weight and gate_bias")
        source = self.units if self.gate == "hidden" else self.num_inputs
        if isinstance(self.gate_weight, tuple):
            if len(self.gate_weight) != 2:
                raise ValueError(f"gate_weight must have 2 factors; got {len(self.gate_weight)}")
            down = _floats("gate_weight[0]", self.gate_weight[0], (source, None))
            up = _floats("gate_weight[1]", self.gate_weight[1], (down.shape[1], self.units))
            set_field(self, "gate_weight", (down, up))
        else:
            full = _floats("gate_weight", self.gate_weight, (source, self.units))
            set_field(self, "gate_weight", full)
        set_field(self, "gate_bias", _floats("gate_bias", self.gate_bias, (self.units,)))

    @property
    def num_inputs(self) -> int:
        """Inputs of a row."""
        return int(self.weight.shape[0])

    @property
    def units(self) -> int:
        """Outputs of a row."""
        return int(self.weight.shape[1])

    def __repr__(self) -> str:
        low_rank = (
            f", rank={self.gate_weight[0].shape[1]}" if isinstance(self.gate_weight, tuple) else ""
        )
        return (
            f"GatedLayer({self.num_inputs} -> {self.units}, gate={self.gate!r}{low_rank}, "
            f"activation={self.activation!r})"
        )

    def _native(self) -> _core.GatedLayer:
        down, up = (
            self.gate_weight if isinstance(self.gate_weight, tuple) else (None, self.gate_weight)
        )
        return _core.GatedLayer(
            self.weight,
            self.bias,
            gate_down=down,
            gate_weight=up,
            gate_bias=self.gate_bias,
            gate=self.gate or "none",
            activation=self.activation,
        )


class GatedMLP:
    """A stack of gated layers, packed once for the CPU kernels; safe to call from many threads.

    A row's output bits depend on the row, the weights and the CPU target alone: not on the batch
    around it, its position or the thread count. NaN and infinities propagate as IEEE 754 says.

    Args:
        layers: At least one layer; each takes the outputs of the one before.
        precision: `fp32`, the only one so far.

    Raises:
        ValueError: There is no layer, neighbours do not fit, or the precision is unknown.
    """

    def __init__(self, layers: Sequence[GatedLayer], precision: Literal["fp32"] = "fp32") -> None:
        if precision not in _PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(_PRECISIONS)}; got {precision!r}"
            )
        self._layers = tuple(layers)
        self._precision = precision
        self._native = _core.GatedMlp([layer._native() for layer in self._layers])

    def __call__(self, x: FloatArray, *, threads: int = 1) -> FloatArray:
        """Applies the stack to each row.

        Args:
            x: [batch, num_inputs] float32; copied first when it is not C-contiguous.
            threads: Threads that share the rows.

        Returns:
            [batch, units] float32.

        Raises:
            TypeError: x is not float32.
            ValueError: x has another shape, or threads is below 1.
        """
        rows = np.asarray(x)
        if rows.dtype != np.float32:
            raise TypeError(f"x must be float32; got {rows.dtype}")
        return self._native.forward(np.ascontiguousarray(rows), threads=threads)

    @property
    def layers(self) -> tuple[GatedLayer, ...]:
        """The layers, as given."""
        return self._layers

    @property
    def precision(self) -> str:
        """Number format of the products."""
        return self._precision

    @property
    def num_inputs(self) -> int:
        """Columns of the input."""
        return self._native.num_inputs

    @property
    def units(self) -> int:
        """Columns of the output."""
        return self._native.num_outputs

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights and biases; the layers' own arrays come on top."""
        return self._native.nbytes

    def __reduce__(self) -> tuple[type[GatedMLP], tuple[tuple[GatedLayer, ...], str]]:
        return GatedMLP, (self._layers, self._precision)

    def __repr__(self) -> str:
        sizes = " -> ".join(str(layer.units) for layer in self._layers)
        return f"GatedMLP({self.num_inputs} -> {sizes}, precision={self._precision!r})"
