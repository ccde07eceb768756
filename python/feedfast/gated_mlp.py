"""Stacks of gated dense layers on the native kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.layer_weights import (
    FloatArray,
    Precision,
    WeightArray,
    check_floats,
    check_weights,
    convert,
    convert_all,
    precision_of,
    precision_of_all,
    require,
    rows_of,
    widen,
)

__all__ = ["GatedLayer", "GatedMLP", "LayerLoss", "precision_report"]

_GATES = ("hidden", "input", None)
_ACTIVATIONS = ("relu", "linear")


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
        weight_scale: [out] float32, with int8 weights alone: `weight * weight_scale` is meant.
        gate_weight_scale: [out], or ([rank], [out]) of the two factors; as weight_scale.
        precision: What the weights hold, the same for all matrices of the layer: `fp32` (float32),
            `bf16` (ml_dtypes.bfloat16, or its bits as uint16) or `int8`. None reads it off
            `weight`; uint16 needs it.

    Arrays of another float type or layout are copied to contiguous float32; bf16 is kept as uint16.
    Biases and scales are float32 in every precision.

    Raises:
        TypeError: `weight` or `bias` is None, or an array does not hold what it should.
        ValueError: An array has the wrong shape, gate arrays are given without a gate or are
            missing with one, or a name is unknown. The message names the argument.
    """

    weight: WeightArray
    bias: FloatArray
    gate_weight: WeightArray | tuple[WeightArray, WeightArray] | None = None
    gate_bias: FloatArray | None = None
    gate: Literal["hidden", "input"] | None = None
    activation: Literal["relu", "linear"] = "relu"
    weight_scale: FloatArray | None = None
    gate_weight_scale: FloatArray | tuple[FloatArray, FloatArray] | None = None
    precision: Precision | None = None

    def __post_init__(self) -> None:
        if self.gate not in _GATES:
            raise ValueError(f"gate must be 'hidden', 'input' or None; got {self.gate!r}")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be 'relu' or 'linear'; got {self.activation!r}")
        set_field = object.__setattr__
        precision = precision_of("weight", self.weight, self.precision)
        set_field(self, "precision", precision)
        weight, scale = check_weights(
            "weight", self.weight, (None, None), self.weight_scale, precision
        )
        set_field(self, "weight", weight)
        set_field(self, "weight_scale", scale)
        set_field(self, "bias", check_floats("bias", self.bias, (self.units,)))
        if self.gate is None:
            if any(
                part is not None
                for part in (self.gate_weight, self.gate_bias, self.gate_weight_scale)
            ):
                raise ValueError("gate_weight and gate_bias need gate='hidden' or gate='input'")
            return
        if self.gate_weight is None or self.gate_bias is None:
            raise ValueError(f"gate={self.gate!r} needs gate_weight and gate_bias")
        source = self.units if self.gate == "hidden" else self.num_inputs
        if isinstance(self.gate_weight, tuple):
            if len(self.gate_weight) != 2:
                raise ValueError(f"gate_weight must have 2 factors; got {len(self.gate_weight)}")
            scales = self.gate_weight_scale if self.gate_weight_scale is not None else (None, None)
            if not isinstance(scales, tuple) or len(scales) != 2:
                raise ValueError("gate_weight_scale must be a pair, as gate_weight")
            down, down_scale = check_weights(
                "gate_weight[0]", self.gate_weight[0], (source, None), scales[0], precision
            )
            up, up_scale = check_weights(
                "gate_weight[1]",
                self.gate_weight[1],
                (down.shape[1], self.units),
                scales[1],
                precision,
            )
            set_field(self, "gate_weight", (down, up))
            pair = None if down_scale is None else (down_scale, up_scale)
            set_field(self, "gate_weight_scale", pair)
        else:
            full, scale = check_weights(
                "gate_weight",
                self.gate_weight,
                (source, self.units),
                self.gate_weight_scale,
                precision,
            )
            set_field(self, "gate_weight", full)
            set_field(self, "gate_weight_scale", scale)
        set_field(self, "gate_bias", check_floats("gate_bias", self.gate_bias, (self.units,)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The layer's arrays by the names of the model store: `weight`, `bias`, `gate_down`,
        `gate_weight`, `gate_bias` and, in int8, `weight_scale`, `gate_down_scale`,
        `gate_weight_scale`; bf16 as uint16. What the layer has not is left out.
        """
        down, up = _pair(self.gate_weight)
        down_scale, up_scale = _pair(self.gate_weight_scale)
        named = {
            "weight": self.weight,
            "weight_scale": self.weight_scale,
            "bias": self.bias,
            "gate_down": down,
            "gate_down_scale": down_scale,
            "gate_weight": up,
            "gate_weight_scale": up_scale,
            "gate_bias": self.gate_bias,
        }
        return {name: array for name, array in named.items() if array is not None}

    @staticmethod
    def from_arrays(
        arrays: Mapping[str, NDArray[Any]],
        *,
        gate: Literal["hidden", "input"] | None,
        activation: Literal["relu", "linear"],
        precision: Precision | None = None,
    ) -> GatedLayer:
        """The layer whose `arrays()` these are; further names are passed over.

        Raises:
            KeyError: `weight` or `bias` is missing.
            TypeError, ValueError: As the constructor.
        """
        gate_weight: Any = arrays.get("gate_weight")
        gate_scale: Any = arrays.get("gate_weight_scale")
        if "gate_down" in arrays:
            gate_weight = (arrays["gate_down"], gate_weight)
            down_scale = arrays.get("gate_down_scale")
            gate_scale = None if down_scale is gate_scale is None else (down_scale, gate_scale)
        return GatedLayer(
            arrays["weight"],
            arrays["bias"],
            gate_weight,
            arrays.get("gate_bias"),
            gate,
            activation,
            weight_scale=arrays.get("weight_scale"),
            gate_weight_scale=gate_scale,
            precision=precision,
        )

    def to(self, precision: Precision) -> GatedLayer:
        """The layer with weights of another precision; itself when it has that one.

        bf16 rounds to nearest, ties to even; int8 is symmetric with a scale per output channel,
        `max |weight| / 127`. A layer that is not fp32 is widened first.

        Raises:
            ValueError: The precision is unknown, or a weight to become int8 is NaN or infinite.
        """
        require(precision)
        if precision == self.precision:
            return self
        named = self.arrays()
        for name in ("weight", "gate_down", "gate_weight"):
            if name in named:
                wide = widen(named[name], named.pop(f"{name}_scale", None))
                named[name], scale = convert(wide, precision)
                if scale is not None:
                    named[f"{name}_scale"] = scale
        return GatedLayer.from_arrays(
            named, gate=self.gate, activation=self.activation, precision=precision
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays().values())

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
        precision = "" if self.precision == "fp32" else f", precision={self.precision!r}"
        return (
            f"GatedLayer({self.num_inputs} -> {self.units}, gate={self.gate!r}{low_rank}, "
            f"activation={self.activation!r}{precision})"
        )

    def _native(self) -> _core.GatedLayer:
        down, up = _pair(self.gate_weight)
        down_scale, up_scale = _pair(self.gate_weight_scale)
        return _core.GatedLayer(
            self.weight,
            self.bias,
            weight_scale=self.weight_scale,
            gate_down=down,
            gate_down_scale=down_scale,
            gate_weight=up,
            gate_weight_scale=up_scale,
            gate_bias=self.gate_bias,
            gate=self.gate or "none",
            activation=self.activation,
        )


def _pair(factors: Any) -> tuple[Any, Any]:
    """(down, up) of a low-rank gate; (None, the one matrix) otherwise."""
    return factors if isinstance(factors, tuple) else (None, factors)


class GatedMLP:
    """A stack of gated layers, packed once for the CPU kernels; safe to call from many threads.

    A row's output bits depend on the row, the weights, `num_shared` and the CPU target alone: not
    on the batch around it, its position or the thread count. NaN and infinities propagate as IEEE
    754 says; in an int8 layer they make every output of their row NaN.

    bf16 layers round their inputs to bfloat16 and sum in float32. int8 layers read each row of
    inputs in 256 steps between its minimum and maximum (zero included), found as they run, and sum
    in exact integers.

    Args:
        layers: At least one layer; each takes the outputs of the one before. Precisions may differ.
        precision: `bf16` and `int8` convert the layers that are fp32 and leave the others as they
            are; `fp32` converts nothing.
        num_shared: Inputs at the front of a row that an int8 first layer reads in steps of their
            own: what all candidates of a request share. A scorer sums them once per request; give
            its number to get its bits. Other first layers do not need it.

    Raises:
        ValueError: There is no layer, neighbours do not fit, the precision is unknown, or
            num_shared is not between 0 and the inputs.
    """

    def __init__(
        self,
        layers: Sequence[GatedLayer],
        precision: Precision = "fp32",
        *,
        num_shared: int = 0,
    ) -> None:
        self._layers = convert_all(layers, precision)
        self._native = _core.GatedMlp(
            [layer._native() for layer in self._layers], num_shared=num_shared
        )

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
        return self._native.forward(rows_of(x), threads=threads)

    @property
    def layers(self) -> tuple[GatedLayer, ...]:
        """The layers, converted."""
        return self._layers

    @property
    def precision(self) -> Precision | Literal["mixed"]:
        """Precision of the layers, `mixed` when they differ."""
        return precision_of_all(self._layers)

    @property
    def num_shared(self) -> int:
        """Inputs that an int8 first layer reads in steps of their own."""
        return self._native.num_shared

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
        """Bytes of the packed weights, scales and biases; the layers' own arrays come on top."""
        return self._native.nbytes

    @property
    def native(self) -> _core.GatedMlp:
        """The stack as the scorer takes it."""
        return self._native

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._layers, self.num_shared)

    def __repr__(self) -> str:
        sizes = " -> ".join(str(layer.units) for layer in self._layers)
        return f"GatedMLP({self.num_inputs} -> {sizes}, precision={self.precision!r})"


def _rebuild(layers: tuple[GatedLayer, ...], num_shared: int) -> GatedMLP:
    return GatedMLP(layers, num_shared=num_shared)


@dataclass(frozen=True, slots=True)
class LayerLoss:
    """What one layer of a stack loses by a smaller precision, on given inputs."""

    layer: int
    precision: Precision
    nbytes: int
    """Bytes of the layer's arrays in that precision."""
    own_max: float
    """Largest change of the layer's own outputs, its inputs being those of the fp32 stack."""
    own_rms: float
    """Root mean square of that change."""
    output_max: float
    """Largest change of the stack's outputs when this layer alone is converted."""
    output_rms: float
    """Root mean square of that change."""


def precision_report(
    layers: Sequence[GatedLayer],
    x: FloatArray,
    precision: Precision,
    *,
    num_shared: int = 0,
    threads: int = 1,
) -> list[LayerLoss]:
    """Which layers lose what when they are converted, one at a time, to `precision`.

    Args:
        layers: The stack; layers of another precision than fp32 are widened first.
        x: [batch, num_inputs] float32, inputs like those to be served.
        precision: `bf16` or `int8`; `fp32` reports zeros.
        num_shared: As in GatedMLP.
        threads: Threads that share the rows.

    Returns:
        One entry per layer, in order. Changes are absolute, in the units of the outputs.

    Raises:
        TypeError, ValueError: As GatedMLP and its call.
    """
    wide = [layer.to("fp32") for layer in layers]
    inputs = [x]
    for layer in wide:
        inputs.append(GatedMLP([layer])(inputs[-1], threads=threads))
    report = []
    for i, layer in enumerate(wide):
        low = layer.to(precision)
        shared = num_shared if i == 0 else 0
        own = GatedMLP([low], num_shared=shared)(inputs[i], threads=threads)
        rest = wide[i + 1 :]
        output = GatedMLP(rest)(own, threads=threads) if rest else own
        own_max, own_rms = _size(own - inputs[i + 1])
        output_max, output_rms = _size(output - inputs[-1])
        report.append(LayerLoss(i, precision, low.nbytes, own_max, own_rms, output_max, output_rms))
    return report


def _size(change: FloatArray) -> tuple[float, float]:
    if change.size == 0:
        return 0.0, 0.0
    wide = change.astype(np.float64)
    return float(np.abs(wide).max()), float(np.sqrt(np.mean(np.square(wide))))
