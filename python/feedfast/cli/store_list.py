"""`feedfast store list`: the versions of a store and what they share."""

from __future__ import annotations

import argparse
from pathlib import Path

from feedfast.cli.console import Console, format_bytes
from feedfast.store import take_inventory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast store list`."""
    parser.add_argument("store", type=Path, help="folder of a model store")


def run(args: argparse.Namespace, console: Console) -> None:
    """Prints one row per version."""
    if not args.store.is_dir():
        raise FileNotFoundError(f"{args.store} is not a model store: there is no such folder")
    inventory = take_inventory(args.store)
    console.table(
        f"{args.store}: {len(inventory.versions)} versions, {format_bytes(inventory.blob_bytes)}",
        ["version", "bytes", "shared with others", "blobs", "fault"],
        [
            [str(size.entry), size.num_bytes, size.shared_bytes, size.num_blobs, size.fault]
            for size in inventory.versions
        ],
    )
    if inventory.unnamed_bytes:
        console.note(
            f"{format_bytes(inventory.unnamed_bytes)} that no version names (feedfast store gc)"
        )
    console.result(
        {
            "store": str(args.store),
            "bytes": inventory.blob_bytes,
            "unnamed_bytes": inventory.unnamed_bytes,
            "versions": [
                {
                    "model": size.entry.model,
                    "version": size.entry.version,
                    "bytes": size.num_bytes,
                    "shared_bytes": size.shared_bytes,
                    "blobs": size.num_blobs,
                    "format_version": size.format_version,
                    "fault": size.fault or None,
                }
                for size in inventory.versions
            ],
        }
    )
