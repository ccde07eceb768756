"""`feedfast store prune`: a smaller version of a ranker."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.cli.console import Console, format_bytes
from feedfast.cli.store_diff import parse_version
from feedfast.ranker_description import RankerDescription
from feedfast.ranker_prune import prune_ranker
from feedfast.store import ModelStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast store prune`."""
    parser.add_argument("store", type=Path, help="folder of a model store")
    parser.add_argument("version", metavar="VERSION", help="MODEL or MODEL@VERSION, a ranker")
    parser.add_argument(
        "--zero-below",
        type=float,
        default=0.0,
        metavar="W",
        help="rows whose largest |w| is at most this share one row of zeros; negative: none do",
    )
    parser.add_argument(
        "--row-updates",
        type=Path,
        metavar="FILE",
        help="npz with an array [rows] for member_table or hashtag_table: how often each row was "
        "trained; keys of rows with 0 become unknown",
    )
    parser.add_argument(
        "--drop-objective", action="append", default=[], metavar="NAME", help="drop its head"
    )
    parser.add_argument(
        "--unused-heads", action="store_true", help="drop the heads of objectives of weight 0"
    )
    parser.add_argument("--name", help="model name of the result; default: the same model")


def _read_row_updates(path: Path) -> dict[str, NDArray[Any]]:
    try:
        arrays = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not an npz file: {error}") from None
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: one array; an npz file with an array for each table is needed")
    with arrays:
        return {name: arrays[name] for name in arrays.files}


def run(args: argparse.Namespace, console: Console) -> None:
    """Writes the version and prints what became of rows, heads and sections."""
    if math.isnan(args.zero_below):
        raise ValueError("--zero-below is nan; allowed: a number, negative for no limit")
    store = ModelStore(args.store)
    entry = parse_version(args.store, args.version)
    dropped = list(args.drop_objective)
    if args.unused_heads:
        manifest = store.open(entry.model, entry.version).description
        utility = RankerDescription.from_json(manifest).utility
        dropped += [
            objective.name
            for objective, weight in zip(utility.objectives, utility.weights, strict=True)
            if weight == 0
        ]
    row_updates: dict[str, NDArray[Any]] = {}
    if args.row_updates is not None:
        row_updates = _read_row_updates(args.row_updates)
    report = prune_ranker(
        store,
        entry.model,
        entry.version,
        zero_below=args.zero_below if args.zero_below >= 0 else None,
        row_updates=row_updates,
        drop_objectives=dropped,
        name=args.name,
    )
    console.table(
        f"{report.source} -> {report.pruned}: {format_bytes(report.bytes)} -> "
        f"{format_bytes(report.kept_bytes)}",
        ["table", "rows", "kept", "never trained", "near zero", "bytes", "kept bytes"],
        [
            [
                table.name,
                table.rows,
                table.kept_rows,
                table.untrained,
                table.near_zero,
                table.bytes,
                table.kept_bytes,
            ]
            for table in report.tables
        ],
    )
    for name, size in report.sections.items():
        console.note(f"left out section {name}, {format_bytes(size)}: scoring does not read it")
    if report.objectives:
        console.note(f"dropped heads: {', '.join(report.objectives)}")
    document = asdict(report)
    document["source"], document["pruned"] = str(report.source), str(report.pruned)
    console.result(document)
