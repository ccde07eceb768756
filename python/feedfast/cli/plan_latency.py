"""`feedfast plan latency`: measures nets of growing width on this machine, with random weights."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from feedfast.cli.console import Console, Progress
from feedfast.config import ForestConfig, HistoryConfig, RankerConfig, TableConfig, TowerConfig
from feedfast.latency_plan import LatencyPoint, RequestTimer, plan_latency, widest
from feedfast.ranker_precision import parse_precisions
from feedfast.store import ModelStore
from feedfast.synthetic_ranker import RankerShape

# The net of `feedfast bench request`, when neither a store nor a configuration is given.
DEFAULT_CONFIG = RankerConfig(
    member=TableConfig(dim=64),
    hashtag=TableConfig(dim=64),
    forest=ForestConfig(num_trees=100, max_depth=6, leaf_dim=16),
    history=HistoryConfig(max_members=50, max_hashtags=20),
    passive=TowerConfig(units=(512, 256, 128)),
    active=TowerConfig(units=(512, 256, 128)),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast plan latency`."""
    parser.add_argument(
        "--p99", type=float, required=True, metavar="MS", help="longest 99th percentile"
    )
    parser.add_argument("--candidates", type=int, default=500, help="of a request")
    parser.add_argument("--threads", type=int, default=1, help="threads that share a request")
    parser.add_argument(
        "--precision",
        default="fp32",
        metavar="LIST",
        help="of all tables, or NAME=PRECISION of a table, a layer, all `tables` or all `layers`, "
        "as in feedfast export",
    )
    parser.add_argument("--requests", type=int, default=200, help="timed requests per net")
    parser.add_argument("--largest", type=int, default=4096, help="widest first layer to try")
    parser.add_argument("--store", type=Path, help="take tables, trees and towers of a model here")
    parser.add_argument("--model", help="name of the model in the store; default: feed")
    parser.add_argument("--version", help="its version; default: the newest")
    parser.add_argument(
        "--config", type=Path, help="JSON file with a RankerConfig, instead of a store"
    )
    counts = parser.add_argument_group("sizes that a configuration does not tell")
    counts.add_argument("--members", type=int, default=1_000_000, help="members")
    counts.add_argument("--hashtags", type=int, default=200_000, help="hashtags")
    counts.add_argument("--shared", type=int, default=16, help="float features of a request")
    counts.add_argument("--dense", type=int, default=48, help="float features of a candidate")
    counts.add_argument("--objectives", type=int, default=8, help="objectives")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the sweep as SVG")


def run(args: argparse.Namespace, console: Console) -> None:
    """Prints every measured net and the widest one under the budget, with and without ids."""
    shape = _shape(args)
    points: list[LatencyPoint] = []
    for ids in (True, False):
        variant = shape if ids else shape.without_ids()
        name = "with ids" if ids else "without ids"
        with (
            console.progress(f"plan latency, {name}") as progress,
            RequestTimer(
                variant,
                candidates=args.candidates,
                threads=args.threads,
                precision=parse_precisions([args.precision]),
                rounds=args.requests,
            ) as timer,
        ):

            def report(point: LatencyPoint, progress: Progress = progress) -> None:
                progress.update(0, None, f"{_width(point)}: p99 {point.p99_ms:.3g} ms")

            points += plan_latency(
                timer,
                variant,
                ids=ids,
                budget_ms=args.p99,
                largest=args.largest,
                on_point=report,
            )
    console.table(
        f"{args.candidates} candidates, {args.threads} thread(s), {args.precision}; "
        f"p99 at most {args.p99:g} ms",
        ["ids", "units", "weights", "p50 ms", "p99 ms", "fits"],
        [[p.ids, _width(p), p.num_weights, p.p50_ms, p.p99_ms, p.fits] for p in points],
    )
    chosen = {}
    for ids, name in ((True, "with ids"), (False, "without ids")):
        best = widest([p for p in points if p.ids == ids])
        chosen[name.replace(" ", "_")] = None if best is None else dataclasses.asdict(best)
        console.note(
            f"Widest net {name}: "
            + ("none" if best is None else f"{_width(best)}, p99 {best.p99_ms:.3g} ms")
        )
    if args.plot is not None:
        from feedfast.cli import plots

        args.plot.write_text(plots.latency_plan(points, args.p99))
    console.result(
        {
            "budget_ms": args.p99,
            "candidates": args.candidates,
            "threads": args.threads,
            "precision": args.precision,
            "points": [dataclasses.asdict(point) for point in points],
            "widest": chosen,
        }
    )


def _shape(args: argparse.Namespace) -> RankerShape:
    if args.store is not None:
        if args.config is not None:
            raise ValueError("give --store or --config, not both")
        opened = ModelStore(args.store).open(args.model or "feed", args.version)
        return RankerShape.from_model(opened)
    if args.model is not None or args.version is not None:
        raise ValueError("--model and --version go with --store")
    config = DEFAULT_CONFIG
    if args.config is not None:
        try:
            config = RankerConfig.from_json(args.config.read_text())
        except ValueError as error:
            raise ValueError(f"{args.config}: {error}") from None
    return RankerShape.from_config(
        config,
        num_members=args.members,
        num_hashtags=args.hashtags,
        num_shared=args.shared,
        num_dense=args.dense,
        num_objectives=args.objectives,
    )


def _width(point: LatencyPoint) -> str:
    return "-".join(map(str, point.units))
