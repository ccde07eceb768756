"""How far the slowest calls are from the median, and what makes them slow.

Ours takes turns with a loop of additions in the first-level cache that is as long as its median:
that loop touches no memory, takes no lock and makes no system call, so its own tail is the
machine's. Calls during which the thread was preempted are counted, and the tail is told without
them too. Requests do not come again until 64 others have, so rows are read from memory.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import request_model
from numpy.typing import NDArray

from feedfast.bench import BenchOptions, BenchRow, row

from . import common

# Candidates to rounds.
SIZES = {1: 2000, 50: 1500, 200: 800, 500: 500, 1500: 200}
QUICK_SIZES = {1: 10, 50: 3}
PRECISIONS = ("fp32", "int8")
NUM_REQUESTS = 64
# p99 within this factor of p50.
TARGET = 1.5
COMPUTE = "additions in the first-level cache, as long"


class Calls(NamedTuple):
    """[rounds] seconds, page faults and preemptions of each call.

    The arrays are there before the first call, so that no fault is one of keeping the figures.
    """

    seconds: NDArray[np.float64]
    faults: NDArray[np.int64]
    preempted: NDArray[np.int64]

    @classmethod
    def of(cls, rounds: int) -> Calls:
        return cls(np.ones(rounds), np.ones(rounds, np.int64), np.ones(rounds, np.int64))

    def take(self, i: int, function: Callable[[], object]) -> None:
        """Measures the call of round i."""
        before = resource.getrusage(resource.RUSAGE_THREAD)
        start = time.perf_counter()
        function()
        self.seconds[i] = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_THREAD)
        self.faults[i] = after.ru_minflt - before.ru_minflt + after.ru_majflt - before.ru_majflt
        self.preempted[i] = after.ru_nivcsw - before.ru_nivcsw


def run(options: BenchOptions) -> Iterator[BenchRow]:
    if options.threads != 1:
        raise ValueError("request tail counts what happens to one thread; run it with --threads 1")
    model = request_model.build(threads=1, quick=options.quick)
    with tempfile.TemporaryDirectory() as folder:
        scorers = common.open_scorers(Path(folder), model.artifact, options, PRECISIONS)
        for candidates, rounds in (QUICK_SIZES if options.quick else SIZES).items():
            requests = common.make_requests(model, candidates, NUM_REQUESTS)
            for precision, scorer in scorers.items():
                for request in requests:
                    scorer.score(request)
                name = f"request/tail/candidates={candidates}/precision={precision}"
                ours = common.in_turn(scorer.score, requests)
                yield from _rows(name, *_measure(ours, rounds))


def _measure(ours: Callable[[], object], rounds: int) -> tuple[Calls, Calls]:
    """Ours and the compute loop, in turns."""
    warm = Calls.of(16)
    for i in range(16):
        warm.take(i, ours)
    compute = _compute_loop(float(np.median(warm.seconds)))
    taken = Calls.of(rounds), Calls.of(rounds)
    for i in range(rounds):
        for calls, function in zip(taken, (ours, compute), strict=True):
            calls.take(i, function)
    return taken


def _compute_loop(seconds: float) -> Callable[[], object]:
    x = np.ones(2048, np.float32)

    def loop(count: int) -> None:
        for _ in range(count):
            np.add(x, x, out=x)
            np.multiply(x, np.float32(0.5), out=x)

    passes = Calls.of(6)
    for i in range(6):
        passes.take(i, lambda: loop(1000))
    count = max(1, round(1000 * seconds / passes.seconds.min()))
    return lambda: loop(count)


def _rows(name: str, ours: Calls, compute: Calls) -> Iterator[BenchRow]:
    p50, p99 = np.percentile(ours.seconds, [50, 99])

    def tail(label: str, slow: float) -> BenchRow:
        return row(
            f"{name}/{label}",
            1e6 * slow,
            "us",
            peer="p50 of all calls",
            peer_value=1e6 * float(p50),
            target=TARGET,
        )

    yield tail("p99", float(p99))
    undisturbed = ours.seconds[ours.preempted == 0]
    if undisturbed.size:  # a machine may disturb every call
        yield tail("p99_not_preempted", float(np.percentile(undisturbed, 99)))
    compute_p50, compute_p99 = np.percentile(compute.seconds, [50, 99])
    yield row(
        f"{name}/p99_of_p50",
        float(p99 / p50),
        "share",
        peer=COMPUTE,
        peer_value=float(compute_p99 / compute_p50),
    )
    slowest = ours.seconds >= p99
    yield row(
        f"{name}/preempted",
        float((ours.preempted[slowest] > 0).mean()),
        "share",
        peer="of all calls; value: of the slowest 1%",
        # A ratio to none at all says nothing.
        peer_value=float((ours.preempted > 0).mean()) or None,
    )
    yield row(f"{name}/with_page_faults", float((ours.faults > 0).mean()), "share")
