"""`feedfast export`: a trained run into a model store, as a new version."""

from __future__ import annotations

import argparse
from pathlib import Path

from feedfast.cli.console import Console

PRECISIONS = ("fp32", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast export`."""
    parser.add_argument("--run", type=Path, required=True, help="folder of a complete run")
    parser.add_argument("--store", type=Path, required=True, help="model store; made when absent")
    parser.add_argument("--model", default="feed", help="name of the model in the store")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of the embedding tables"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the model and prints its version."""
    from feedfast.ranker.export import export
    from feedfast.ranker.run import TrainedRun

    console = Console(as_json=args.json)
    trained = TrainedRun.open(args.run)
    version = export(trained.ranker, args.store, name=args.model, precision=args.precision)
    console.note(f"{args.store}: model {args.model!r}, version {version}")
    console.result({"store": str(args.store), "model": args.model, "version": version})
    return 0
