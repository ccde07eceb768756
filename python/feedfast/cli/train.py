"""`feedfast train`: an impression log to a trained run folder; continues a run that was cut off."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from feedfast.cli.console import Console
from feedfast.cli.datasets import add_dataset_arguments, load_dataset
from feedfast.cli.progress import show_stages
from feedfast.config import RankerConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast train`."""
    add_dataset_arguments(parser, default=None)
    parser.add_argument(
        "--run", type=Path, required=True, help="folder of the run; continued where it stopped"
    )
    parser.add_argument("--config", type=Path, help="JSON file with a RankerConfig")
    parser.add_argument("--seed", type=int, help="replaces the seed of the configuration")
    parser.add_argument("--epochs", type=int, help="replaces the most epochs of the configuration")


def run(args: argparse.Namespace) -> int:
    """Trains and prints the epochs."""
    console = Console(as_json=args.json)
    config = RankerConfig()
    if args.config is not None:
        try:
            config = RankerConfig.from_json(args.config.read_text())
        except ValueError as error:
            raise ValueError(f"{args.config}: {error}") from None
    if args.seed is not None:
        config = dataclasses.replace(config, seed=args.seed)
    if args.epochs is not None:
        training = dataclasses.replace(config.training, max_epochs=args.epochs)
        config = dataclasses.replace(config, training=training)
    dataset = load_dataset(args, console).dataset

    from feedfast.training import train  # seconds: after everything that can be refused at once

    with show_stages(console) as progress:
        trained = train(dataset, config, args.run, progress=progress)
    columns = list(trained.history[0]) if trained.history else []
    console.table(
        f"run {args.run}", columns, [[epoch[c] for c in columns] for epoch in trained.history]
    )
    console.result({"run": str(args.run), "history": trained.history})
    return 0
