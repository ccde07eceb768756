"""Mini-batch x threads of one request; every combination gives the same bits, which is checked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import request_model

from feedfast.bench import BenchOptions, BenchRow, row
from feedfast.scorer_sweep import sweep

from . import common

SIZES = (200, 500, 1500)
QUICK_SIZES = (50,)
THREADS = (1, 2)
# None: the scorer chooses.
MINI_BATCHES = (None, 32, 48, 64, 96, 128, 256, 512)
NUM_REQUESTS = 8
# Passes over the requests by candidates: a percent is what is to be told apart.
REPEATS = {200: 40, 500: 20, 1500: 6}
# The default takes at most this much more than the best mini-batch for as many threads.
DEFAULT_TARGET = 1.03


def run(options: BenchOptions) -> Iterator[BenchRow]:
    model = request_model.build(threads=options.threads, quick=options.quick)
    precision = common.PRECISIONS[-1]
    with tempfile.TemporaryDirectory() as folder:
        (scorer,) = common.open_scorers(
            Path(folder), model.artifact, options, (precision,)
        ).values()
        for candidates in QUICK_SIZES if options.quick else SIZES:
            points = sweep(
                scorer,
                common.make_requests(model, candidates, NUM_REQUESTS),
                mini_batches=MINI_BATCHES,
                threads=THREADS,
                repeats=1 if options.quick else REPEATS[candidates],
            )
            p50 = {(p.threads, p.mini_batch): p.p50 for p in points}
            for (threads, mini_batch), seconds in p50.items():
                name = f"request/sweep/candidates={candidates}/precision={precision}"
                if mini_batch is not None:
                    yield row(
                        f"{name}/threads={threads}/mini_batch={mini_batch}/p50",
                        1e6 * seconds,
                        "us",
                        peer="the default on 1 thread",
                        peer_value=1e6 * p50[1, None],
                    )
                    continue
                best = min((m for m in MINI_BATCHES if m), key=lambda m: p50[threads, m])
                yield row(
                    f"{name}/threads={threads}/default",
                    1e6 * seconds,
                    "us",
                    peer=f"mini_batch {best}, the best",
                    peer_value=1e6 * p50[threads, best],
                    target=DEFAULT_TARGET,
                )
