"""Divided tables beside replicated ones, Horovod's all-to-all and one process; columns on six."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distributed_parts.horovod_job import run_job
from feedfast.bench import BenchOptions, BenchRow, row
from feedfast.comm.launch import run_local

PLANS = ("row", "column", "table", "mixed", "hot_rows")
WORKERS = 6
_COLUMNS = Path(__file__).parents[2] / "peers" / "distributed_columns.py"
_PEERS = {
    "horovod_alltoall": "hvd.alltoall, table by table",
    "horovod_replicated": "horovod's tape on replicated tables",
    "gloo/replicated": "the tape on replicated tables",
    "shm/replicated": "the tape on replicated tables",
    "one_process": "one process with whole tables",
}
_AGAINST = {
    "gloo": ("horovod_alltoall", "horovod_replicated", "gloo/replicated"),
    "shm": ("shm/replicated", "one_process"),
}
# Two exchanges of a micro-batch and one of a window; one more where replicas are read densely.
_EXCHANGES = {"mixed": 4, "hot_rows": 4}
_MEMORY_SHARE = 0.05  # beside 1 / n: replicas, and what a process grows by on the way
_TOWER_SHARE = 0.001  # the arena of dense gradients is padded, and has the layer's scalar


def rows(options: BenchOptions) -> Iterator[BenchRow]:
    """Steps of five plans on two processes, then two tables on six."""
    rounds, scale = ("3", "16") if options.quick else ("15", "1")
    document = run_job("distributed_sharded.py", f"bench-{uuid.uuid4().hex}", rounds, scale)
    if document is not None:
        for plan in PLANS:
            yield from _rows_of_plan(plan, document)
    yield from _columns(rounds, scale)


def _rows_of_plan(plan: str, document: dict[str, Any]) -> Iterator[BenchRow]:
    ways, ranks = document["ways"], document["ranks"]
    name = f"distributed/sharded/plan={plan}"

    def speed(way: str) -> float:
        together = 1 if way == "one_process" else ranks
        return float(document["examples"]) * together / statistics.median(ways[way]["seconds"])

    for engine, peers in _AGAINST.items():
        for peer in peers:
            yield row(
                f"{name}/engine={engine}/against={peer.rpartition('/')[2]}",
                speed(f"{engine}/{plan}"),
                "examples/s",
                peer=_PEERS[peer],
                peer_value=speed(peer),
                smaller_is_better=False,
            )
    for peer in ("horovod_alltoall", "horovod_replicated"):
        yield row(
            f"{name}/engine=gloo/bytes_per_step/against={peer}",
            statistics.median(ways[f"gloo/{plan}"]["bytes"]),
            "bytes",
            peer=_PEERS[peer],
            peer_value=statistics.median(ways[peer]["bytes"]),
        )
    exchanges = ways[f"gloo/{plan}"]["exchanges"]
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
    yield row(
        f"{name}/resident_bytes_of_tables",
        ways[f"shm/{plan}"]["grown"],
        "bytes",
        peer="whole tables and states",
        peer_value=ways["one_process"]["table_bytes"],
        target=1 / ranks + _MEMORY_SHARE,
    )


def _columns(rounds: str, scale: str) -> Iterator[BenchRow]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "columns.json")
        argv = [sys.executable, str(_COLUMNS), rounds, scale, str(out)]
        status = run_local(argv, WORKERS, environment={"OMP_NUM_THREADS": "1"})
        if status:
            raise RuntimeError(f"{_COLUMNS.name} ended with {status}")
        found = json.loads(out.read_text())
    name = f"distributed/columns/tables=2/processes={WORKERS}"
    whole, divided = found["table"], found["column"]
    for figure, unit, of in (
        ("busiest_process", "ms", lambda way: max(way["busy"]) * 1e3),
        ("largest_part", "bytes", lambda way: max(way["table_bytes"])),
        ("step", "ms", lambda way: statistics.median(way["seconds"]) * 1e3),
    ):
        yield row(f"{name}/{figure}", of(divided), unit, peer="whole tables", peer_value=of(whole))
