"""Clipping by the norm of all gradients of a model, wherever they are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.comm import Engine

__all__ = ["clip_multiplier", "sum_of_squares"]

_CHUNK = 1 << 16


def sum_of_squares(arrays: Iterable[NDArray[np.float32]]) -> float:
    """Of all elements, in float64; the order depends on the sizes alone."""
    total = 0.0
    for array in arrays:
        flat = array.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            total += float(np.sum(np.square(flat[start : start + _CHUNK], dtype=np.float64)))
    return total


def clip_multiplier(
    engine: Engine, clip_norm: float, *, replicated: float, owned: float | None
) -> float:
    """What to multiply all gradients by so that their common norm is at most `clip_norm`.

    Args:
        engine: Of the processes.
        clip_norm: Largest norm, above 0.
        replicated: Sum of squares of the gradients that all processes have.
        owned: Of those that this process alone has; None where no process has any. Summed over
            the processes by one all-reduce.

    Raises:
        FloatingPointError: The norm is not finite; in all processes alike.
    """
    total: NDArray[Any] = np.asarray([0.0 if owned is None else owned])
    if owned is not None and engine.size > 1:
        engine.all_reduce(total, name="feedfast_window_norm")
    norm = math.sqrt(replicated + float(total[0]))
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"the global norm of the gradients is {norm}; the weights were left as they were"
        )
    return clip_norm / max(norm, clip_norm)
