"""`feedfast store check`: verifies every byte of a store."""

from __future__ import annotations

import argparse
from pathlib import Path

from feedfast.cli.console import Console, format_bytes
from feedfast.store import check_store
from feedfast.trees import LeafEncoder
from feedfast.vocab import Vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast store check`."""
    parser.add_argument("store", type=Path, help="folder of a model store")
    parser.add_argument("--model", help="only the versions of this model")


def _check_vocabulary(path: Path) -> None:
    Vocabulary.open(path, verify="full")


def _check_forest(path: Path) -> None:
    LeafEncoder.from_bytes(path.read_bytes())


def run(args: argparse.Namespace, console: Console) -> int:
    """Prints the faults; returns 1 if there are any."""
    with console.progress(f"reading {args.store}") as progress:
        report = check_store(
            args.store,
            model=args.model,
            images={"vocabulary": _check_vocabulary, "forest": _check_forest},
            progress=lambda done, total, at: progress.update(done, total, f"bytes, {at}"),
        )
    read = f"{report.num_versions} versions, {report.num_blobs} blobs, " + format_bytes(
        report.num_bytes
    )
    if report.faults:
        console.table(
            f"{args.store}: {len(report.faults)} faults in {read}",
            ["version", "section", "blob", "fault"],
            [
                [str(fault.entry), fault.section, fault.blob[:12], fault.what]
                for fault in report.faults
            ],
        )
    else:
        console.note(f"{args.store}: no fault in {read}")
    console.result(
        {
            "store": str(args.store),
            "versions": report.num_versions,
            "blobs": report.num_blobs,
            "bytes": report.num_bytes,
            "faults": [
                {
                    "model": fault.entry.model,
                    "version": fault.entry.version,
                    "section": fault.section or None,
                    "blob": fault.blob or None,
                    "fault": fault.what,
                }
                for fault in report.faults
            ],
        }
    )
    return 1 if report.faults else 0
