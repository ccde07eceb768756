"""A toy DLRM on two processes: ours beside Horovod's default and its dense accumulation."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from distributed_parts.toy_job import document_of
from feedfast.bench import BenchOptions, BenchRow, row

# Largest share of the peer's time: 1.2 and 2.5 times its examples/s.
TARGETS = {"horovod_default": 1 / 1.2, "horovod_dense": 1 / 2.5, "per_batch": None}
NAMES = {
    "horovod_default": "horovod's tape",
    "horovod_dense": "horovod accumulating densely",
    "per_batch": "an exchange per batch",
}
_WIRE_TOLERANCE = 0.02


def rows(options: BenchOptions) -> Iterator[BenchRow]:
    """Examples/s, loopback bytes, and exchanges of a window of five micro-batches."""
    document = document_of("training", options)
    if document is None:
        return
    ways, examples = document["ways"], document["examples"]
    seconds = {name: statistics.median(way["seconds"]) for name, way in ways.items()}
    sent = {name: statistics.median(way["bytes"]) for name, way in ways.items()}
    # Windows without an exchange each: the one of per_batch is five.
    for name, target in TARGETS.items():
        yield _speed("engine=gloo", name, seconds, "ours", examples, target)
    for name, peer in NAMES.items():
        yield row(
            f"distributed/training/engine=gloo/bytes_per_window/against={name}",
            sent["ours"],
            "bytes",
            peer=peer,
            peer_value=sent[name],
        )
    yield row(
        "distributed/training/engine=gloo/bytes_per_window/on_the_wire",
        sent["ours"],
        "bytes",
        peer="closed form",
        peer_value=document["closed_form"],
        target=1 + _WIRE_TOLERANCE,
    )
    for name, most in (("dense", 1), ("rows", 2)):
        yield row(
            f"distributed/training/exchanges_per_window/{name}",
            document["exchanges"][f"feedfast_window_{name}"],
            "exchanges",
            peer="allowed",
            peer_value=most,
            target=1.0,
        )
    yield _speed("engine=shm", "horovod_default", seconds, "shared_memory", examples, None)


def _speed(
    engine: str,
    peer: str,
    seconds: dict[str, Any],
    ours: str,
    examples: int,
    target: float | None,
) -> BenchRow:
    return row(
        f"distributed/training/{engine}/window=5/against={peer}",
        examples / seconds[ours],
        "examples/s",
        peer=NAMES[peer],
        peer_value=examples / seconds[peer],
        target=target,
        smaller_is_better=False,
    )
