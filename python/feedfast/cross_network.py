"""Cross networks (DCN V2) on the native kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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

__all__ = ["CrossNetwork", "CrossWeights"]


@dataclass(frozen=True, eq=False, slots=True)
class CrossWeights:
    """The arrays of one cross layer (DCN V2, arXiv:2008.13535, equations 1 and 2).

    `x_{l+1} = x_0 * (x_l @ down @ weight + bias) + x_l`, where x_0 is the network's input and
    `down` is left out at full rank; all rows are [size].

    Args:
        weight: [size, size], or [rank, size] with `down`.
        bias: [size] float32.
        down: [size, rank]; None at full rank.
        weight_scale: [size] float32, with int8 weights alone.
        down_scale: [rank] float32, with int8 weights alone.
        precision: What the matrices hold, as in GatedLayer.

    Raises:
        TypeError: `weight` or `bias` is None, or an array does not hold what it should.
        ValueError: An array has the wrong shape, or scales are missing or given without int8.
    """

    weight: WeightArray
    bias: FloatArray
    down: WeightArray | None = None
    weight_scale: FloatArray | None = None
    down_scale: FloatArray | None = None
    precision: Precision | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        precision = precision_of("weight", self.weight, self.precision)
        set_field(self, "precision", precision)
        rank = None
        if self.down is not None:
            down, scale = check_weights("down", self.down, (None, None), self.down_scale, precision)
            set_field(self, "down", down)
            set_field(self, "down_scale", scale)
            rank = down.shape[1]
        elif self.down_scale is not None:
            raise ValueError("down_scale needs down")
        weight, scale = check_weights(
            "weight", self.weight, (rank, None), self.weight_scale, precision
        )
        set_field(self, "weight", weight)
        set_field(self, "weight_scale", scale)
        inputs = weight.shape[0] if self.down is None else self.down.shape[0]
        if inputs != self.size:
            name = "weight" if self.down is None else "down"
            raise ValueError(f"{name} has {inputs} rows; the layer has {self.size} outputs")
        set_field(self, "bias", check_floats("bias", self.bias, (self.size,)))

    @property
    def size(self) -> int:
        """Inputs, and outputs, of a row."""
        return int(self.weight.shape[1])

    @property
    def rank(self) -> int | None:
        """Columns of `down`; None at full rank."""
        return None if self.down is None else int(self.down.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The layer's arrays by the names of the model store: `weight`, `bias`, `down` and, in
        int8, `weight_scale`, `down_scale`; bf16 as uint16. What the layer has not is left out.
        """
        named = {
            "weight": self.weight,
            "weight_scale": self.weight_scale,
            "bias": self.bias,
            "down": self.down,
            "down_scale": self.down_scale,
        }
        return {name: array for name, array in named.items() if array is not None}

    @staticmethod
    def from_arrays(
        arrays: Mapping[str, NDArray[Any]], *, precision: Precision | None = None
    ) -> CrossWeights:
        """The layer whose `arrays()` these are; further names are passed over.

        Raises:
            KeyError: `weight` or `bias` is missing.
            TypeError, ValueError: As the constructor.
        """
        return CrossWeights(
            arrays["weight"],
            arrays["bias"],
            arrays.get("down"),
            weight_scale=arrays.get("weight_scale"),
            down_scale=arrays.get("down_scale"),
            precision=precision,
        )

    def to(self, precision: Precision) -> CrossWeights:
        """The layer with weights of another precision, converted as by `GatedLayer.to`.

        Raises:
            ValueError: The precision is unknown, or a weight to become int8 is NaN or infinite.
        """
        require(precision)
        if precision == self.precision:
            return self
        named = self.arrays()
        for name in ("weight", "down"):
            if name in named:
                wide = widen(named[name], named.pop(f"{name}_scale", None))
                named[name], scale = convert(wide, precision)
                if scale is not None:
                    named[f"{name}_scale"] = scale
        return CrossWeights.from_arrays(named, precision=precision)

    def __repr__(self) -> str:
        return f"CrossWeights({self.size}, rank={self.rank}, precision={self.precision!r})"

    def _native(self) -> _core.CrossLayer:
        return _core.CrossLayer(
            self.weight,
            self.bias,
            weight_scale=self.weight_scale,
            down=self.down,
            down_scale=self.down_scale,
        )


class CrossNetwork:
    """A stack of cross layers, packed once for the CPU kernels; safe to call from many threads.

    A row's output bits depend on the row, the weights and the CPU target alone.

    Args:
        layers: At least one layer, all of one size. Precisions may differ.
        precision: `bf16` and `int8` convert the layers that are fp32 and leave the others as they
            are; `fp32` converts nothing. Products are those of GatedMLP.

    Raises:
        ValueError: There is no layer, sizes differ, or the precision is unknown.
    """

    def __init__(self, layers: Sequence[CrossWeights], precision: Precision = "fp32") -> None:
        self._layers = convert_all(layers, precision)
        self._native = _core.CrossNetwork([layer._native() for layer in self._layers])

    def __call__(self, x: FloatArray, *, threads: int = 1) -> FloatArray:
        """Applies the stack to each row.

        Args:
            x: [batch, size] float32; copied first when it is not C-contiguous.
            threads: Threads that share the rows.

        Returns:
            [batch, size] float32.

        Raises:
            TypeError: x is not float32.
            ValueError: x has another shape, or threads is below 1.
        """
        return self._native.forward(rows_of(x), threads=threads)

    @property
    def layers(self) -> tuple[CrossWeights, ...]:
        """The layers, converted."""
        return self._layers

    @property
    def precision(self) -> Precision | Literal["mixed"]:
        """Precision of the layers, `mixed` when they differ."""
        return precision_of_all(self._layers)

    @property
    def size(self) -> int:
        """Columns of the input and of the output."""
        return self._native.size

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights, scales and biases."""
        return self._native.nbytes

    @property
    def native(self) -> _core.CrossNetwork:
        """The network as the scorer takes it."""
        return self._native

    def __reduce__(self) -> tuple[type[CrossNetwork], tuple[tuple[CrossWeights, ...]]]:
        return CrossNetwork, (self._layers,)

    def __repr__(self) -> str:
        return (
            f"CrossNetwork({self.size}, layers={len(self._layers)}, precision={self.precision!r})"
        )
