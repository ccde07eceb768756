"""Time of a micro-batch by the micro-batches of a window, and the two parts it is made of.

    t(K) = compute + exchange / K

is fitted by least squares. Source A reports 33% more throughput from accumulating; what this model
gains from no window (K = 1) to five stands beside it. The slow link is a sleep before every
wait for the others: the kernel's own emulation of delays is not everywhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np

from distributed_parts.toy_job import document_of
from feedfast.bench import BenchOptions, BenchRow, row

_SOURCE_SHARE = 1 / 1.33


def rows(options: BenchOptions) -> Iterator[BenchRow]:
    """One row for each link and K, and those of the fit."""
    document = document_of("sweep", options)
    if document is None:
        return
    by_link: dict[str, dict[int, float]] = {}
    for name, way in document["ways"].items():
        link, _, k = name.partition("/k=")
        by_link.setdefault(link, {})[int(k)] = statistics.median(way["seconds"]) / int(k) * 1e3
    for link, times in by_link.items():
        label = link
        if link == "link=slow":
            label = f"link=sleep_{document['sleep_ms']:.0f}ms_per_wait"
        for k, milliseconds in times.items():
            yield row(
                f"distributed/sweep/{label}/k={k}",
                milliseconds,
                "ms",
                peer="k=1",
                peer_value=times[1],
            )
        ks = np.asarray(list(times))
        design = np.stack([np.ones(len(ks)), 1.0 / ks], axis=1)
        (compute, exchange), *_ = np.linalg.lstsq(design, np.asarray(list(times.values())))
        yield row(f"distributed/sweep/{label}/fit/compute", float(compute), "ms")
        yield row(f"distributed/sweep/{label}/fit/exchange", float(exchange), "ms")
        yield row(
            f"distributed/sweep/{label}/fit/time_at_k=5_of_k=1",
            float((compute + exchange / 5) / (compute + exchange)),
            "share",
            peer="source A, +33%",
            peer_value=_SOURCE_SHARE,
        )
