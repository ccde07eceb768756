"""`feedfast plan calibrate`: measures what `feedfast plan shards --cluster FILE` plans with."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from feedfast.cli.console import Console, format_bytes
from feedfast.comm import NullEngine, connect
from feedfast.comm.launch import run_local
from feedfast.sharding import Topology
from feedfast.sharding.calibration import calibrate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast plan calibrate`."""
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON to write")
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="start so many here; default: the processes of the job that this one belongs to, as "
        "horovodrun starts them, and there has to be one",
    )
    parser.add_argument(
        "--memory", type=float, default=8.0, metavar="GIB", help="that one rank may use"
    )
    parser.add_argument("--name", default="measured", help="of the machines")


def run(args: argparse.Namespace, console: Console) -> int:
    """Measures, writes and prints a topology; about 20 s."""
    if args.processes is not None:
        command = [sys.executable, "-m", "feedfast.cli", "plan", "calibrate"]
        command += ["--out", str(args.out), "--memory", str(args.memory), "--name", args.name]
        return run_local([*command, *(["--json"] if args.json else [])], args.processes)
    with connect() as engine:
        if isinstance(engine, NullEngine):
            raise ValueError(
                "this process is alone: give --processes N (1 for one process without links), or "
                "start the command with horovodrun on the hosts of a job"
            )
        topology = calibrate(engine, memory_bytes=int(args.memory * 2**30), name=args.name)
        if engine.rank:
            return 0
    args.out.write_text(topology.to_json() + "\n")
    _show(topology, console)
    console.note(f"Written to {args.out}; plan with feedfast plan shards --cluster {args.out}")
    console.result(json.loads(topology.to_json()))
    return 0


def _show(topology: Topology, console: Console) -> None:
    console.table(
        f"{topology.num_hosts} host(s) of {topology.ranks_per_host} ranks, "
        f"{topology.workers:.2f} of them at once; {format_bytes(topology.memory_bytes)} a rank",
        ["", "latency us", "GB/s"],
        [
            ["within a host", 1e6 * topology.local_latency, topology.local_bandwidth / 1e9],
            ["across hosts", 1e6 * topology.host_latency, topology.host_bandwidth / 1e9],
            ["row read", 1e6 * topology.row_seconds, topology.row_bandwidth / 1e9],
            ["gradient packed", 1e6 * topology.window_seconds, topology.window_bandwidth / 1e9],
            ["gradient added", 1e6 * topology.sum_seconds, topology.sum_bandwidth / 1e9],
            ["row updated", 1e6 * topology.update_seconds, topology.update_bandwidth / 1e9],
            ["rows in order", None, topology.copy_bandwidth / 1e9],
            ["one id", 1e6 * topology.id_seconds, None],
            ["one table", 1e6 * topology.table_seconds, None],
        ],
    )
