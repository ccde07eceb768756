"""Runner and row format of `feedfast bench`; the workloads live in the repository's `benchmarks/`.

A row compares feedfast with a peer that ran interleaved with it in the same process, so a ratio
means the same on a busy machine and on a quiet one. Absolute times decide nothing.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np

Unit = Literal[
    "ns",
    "us",
    "ms",
    "s",
    "bytes",
    "bits/key",
    "bytes/key",
    "share",
    "GFLOP/s",
    "examples/s",
    "rows/s",
    "exchanges",
]

_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchOptions:
    """How a workload runs: `threads` for every measured side; `quick` for smoke tests of it.

    `only` names one part of a workload that has parts; the others ignore it.
    """

    threads: int = 1
    quick: bool = False
    only: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRow:
    """One figure. `ratio` is value / peer_value when smaller is better, else its inverse.

    So a ratio below 1 always means better than the peer, and `met` is `ratio <= target`.
    """

    name: str
    value: float
    unit: Unit
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    target: float | None = None
    met: bool | None = None

    def as_dict(self) -> dict[str, object]:
        """The row as JSON-ready keys: name, value, unit, peer, peer_value, ratio, target, met."""
        return asdict(self)


def row(
    name: str,
    value: float,
    unit: Unit,
    *,
    peer: str | None = None,
    peer_value: float | None = None,
    target: float | None = None,
    smaller_is_better: bool = True,
) -> BenchRow:
    """A row with its ratio and verdict filled in (`target` is a ratio, as in `BenchRow`)."""
    ratio = None
    if peer_value is not None:
        ratio = value / peer_value if smaller_is_better else peer_value / value
    met = None if ratio is None or target is None else ratio <= target
    return BenchRow(
        name=name,
        value=value,
        unit=unit,
        peer=peer,
        peer_value=peer_value,
        ratio=ratio,
        target=target,
        met=met,
    )


def time_interleaved(
    functions: list[Callable[[], object]], *, repeats: int, min_time_s: float = 0.0
) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Seconds per call of each function, one array [rounds] each, measured in turns.

    Every function is called once untimed. Rounds go on until there are `repeats` of them and
    `min_time_s` has passed, so that drift of the machine hits all functions alike.
    """
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    start = time.perf_counter()
    while len(times[0]) < repeats or time.perf_counter() - start < min_time_s:
        for function, taken in zip(functions, times, strict=True):
            before = time.perf_counter()
            function()
            taken.append(time.perf_counter() - before)
    return [np.asarray(taken) for taken in times]


def compare(
    name: str,
    ours: Callable[[], object],
    peer: Callable[[], object] | None,
    *,
    peer_name: str | None = None,
    unit: Literal["ns", "us", "ms", "s"] = "us",
    work: int = 1,
    target: float | None = None,
    repeats: int = 15,
    percentile: float = 50.0,
) -> BenchRow:
    """Times `ours` and `peer` in turns and compares a percentile of their time per unit of work.

    Args:
        name: Path of the row, e.g. `lookup/rows=1000000/dim=64/pooling=sum`.
        ours, peer: The calls to time; inputs are built before.
        peer_name: What `peer` is, as people call it.
        unit: Unit of the reported time.
        work: Units of work of one call (keys, rows, requests); the time is divided by it.
        target: Largest ratio to the peer at which the row counts as met.
        repeats: Timed calls of each side.
        percentile: 50 for the median, 99 for the tail.
    """
    functions = [ours] if peer is None else [ours, peer]
    times = time_interleaved(functions, repeats=repeats)
    scale = 1.0 / (_SECONDS[unit] * work)
    values = [float(np.percentile(taken, percentile)) * scale for taken in times]
    return row(
        name,
        values[0],
        unit,
        peer=peer_name,
        peer_value=values[1] if peer is not None else None,
        target=target,
    )


class Workload(Protocol):
    """The module interface of `benchmarks/workloads/<name>.py`."""

    def run(self, options: BenchOptions) -> Iterator[BenchRow]:
        """Yields rows as they are measured."""


def find_workloads(start: Path | None = None) -> Path:
    """The folder `benchmarks/workloads` of the feedfast checkout around `start`.

    Args:
        start: Folder to search upwards from; default the working directory.

    Raises:
        FileNotFoundError: Neither `start` nor a folder above it is a checkout of feedfast.
    """
    origin = (start or Path.cwd()).resolve()
    for folder in (origin, *origin.parents):
        workloads = folder / "benchmarks" / "workloads"
        if workloads.is_dir():
            return workloads
    raise FileNotFoundError(
        f"no benchmarks/workloads folder in {origin} or above; the workloads are not part of the "
        "wheel: run `feedfast bench` inside a checkout of the feedfast repository"
    )


def workload_names(workloads: Path) -> list[str]:
    """Names of the workloads in a folder, sorted."""
    return sorted(path.stem for path in workloads.glob("*.py") if not path.stem.startswith("_"))


def load_workload(name: str, workloads: Path) -> Workload:
    """Imports one workload by name.

    Raises:
        ValueError: There is no workload of that name; the message lists those there are.
    """
    path = workloads / f"{name}.py"
    if name not in workload_names(workloads):
        raise ValueError(
            f"no benchmark named {name!r}; there are: {', '.join(workload_names(workloads))}"
        )
    spec = importlib.util.spec_from_file_location(f"feedfast_workload_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return cast(Workload, module)
