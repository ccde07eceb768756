"""A gradient as rows against the whole table, by the share of rows that a window touches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from distributed_parts.toy_job import document_of
from feedfast.bench import BenchOptions, BenchRow, row


def rows(options: BenchOptions) -> Iterator[BenchRow]:
    """Time at each share; the shares at which bytes and time cross, beside the rule of the tape."""
    document = document_of("crossover", options)
    if document is None:
        return
    points = document["points"]
    for point in points:
        yield row(
            f"distributed/crossover/share={point['share']}/as_rows",
            point["rows"]["seconds"] * 1e3,
            "ms",
            peer="as a whole table",
            peer_value=point["table"]["seconds"] * 1e3,
        )
    for what in ("bytes", "seconds"):
        crossing = _crossing(points, what)
        yield row(
            f"distributed/crossover/share_at_equal_{what}",
            crossing,
            "share",
            peer="(2 / n) De / (De + 8)",
            peer_value=document["predicted"],
        )


def _crossing(points: list[dict[str, Any]], what: str) -> float:
    """Where rows / table passes 1; the last share where it does not."""
    shares = np.asarray([point["share"] for point in points])
    ratios = np.asarray([point["rows"][what] / point["table"][what] for point in points])
    above = np.flatnonzero(ratios >= 1.0)
    if not len(above) or above[0] == 0:
        return float(shares[-1] if not len(above) else shares[0])
    i = above[0]
    return float(np.interp(1.0, ratios[i - 1 : i + 1], shares[i - 1 : i + 1]))
