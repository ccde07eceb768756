"""`feedfast inspect`: what a model in a store is made of, and what hashing would make of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from feedfast.cli import hashing_report, inspect_memory
from feedfast.cli.console import Console, format_bytes
from feedfast.store import ModelStore, OpenedModel

COMPARED_COLUMNS = ("part", "bytes", "bytes of the SavedModel", "times smaller")
COLUMNS = ("section", "bytes", "% of the model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast inspect`."""
    parser.add_argument("store", type=Path, nargs="?", help="folder of a model store")
    parser.add_argument("--model", help="name of one model; default: all of them")
    parser.add_argument("--version", help="one version of the model; default: the newest")
    inspect_memory.add_arguments(parser)
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="SAVED_MODEL",
        help="a SavedModel of the same model, whose bytes are printed beside; needs TensorFlow",
    )
    hashing_report.add_arguments(parser)


def section_rows(
    store: Path, model: str, version: str | None = None
) -> list[tuple[str, int, float]]:
    """(name, bytes, percent of the model) of every section, largest first."""
    sizes = ModelStore(store).open(model, version=version).section_sizes()
    return [(size.name, size.num_bytes, 100.0 * size.share) for size in sizes]


def run(args: argparse.Namespace) -> int:
    """Prints the sections of each model with their bytes, or the report on hashing."""
    console = Console(as_json=args.json)
    if args.hashing is not None:
        given = (args.store, args.model, args.version, args.pid, args.memory or None, args.compare)
        if any(value is not None for value in given):
            raise ValueError(
                "--hashing takes keys, no store, model, version, memory, pid or compare"
            )
        hashing_report.run(args, console)
        return 0
    if args.rows is not None or args.dim is not None or args.column is not None:
        raise ValueError("--rows, --dim and --column go with --hashing")
    if args.store is None:
        raise ValueError("name the folder of a model store, or keys with --hashing")
    if args.memory:
        if args.compare is not None:
            raise ValueError("--compare goes without --memory")
        inspect_memory.run(args, console)
        return 0
    if args.pid is not None:
        raise ValueError("--pid goes with --memory")
    store = ModelStore(args.store)
    newest = {entry.model: entry.version for entry in store.list()}
    if args.model is None and args.version is not None:
        raise ValueError("--version goes with --model")
    if args.model is not None:
        newest = {args.model: store.open(args.model, version=args.version).manifest.version}
    if not newest:
        raise FileNotFoundError(f"{args.store} holds no model")
    if args.compare is not None and len(newest) > 1:
        raise ValueError("--compare goes with --model in a store of several models")
    document = []
    for model, version in newest.items():
        rows = section_rows(args.store, model, version)
        total = sum(size for _, size, _ in rows)
        console.table(f"{model} {version}: {format_bytes(total)}", COLUMNS, rows)
        entry: dict[str, Any] = {}
        if args.compare is not None:
            entry = {"compared": _print_comparison(console, store.open(model, version), args)}
        document.append(
            entry
            | {
                "model": model,
                "version": version,
                "bytes": total,
                "sections": [dict(zip(("name", "bytes", "percent"), r, strict=True)) for r in rows],
            }
        )
    console.result(document)
    return 0


def _print_comparison(
    console: Console, opened: OpenedModel, args: argparse.Namespace
) -> list[dict[str, object]]:
    """Prints the bytes of the model beside those of --compare; the same as JSON values."""
    from feedfast.ranker.saved_model_sizes import compare_sizes

    parts = compare_sizes(opened, args.compare)
    total = ("all", sum(part[1] for part in parts), sum(part[2] for part in parts))
    rows = [(*part, part[2] / part[1] if part[1] else None) for part in (*parts, total)]
    console.table(f"beside {args.compare}: {rows[-1][3]:.2f} times smaller", COMPARED_COLUMNS, rows)
    return [
        dict(zip(("part", "bytes", "saved_model_bytes", "ratio"), row, strict=True)) for row in rows
    ]
