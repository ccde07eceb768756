"""`feedfast store gc`: removes what no version needs."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from feedfast.cli.console import Console, format_bytes
from feedfast.store import collect_garbage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast store gc`."""
    parser.add_argument("store", type=Path, help="folder of a model store")
    parser.add_argument(
        "--keep-versions",
        type=int,
        metavar="N",
        help="first remove all but the newest N versions of each model that nobody has open; "
        "without it no version is removed",
    )
    parser.add_argument(
        "--min-age", type=float, default=3600.0, metavar="SECONDS", help="younger blobs stay"
    )
    parser.add_argument(
        "--wait", type=float, default=60.0, metavar="SECONDS", help="for writers at work"
    )
    parser.add_argument("--dry-run", action="store_true", help="remove nothing, say what would be")


def run(args: argparse.Namespace, console: Console) -> None:
    """Removes, and prints what was removed and what stays though no version names it."""
    report = collect_garbage(
        args.store,
        keep_versions=args.keep_versions,
        min_age_s=args.min_age,
        wait_s=args.wait,
        dry_run=args.dry_run,
    )
    done = "would remove" if args.dry_run else "removed"
    for entry in report.removed_versions:
        console.note(f"{done} {entry}")
    for entry in report.open_versions:
        console.note(f"kept {entry}: a process has it open")
    console.note(
        f"{done} {report.removed_blobs} blobs and {report.leftovers} leftovers of killed writers, "
        f"{format_bytes(report.removed_bytes)}"
    )
    if report.young_blobs:
        console.note(
            f"kept {report.young_blobs} files, {format_bytes(report.young_bytes)}, that no version "
            f"names: younger than {args.min_age:g} s"
        )
    for name in report.foreign:
        console.note(f"left {args.store / 'blobs' / name} alone: it is no blob")
    console.result(
        {
            **asdict(report),
            "removed_versions": [str(entry) for entry in report.removed_versions],
            "open_versions": [str(entry) for entry in report.open_versions],
            "dry_run": args.dry_run,
        }
    )
