"""`feedfast simulate`: writes the impression log of a simulated feed."""

from __future__ import annotations

import argparse
from pathlib import Path

from feedfast.cli.console import Console, format_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast simulate`."""
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--members", type=int, default=20_000, help="members of the network")
    parser.add_argument(
        "--requests", type=int, default=30_000, help="feed requests of 10 impressions"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same log")


def run(args: argparse.Namespace) -> int:
    """Writes the log and prints its size and base rates."""
    import numpy as np

    from feedfast.data import simulate

    console = Console(as_json=args.json)
    with console.progress("simulate"):
        simulation = simulate(num_members=args.members, num_requests=args.requests, seed=args.seed)
    dataset = simulation.dataset
    dataset.write_parquet(args.out)
    rates = np.nanmean(dataset.log.labels, axis=0)
    console.note(
        f"{args.out}: {dataset.log.num_rows:,} impressions, {format_bytes(args.out.stat().st_size)}"
    )
    console.table(
        "objectives",
        ["objective", "group", "base rate"],
        [[o.name, o.group, float(r)] for o, r in zip(dataset.objectives, rates, strict=True)],
    )
    console.result(
        {
            "path": str(args.out),
            "impressions": dataset.log.num_rows,
            "bytes": args.out.stat().st_size,
            "base_rates": {
                o.name: float(r) for o, r in zip(dataset.objectives, rates, strict=True)
            },
        }
    )
    return 0
