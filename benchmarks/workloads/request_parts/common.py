"""What several parts need: opened scorers, requests in turn, rows of percentiles."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import request_model
from numpy.typing import NDArray

from feedfast import ModelStore, Request, Scorer
from feedfast.bench import BenchOptions, BenchRow, row
from feedfast.ranker_artifact import RankerArtifact, publish_ranker
from feedfast.ranker_precision import LAYER_PRECISIONS

# Of layers and tables.
PRECISIONS: tuple[str, ...] = LAYER_PRECISIONS
# What the part `budget` chooses for this net, trained on the simulated feed, within 1e-4.
MIXED = {"tables": "int8", "hashtag_table": "int4", "layers": "int8"}
NUM_REQUESTS = 16


def open_scorers(
    folder: Path,
    artifact: RankerArtifact,
    options: BenchOptions,
    precisions: Sequence[str] = PRECISIONS,
) -> dict[str, Scorer]:
    """The artifact published and opened in each precision; `mixed` is `MIXED`."""
    scorers = {}
    for precision in precisions:
        # Layers have no int4; 8 bits are their smallest.
        layers = precision if precision in LAYER_PRECISIONS else LAYER_PRECISIONS[-1]
        wanted = {"tables": precision, "layers": layers}
        publish_ranker(
            ModelStore(folder),
            precision,
            artifact,
            precision=MIXED if precision == "mixed" else wanted,
        )
        scorers[precision] = Scorer.open(folder, precision, threads=options.threads)
    return scorers


def make_requests(
    model: request_model.Model, candidates: int, count: int = NUM_REQUESTS
) -> list[Request]:
    rng = np.random.default_rng(candidates)
    return [request_model.make_request(rng, model, candidates) for _ in range(count)]


def in_turn(function: Callable[[Any], object], arguments: Sequence[Any]) -> Callable[[], object]:
    """A function without arguments that takes the next of several each time."""
    turns = itertools.cycle(arguments)
    return lambda: function(next(turns))


def percentile_rows(
    name: str,
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    *,
    peer: str,
    target: float | None = None,
    percentiles: Sequence[int] = (50, 95, 99),
) -> Iterator[BenchRow]:
    for percentile in percentiles:
        yield row(
            f"{name}/p{percentile}",
            1e6 * float(np.percentile(ours, percentile)),
            "us",
            peer=peer,
            peer_value=1e6 * float(np.percentile(theirs, percentile)),
            target=target,
        )


def median_row(
    name: str,
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    *,
    peer: str,
    target: float | None = None,
) -> BenchRow:
    (only,) = percentile_rows(name, ours, theirs, peer=peer, target=target, percentiles=(50,))
    return only
