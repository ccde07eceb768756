"""Times one scorer for several mini-batches and numbers of threads, on the same requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feedfast.request import Request
from feedfast.scorer import Scorer

MINI_BATCHES = (None, 32, 48, 64, 96, 128, 256, 512)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPoint:
    """Latency of one call of `Scorer.score`, in seconds.

    Attributes:
        mini_batch: Candidates that go through the towers together, at most; None: the default.
        threads: Threads that share a request's candidates.
        p50, p99: Over all requests and repeats.
    """

    mini_batch: int | None
    threads: int
    p50: float
    p99: float


def sweep(
    scorer: Scorer,
    requests: Sequence[Request],
    *,
    mini_batches: Sequence[int | None] = MINI_BATCHES,
    threads: Sequence[int] = (1, 2),
    repeats: int = 20,
) -> list[SweepPoint]:
    """Every combination, in turns, so that a slow moment of the machine meets all of them.

    Args:
        scorer: Opened model; its own options do not matter.
        requests: At least one.
        mini_batches: What to try; None: what a scorer chooses by itself.
        threads: What to try.
        repeats: Passes over the requests.

    Returns:
        A point per combination: mini-batches in the order given, for each number of threads.

    Raises:
        ValueError: There is no request, or an option is outside its range.
        RuntimeError: Two combinations gave different bits, which a scorer promises not to do.
    """
    if not requests:
        raise ValueError("sweep: there is no request")
    options = [(size, count) for count in threads for size in mini_batches]
    scorers = [scorer.with_options(mini_batch=size, threads=count) for size, count in options]
    for index, request in enumerate(requests):
        want = scorers[0].score(request)
        for (size, count), other in zip(options, scorers, strict=True):
            got = other.score(request)
            if (
                got.probabilities.tobytes() != want.probabilities.tobytes()
                or got.score.tobytes() != want.score.tobytes()
                or got.order.tobytes() != want.order.tobytes()
            ):
                raise RuntimeError(
                    f"sweep: request {index} has other bits with mini_batch={size}, "
                    f"threads={count} than with {options[0]}"
                )
    taken: list[list[float]] = [[] for _ in options]
    rng = np.random.default_rng(0)
    for request in requests:
        for _ in range(repeats):
            # In another order each time, and the second call in a row: what ran before leaves
            # caches and cores as it likes: two threads take 15% more after a call on one.
            for index in rng.permutation(len(options)):
                scorers[index].score(request)
                start = time.perf_counter()
                scorers[index].score(request)
                taken[index].append(time.perf_counter() - start)
    return [
        SweepPoint(
            mini_batch=size,
            threads=count,
            p50=float(np.percentile(times, 50)),
            p99=float(np.percentile(times, 99)),
        )
        for (size, count), times in zip(options, taken, strict=True)
    ]
