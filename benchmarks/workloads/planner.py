"""Does the planner's cost model order plans as the machine does, and is its plan a good one?

Processes of this machine exchange over shared memory. They measure the machine for the cost model
(`feedfast.sharding.calibration`), then time random plans and the planner's own in turns. No two of
the plans are the same but for the numbers of the ranks, and the tables are such that it matters
where they are: else the order of the plans is that of the noise. Rows: the rank correlation of
predicted and measured steps (target 0.9), and that of the measurement with itself, odd rounds with
even ones; how far off predictions are, over all and without their common factor; the planner's plan
beside the best of the random ones.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from feedfast.bench import BenchOptions, BenchRow, row
from feedfast.comm.launch import run_local

_PROGRAM = Path(__file__).parent / "planner_parts" / "rank_program.py"
_MIN_CORRELATION = 0.9


def run(options: BenchOptions) -> Iterator[BenchRow]:
    # Steps on two processes are shorter and more alike: more rounds.
    sizes = ((2, 6, 2),) if options.quick else ((2, 28, 30), (4, 28, 14))
    for processes, plans, rounds in sizes:
        measured = _measure(processes, plans, rounds)
        yield from rows_of(f"planner/processes={processes}/plans={plans}", measured)


def rows_of(name: str, measured: dict[str, Any]) -> Iterator[BenchRow]:
    """The rows of one measurement; the planner's plan is the last."""
    predicted, taken = np.array(measured["predicted"]), np.array(measured["measured"])
    yield row(
        f"{name}/rank_correlation",
        _rank_correlation(predicted[:-1], taken[:-1]),
        "share",
        peer="the same order",
        peer_value=1.0,
        target=1.0 / _MIN_CORRELATION,
        smaller_is_better=False,
    )
    halves = [np.array(half)[:-1] for half in measured["halves"]]
    yield row(f"{name}/halves_of_the_rounds", _rank_correlation(*halves), "share")
    factors = predicted[:-1] / taken[:-1]
    yield row(f"{name}/prediction_over_measured", float(np.median(factors)), "share")
    spread = np.abs(factors / np.median(factors) - 1.0)
    yield row(f"{name}/median_error_without_factor", float(np.median(spread)), "share")
    yield row(
        f"{name}/planned_step",
        1e3 * float(taken[-1]),
        "ms",
        peer="the best of the random plans",
        peer_value=1e3 * float(taken[:-1].min()),
        target=1.1,
    )
    yield row(
        f"{name}/planned_step_and_median",
        1e3 * float(taken[-1]),
        "ms",
        peer="the median of the random plans",
        peer_value=1e3 * float(np.median(taken[:-1])),
        target=1.0,
    )


def _measure(processes: int, plans: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="feedfast_planner_") as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, str(_PROGRAM), str(result), str(plans), str(rounds)]
        # One thread each: the processes are the parallelism.
        status = run_local(command, processes, environment={"OMP_NUM_THREADS": "1"})
        if status:
            raise RuntimeError(f"{_PROGRAM.name} ended with status {status}")
        document: dict[str, Any] = json.loads(result.read_text())
    return document


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's: the correlation of the positions in ascending order."""
    positions = np.argsort(np.argsort([first, second], axis=1), axis=1)
    return float(np.corrcoef(positions)[0, 1])
