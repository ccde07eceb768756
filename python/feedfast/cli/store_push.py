"""`feedfast store push`: copies versions into another store."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path

from feedfast.cli.console import Console, Progress, format_bytes
from feedfast.cli.store_diff import parse_version
from feedfast.store import ModelVersion, all_versions, push


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast store push`."""
    parser.add_argument("source", type=Path, help="folder of the store to read")
    parser.add_argument("destination", type=Path, help="folder of the store to write")
    parser.add_argument(
        "version",
        nargs="*",
        metavar="VERSION",
        help="MODEL or MODEL@VERSION; the newest version of every model by default",
    )
    parser.add_argument("--all", action="store_true", help="all versions of all models")
    parser.add_argument(
        "--verify",
        choices=("header", "full"),
        default="header",
        help="compare the sizes of blobs that are there already, or their digests; copied blobs "
        "are always compared with their digests",
    )


def _chosen(args: argparse.Namespace) -> tuple[ModelVersion, ...]:
    there = all_versions(args.source)
    if args.all and args.version:
        raise ValueError("--all takes no VERSION")
    if args.version:
        return tuple(parse_version(args.source, text) for text in args.version)
    if not there:
        raise FileNotFoundError(f"{args.source} holds no model")
    return there if args.all else tuple({entry.model: entry for entry in there}.values())


def _show(bar: Progress, done: int, total: int, _: str) -> None:
    bar.update(done, total, "bytes")


def run(args: argparse.Namespace, console: Console) -> None:
    """Copies one version after the other; a version that fails ends the command."""
    document = []
    for entry in _chosen(args):
        with console.progress(str(entry)) as bar:
            report = push(
                args.source,
                args.destination,
                entry.model,
                entry.version,
                full=args.verify == "full",
                progress=partial(_show, bar),
            )
        console.note(
            f"{entry}: {'published' if report.published else 'was there'}; copied "
            f"{report.copied_blobs} blobs, {format_bytes(report.copied_bytes)}; "
            f"{report.present_blobs} blobs, {format_bytes(report.present_bytes)} were there"
        )
        document.append({**asdict(report.entry), **asdict(report), "entry": str(report.entry)})
    console.result(document)
