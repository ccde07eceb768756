"""Divided tables beside replicated ones, Horovod's all-to-all and one process; columns on six."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distributed_parts.horovod_job import run_job
from feedfast.bench import BenchOptions, BenchRow, row
from feedfast.comm.launch import run_local

PLANS = ("row", "column", "table", "mixed", "hot_rows")
WORKERS = 6
_SCRIPTS = Path(__file__).parents[2] / "peers"
_PEERS = {
    "horovod_alltoall": "hvd.alltoall, table by table",
    "horovod_replicated": "horovod's tape on replicated tables",
    "replicated": "the tape on replicated tables",
    "one_process": "one process with whole tables",
}
_AGAINST = {
    "gloo": ("horovod_alltoall", "horovod_replicated", "replicated"),
    "shm": ("replicated", "one_process"),
}
# Two exchanges of a micro-batch and one of a window; one more where replicas are read densely.
_EXCHANGES = {"mixed": 4, "hot_rows": 4}
_MEMORY_SHARE = 0.05  # of all tables, beside the parts: what a process grows by on the way
_TOWER_SHARE = 0.001  # the arena of dense gradients is padded, and has the layer's scalar


def rows(options: BenchOptions) -> Iterator[BenchRow]:
    """Steps of five plans on two processes, over Gloo and shared memory; two tables on six."""
    rounds, scale = ("3", "16") if options.quick else ("9", "1")
    over_gloo = run_job("distributed_sharded.py", rounds, scale)
    shared = _run_local("distributed_sharded.py", rounds, scale, num_processes=2)
    for plan in PLANS:
        if over_gloo is not None:
            yield from _speeds("gloo", plan, over_gloo)
            yield from _exchanged(plan, over_gloo)
        yield from _speeds("shm", plan, shared)
        yield from _held(plan, shared)
    yield from _columns(_run_local("distributed_columns.py", rounds, scale, num_processes=WORKERS))


def _run_local(script: str, *arguments: str, num_processes: int) -> Any:
    """The document that rank 0 of processes over shared memory writes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "document.json")
        argv = [sys.executable, str(_SCRIPTS / script), *arguments, str(out)]
        status = run_local(argv, num_processes, environment={"OMP_NUM_THREADS": "1"})
        if status:
            raise RuntimeError(f"{script} ended with {status}")
        return json.loads(out.read_text())


def _speeds(engine: str, plan: str, document: dict[str, Any]) -> Iterator[BenchRow]:
    def speed(way: str) -> float:
        together = 1 if way == "one_process" else document["ranks"]
        seconds = statistics.median(document["ways"][way]["seconds"])
        return float(document["examples"]) * together / seconds

    for peer in _AGAINST[engine]:
        yield row(
            f"distributed/sharded/plan={plan}/engine={engine}/against={peer}",
            speed(plan),
            "examples/s",
            peer=_PEERS[peer],
            peer_value=speed(peer),
            smaller_is_better=False,
        )


def _exchanged(plan: str, document: dict[str, Any]) -> Iterator[BenchRow]:
    ways, ranks = document["ways"], document["ranks"]
    name = f"distributed/sharded/plan={plan}"
    for peer in ("horovod_alltoall", "horovod_replicated"):
        yield row(
            f"{name}/engine=gloo/bytes_per_step/against={peer}",
            statistics.median(ways[plan]["bytes"]),
            "bytes",
            peer=_PEERS[peer],
            peer_value=statistics.median(ways[peer]["bytes"]),
        )
    exchanges = ways[plan]["exchanges"]
    yield row(
        f"{name}/exchanges_per_step",
        sum(calls for kind, (calls, _) in exchanges.items() if kind.startswith("sharded_")),
        "exchanges",
        peer="allowed",
        peer_value=_EXCHANGES.get(plan, 3),
        target=1.0,
    )
    yield row(
        f"{name}/bytes_in_all_reduce",
        exchanges["feedfast_window_dense"][1],
        "bytes",
        peer="the layers without tables",
        peer_value=2 * (ranks - 1) / ranks * document["tower_bytes"],
        target=1 + _TOWER_SHARE,
    )


def _held(plan: str, document: dict[str, Any]) -> Iterator[BenchRow]:
    way, whole = document["ways"][plan], document["whole_bytes"]
    yield row(
        f"distributed/sharded/plan={plan}/resident_bytes_of_tables",
        way["grown"],
        "bytes",
        peer="whole tables and states",
        peer_value=whole,
        target=way["table_bytes"] / whole + _MEMORY_SHARE,
    )


def _columns(found: dict[str, Any]) -> Iterator[BenchRow]:
    name = f"distributed/columns/tables=2/processes={WORKERS}"
    whole, divided = found["table"], found["column"]
    for figure, unit, of in (
        ("busiest_process", "ms", lambda way: max(way["busy"]) * 1e3),
        ("largest_part", "bytes", lambda way: max(way["table_bytes"])),
        ("step", "ms", lambda way: statistics.median(way["seconds"]) * 1e3),
    ):
        yield row(f"{name}/{figure}", of(divided), unit, peer="whole tables", peer_value=of(whole))
