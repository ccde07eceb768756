"""The same number of micro-batches in all processes, whatever each has to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np

from feedfast.comm import Engine, connect

__all__ = ["equal_steps"]

Batch = TypeVar("Batch")


def equal_steps(
    batches: Iterable[Batch], engine: Engine | None = None, *, k: int = 5
) -> Iterator[tuple[Batch, float]]:
    """Batches with weights, as many in all processes, in whole windows.

    A process without a further batch repeats its last one with weight 0: it takes part in every
    exchange and adds nothing to the mean. Ends when no process has a batch left, which the
    processes tell each other once a window.

    Args:
        batches: What this process has to train on, at least one.
        engine: Of the processes; default `feedfast.comm.connect()`.
        k: Micro-batches of a window, as for the tape.

    Yields:
        A batch and its weight, 1 or 0, for `weight=` of the tape.

    Raises:
        ValueError: k is below 1, or some process has no batch at all while others have.
        RuntimeError: A process is gone.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    engine = connect() if engine is None else engine
    source = iter(batches)
    last: Batch | None = None
    is_first = True
    while True:
        window = list(islice(source, k))
        gathered = engine.all_gather(np.asarray([len(window)]), name="feedfast_window_batches")
        counts = [int(count[0]) for count in gathered]
        if not any(counts):
            return
        if is_first and 0 in counts:
            raise ValueError(
                f"process {counts.index(0)} has no batch, so it has none to take part with while "
                "others train: give every process at least one"
            )
        is_first = False
        last = window[-1] if window else last
        for batch in window:
            yield batch, 1.0
        for _ in range(k - len(window)):
            yield last, 0.0  # type: ignore[misc]
