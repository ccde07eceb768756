"""The widest net under a latency budget, measured with random weights before any training."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.gated_mlp import GatedLayer
from feedfast.ranker_artifact import RankerArtifact, publish_ranker
from feedfast.scorer import Scorer
from feedfast.store import ModelStore
from feedfast.synthetic_ranker import (
    RankerShape,
    random_artifact,
    random_request,
    random_towers,
)

__all__ = ["LatencyPoint", "RequestTimer", "plan_latency", "scaled_units", "widest"]

# Widths are multiples of it: the columns of a register tile.
WIDTH_STEP = 32
_NUM_REQUESTS = 16
# Other work on the machine only adds time: a net whose tail alone is too slow is measured again.
_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyPoint:
    """One measured net.

    Attributes:
        ids: Whether it reads member and hashtag embeddings.
        units: Width of each hidden layer of every tower.
        num_weights: Weights and biases of all towers and of the cross network.
        p50_ms: Median time of a request.
        p99_ms: 99th percentile.
        fits: Whether p99_ms is within the budget.
    """

    ids: bool
    units: tuple[int, ...]
    num_weights: int
    p50_ms: float
    p99_ms: float
    fits: bool


class RequestTimer:
    """Times requests to rankers of one shape but different widths; a context manager.

    Tables and vocabularies are written once, into a store in a temporary folder.
    """

    def __init__(
        self,
        shape: RankerShape,
        *,
        candidates: int,
        threads: int = 1,
        precision: str | Mapping[str, str] = "fp32",
        rounds: int = 200,
    ) -> None:
        """`rounds` requests are timed per width, of several that take turns.

        `precision` is that of `publish_ranker`.

        Raises:
            ValueError: `candidates`, `threads` or `rounds` is below 1.
        """
        for name, count in (("candidates", candidates), ("threads", threads), ("rounds", rounds)):
            if count < 1:
                raise ValueError(f"{name} must be >= 1; got {count}")
        self._shape = shape
        self._threads = threads
        self._precision = precision
        self._rounds = rounds
        self._artifact = random_artifact(shape)
        rng = np.random.default_rng(1)
        self._requests = [random_request(rng, shape, candidates) for _ in range(_NUM_REQUESTS)]
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> RequestTimer:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def __call__(self, units: tuple[int, ...]) -> tuple[int, NDArray[np.float64]]:
        """(weights of cross network and towers, seconds of each request [rounds])."""
        shape = dataclasses.replace(self._shape, units=units)
        towers = random_towers(np.random.default_rng(2), shape)
        artifact = dataclasses.replace(self._artifact, towers=towers)
        folder = Path(self._folder.name)
        publish_ranker(ModelStore(folder), "plan", artifact, precision=self._precision)
        scorer = Scorer.open(folder, "plan", threads=self._threads)
        for request in self._requests:
            scorer.score(request)
        seconds = np.zeros(self._rounds)
        for i in range(self._rounds):
            request = self._requests[i % len(self._requests)]
            start = time.perf_counter()
            scorer.score(request)
            seconds[i] = time.perf_counter() - start
        return _num_weights(artifact), seconds


def plan_latency(
    measure: Callable[[tuple[int, ...]], tuple[int, NDArray[np.float64]]],
    shape: RankerShape,
    *,
    ids: bool,
    budget_ms: float,
    largest: int = 8192,
    on_point: Callable[[LatencyPoint], None] | None = None,
) -> list[LatencyPoint]:
    """Measures widths until the widest net under the budget is found, to `WIDTH_STEP` units.

    Widths double from `WIDTH_STEP` until one breaks the budget, then the gap is halved. A net of
    first width w has the layers of `scaled_units(shape.units, w)`. One whose median fits but whose
    99th percentile does not is measured up to three times, and the least percentile counts.

    Args:
        measure: (weights, seconds of each request) of a net of these units: `RequestTimer`.
        shape: Whose `units` are scaled.
        ids: What the points say of the shape.
        budget_ms: Largest 99th percentile.
        largest: No first layer is wider.
        on_point: Called after every measurement.

    Returns:
        The points in ascending width; none of them fits where even the narrowest net is too slow.

    Raises:
        ValueError: The budget is not above 0, `largest` is below `WIDTH_STEP`, or the shape has no
            hidden layers.
    """
    if not budget_ms > 0:
        raise ValueError(f"p99 must be > 0 ms; got {budget_ms}")
    if largest < WIDTH_STEP:
        raise ValueError(f"largest width must be >= {WIDTH_STEP}; got {largest}")
    if not shape.units:
        raise ValueError("the towers have no hidden layers, so there is no width to choose")
    points: dict[int, LatencyPoint] = {}

    def fits(width: int) -> bool:
        units = scaled_units(shape.units, width)
        p50 = p99 = math.inf
        for _ in range(_ATTEMPTS):
            num_weights, seconds = measure(units)
            tail = 1e3 * float(np.percentile(seconds, 99))
            if tail < p99:
                p50, p99 = 1e3 * float(np.median(seconds)), tail
            if p99 <= budget_ms or p50 > budget_ms:
                break
        points[width] = LatencyPoint(
            ids=ids,
            units=units,
            num_weights=num_weights,
            p50_ms=p50,
            p99_ms=p99,
            fits=p99 <= budget_ms,
        )
        if on_point is not None:
            on_point(points[width])
        return points[width].fits

    good, bad = 0, WIDTH_STEP
    while bad <= largest and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, largest // WIDTH_STEP * WIDTH_STEP + WIDTH_STEP)
    while bad - good > WIDTH_STEP:
        middle = (good + bad) // 2 // WIDTH_STEP * WIDTH_STEP
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return [points[width] for width in sorted(points)]


def widest(points: list[LatencyPoint]) -> LatencyPoint | None:
    """The point of most weights that fits; None: none does."""
    return max((p for p in points if p.fits), key=lambda p: p.num_weights, default=None)


def scaled_units(units: tuple[int, ...], width: int) -> tuple[int, ...]:
    """`units` in proportion, the first one `width`, the others rounded to half a step."""
    half = WIDTH_STEP // 2
    others = (max(half, round(width * u / units[0] / half) * half) for u in units[1:])
    return (width, *others)


def _num_weights(artifact: RankerArtifact) -> int:
    def size(*arrays: NDArray[Any] | None) -> int:
        return sum(array.size for array in arrays if array is not None)

    def count(layer: GatedLayer) -> int:
        gate = layer.gate_weight
        gates = gate if isinstance(gate, tuple) else (gate,)
        biases = 1 if layer.gate_bias is None else 2
        return size(layer.weight, *gates) + biases * layer.units

    return sum(count(layer) for layers in artifact.towers.values() for layer in layers) + sum(
        size(layer.weight, layer.bias, layer.down) for layer in artifact.cross
    )
