"""Mini-batch x threads of one request; every combination gives the same bits, which is checked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import request_model

from feedfast.bench import BenchOptions, BenchRow, row
from feedfast.scorer import MINI_BATCH
from feedfast.scorer_sweep import sweep

from . import common

SIZES = (200, 500, 1500)
QUICK_SIZES = (50,)
THREADS = (1, 2)
MINI_BATCHES = (32, 64, 128, MINI_BATCH, 512)
NUM_REQUESTS, REPEATS = 8, 6
# The default takes at most this much more than the best mini-batch for as many threads.
DEFAULT_TARGET = 1.1


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
                repeats=1 if options.quick else REPEATS,
            )
            one_thread = {p.mini_batch: p.p50 for p in points if p.threads == 1}
            for point in points:
                name = f"request/sweep/candidates={candidates}/precision={precision}"
                yield row(
                    f"{name}/threads={point.threads}/mini_batch={point.mini_batch}/p50",
                    1e6 * point.p50,
                    "us",
                    peer=f"default of {MINI_BATCH} on 1 thread",
                    peer_value=1e6 * one_thread[MINI_BATCH],
                )
            for threads in THREADS:
                by_size = {p.mini_batch: p.p50 for p in points if p.threads == threads}
                best = min(by_size, key=by_size.__getitem__)
                yield row(
                    f"{name}/threads={threads}/default",
                    1e6 * by_size[MINI_BATCH],
                    "us",
                    peer=f"mini_batch {best}, the best",
                    peer_value=1e6 * by_size[best],
                    target=DEFAULT_TARGET,
                )
