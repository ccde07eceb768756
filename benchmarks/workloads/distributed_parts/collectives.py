"""Collectives between two processes: shared memory beside Horovod over Gloo on loopback.

The two run in turns in the same processes; a time is that of the slower process, medians are
compared. Where Horovod is not installed there is nothing to compare with, and a line says so.
"""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Iterator

from distributed_parts.horovod_job import run_job
from feedfast.bench import BenchOptions, BenchRow, row

PROCESSES = 2
SIZES = (1 << 10, 16 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
# Largest share of Gloo's time for an all-reduce of so many bytes.
TARGETS = {1 << 20: 1 / 20, 16 << 20: 1 / 2, 64 << 20: 1 / 2}


def rows(options: BenchOptions) -> Iterator[BenchRow]:
    """One row for each collective and size."""
    sizes = SIZES[:2] if options.quick else SIZES
    result = run_job(
        "distributed_collectives.py",
        f"bench-{uuid.uuid4().hex}",
        ",".join(map(str, sizes)),
        "0.1" if options.quick else "0.6",
        num_processes=PROCESSES,
    )
    if result is None:
        return
    for measured in result["measured"]:
        call, size = measured["call"], measured["bytes"]
        yield row(
            f"distributed/{call}/processes={PROCESSES}/kib={size >> 10}",
            statistics.median(measured["ours"]) * 1e3,
            "ms",
            peer="horovod over gloo",
            peer_value=statistics.median(measured["peer"]) * 1e3,
            target=TARGETS.get(size) if call == "all_reduce" else None,
        )
