"""`feedfast bench NAME`: runs a workload of benchmarks/workloads and prints its rows."""

from __future__ import annotations

import argparse

from feedfast import bench, runtime
from feedfast.cli.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast bench`."""
    parser.add_argument("name", help="a workload of benchmarks/workloads, or 'all'")
    parser.add_argument("--threads", type=int, default=1, help="threads of every measured side")
    parser.add_argument("--only", metavar="PART", help="one part, such as a kind of keys of vocab")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: shows that it runs, not how fast"
    )


def run(args: argparse.Namespace) -> int:
    """Prints one row per figure: name, value, unit, peer, peer value, ratio, target, met."""
    console = Console(as_json=args.json)
    folder = bench.find_workloads()
    names = bench.workload_names(folder) if args.name == "all" else [args.name]
    options = bench.BenchOptions(threads=args.threads, quick=args.quick, only=args.only)
    rows: list[bench.BenchRow] = []
    for name in names:
        workload = bench.load_workload(name, folder)
        with console.progress(f"bench {name}") as progress:
            for done, row in enumerate(workload.run(options), start=1):
                rows.append(row)
                progress.update(done, None, row.name)
    console.table(
        f"CPU target {runtime.cpu_target()}, {args.threads} thread(s); "
        "ratio below 1 is better than the peer",
        ["name", "value", "unit", "peer", "peer value", "ratio", "target", "met"],
        [list(row.as_dict().values()) for row in rows],
    )
    console.result([row.as_dict() for row in rows])
    return 0
