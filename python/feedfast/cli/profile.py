"""`feedfast profile`: where the time of a training step goes, slowest first."""

from __future__ import annotations

import argparse
from pathlib import Path

from feedfast.cli.console import Console
from feedfast.cli.datasets import add_dataset_arguments, load_dataset
from feedfast.cli.output_path import require_writable
from feedfast.config import RankerConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast profile`."""
    add_dataset_arguments(parser, default=None)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--run", type=Path, help="finished run on this data: its configuration and vocabularies"
    )
    source.add_argument("--config", type=Path, help="JSON file with a RankerConfig")
    parser.add_argument("--steps", type=int, default=20, help="steps to measure")
    parser.add_argument("--top", type=int, default=20, help="lines of the table")
    parser.add_argument(
        "--trace", type=Path, help="write all events as a Chrome trace (ui.perfetto.dev)"
    )
    parser.add_argument("--plot", type=Path, help="write the slowest parts as bars, SVG")


def run(args: argparse.Namespace) -> int:
    """Prints ops, exchanges and the rest of a step."""
    console = Console(as_json=args.json)
    if args.steps < 1 or args.top < 1:
        raise ValueError(f"--steps and --top must be at least 1; got {args.steps} and {args.top}")
    for path in (args.trace, args.plot):
        if path is not None:
            require_writable(path)
    config, features = RankerConfig(), None
    if args.config is not None:
        try:
            config = RankerConfig.from_json(args.config.read_text())
        except ValueError as error:
            raise ValueError(f"{args.config}: {error}") from None
    if args.run is not None:
        from feedfast.training import TrainedRun

        trained = TrainedRun.open(args.run)
        config, features = trained.config, trained.ranker.features
    dataset = load_dataset(args, console).dataset

    from feedfast.training.profile import profile_training

    profile = profile_training(dataset, config, features=features, num_steps=args.steps)
    rows = [
        [part.name, part.type, part.kind, part.calls, part.microseconds, f"{part.share:.1%}"]
        for part in profile.parts[: args.top]
    ]
    console.table(
        f"one step takes {profile.step_microseconds / 1e3:.2f} ms with the profiler on "
        f"({profile.num_steps} steps, {len(profile.parts)} parts)",
        ["name", "type", "kind", "calls", "us", "share"],
        rows,
    )
    if args.trace is not None:
        args.trace.write_text(profile.chrome_trace())
    if args.plot is not None:
        from feedfast.cli import plots

        parts = profile.parts[: args.top]
        labels = [
            part.name if part.kind != "op" else f"{part.name} ({part.type})" for part in parts
        ]
        args.plot.write_text(plots.step_parts(labels, [part.microseconds for part in parts]))
    console.result(profile.as_dict())
    return 0
