"""Naive double-precision pooled lookup."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def pooled_lookup(
    table: npt.NDArray[np.floating],
    values: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    weights: npt.NDArray[np.floating] | None,
    pooling: str,
) -> npt.NDArray[np.float64]:
    rows = np.asarray(table, np.float64)
    factors = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    out = np.zeros((len(offsets) - 1, rows.shape[1]))
    for bag in range(len(out)):
        w = factors[offsets[bag] : offsets[bag + 1]]
        divisor = {"sum": 1.0, "mean": w.sum(), "sqrtn": np.sqrt((w**2).sum())}[pooling]
        if divisor != 0.0:
            out[bag] = w @ rows[values[offsets[bag] : offsets[bag + 1]]] / divisor
    return out
