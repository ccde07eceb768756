"""Monotone piecewise-linear calibrators: from sigmoid(logit) to a calibrated probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_KNOTS = 4096


@dataclass(frozen=True, eq=False, slots=True)
class Calibrator:
    """Knots of a monotone piecewise-linear map of probabilities.

    A value between two knots is interpolated, one outside takes the first or last y. All float32:
    y0 + (p - x0) * ((y1 - y0) / (x1 - x0)), each step rounded, which gives the scorer's bits.

    Attributes:
        x: [knots] float32, strictly ascending, in [0, 1]; at least one knot.
        y: [knots] float32, never falling, in [0, 1].
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            values = getattr(self, name)
            if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.ndim != 1:
                raise ValueError(f"calibrator: {name} must be float32 with 1 dimension")
            wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
            if wrong.size:
                raise ValueError(
                    f"calibrator: {name}[{wrong[0]}] = {values[wrong[0]]}; allowed: 0 to 1"
                )
        if self.x.shape != self.y.shape or not 1 <= self.x.size <= MAX_KNOTS:
            raise ValueError(
                f"calibrator: x and y need the same number of knots, 1 to {MAX_KNOTS}; "
                f"got {self.x.size} and {self.y.size}"
            )
        for name, falls in (("x", np.diff(self.x) <= 0), ("y", np.diff(self.y) < 0)):
            if falls.any():
                where = int(np.argmax(falls)) + 1
                raise ValueError(f"calibrator: {name}[{where}] does not ascend")
        steep = np.flatnonzero(~np.isfinite(self._slopes()))
        if steep.size:
            raise ValueError(
                f"calibrator: x[{steep[0] + 1}] is too close to x[{steep[0]}]: "
                "the slope between them is not finite"
            )

    def _slopes(self) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            slopes: NDArray[np.float32] = np.diff(self.y) / np.diff(self.x)
        return slopes

    def __call__(self, probabilities: ArrayLike) -> NDArray[np.float32]:
        """Calibrated probabilities, same shape as the input."""
        p = np.asarray(probabilities, dtype=np.float32)
        if self.x.size == 1:
            return np.full(p.shape, self.y[0])
        left = np.clip(np.searchsorted(self.x, p, side="right") - 1, 0, self.x.size - 2)
        inside = self.y[left] + (p - self.x[left]) * self._slopes()[left]
        result = np.where(p <= self.x[0], self.y[0], np.where(p >= self.x[-1], self.y[-1], inside))
        return result.astype(np.float32, copy=False)


def calibrators_to_tensors(
    calibrators: Mapping[str, Calibrator],
) -> dict[str, NDArray[np.float32]]:
    """The model store's section `calibrators`: tensors `<objective>/x` and `<objective>/y`.

    An objective without a calibrator has no tensors, and its probability stays sigmoid(logit).
    """
    return {
        f"{objective}/{name}": getattr(calibrator, name)
        for objective, calibrator in calibrators.items()
        for name in ("x", "y")
    }


def calibrators_from_tensors(
    tensors: Mapping[str, NDArray[np.float32]], objectives: Sequence[str]
) -> dict[str, Calibrator]:
    """Reads what `calibrators_to_tensors` wrote.

    Raises:
        ValueError: A tensor belongs to no objective, or the knots of one are not valid.
    """
    known = {f"{objective}/{name}" for objective in objectives for name in ("x", "y")}
    for name in tensors:
        if name not in known:
            raise ValueError(f"calibrators: tensor {name!r} belongs to none of {list(objectives)}")
    found: dict[str, Calibrator] = {}
    for objective in objectives:
        x, y = (tensors.get(f"{objective}/{name}") for name in ("x", "y"))
        if x is None and y is None:
            continue
        if x is None or y is None:
            raise ValueError(f"calibrators: {objective!r} has x or y alone")
        try:
            found[objective] = Calibrator(x, y)
        except ValueError as error:
            raise ValueError(f"calibrators: {objective!r}: {error}") from None
    return found
