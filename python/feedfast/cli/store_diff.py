"""`feedfast store diff`: what differs between two versions."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from feedfast.cli.console import Console, format_bytes
from feedfast.store import ModelVersion, compare_manifests, find_version, read_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast store diff`."""
    parser.add_argument("store", type=Path, help="folder of a model store")
    parser.add_argument("old", metavar="OLD", help="MODEL or MODEL@VERSION; newest by default")
    parser.add_argument("new", metavar="NEW", help="MODEL or MODEL@VERSION; newest by default")
    parser.add_argument("--new-store", type=Path, help="folder that holds NEW, if it is another")


def parse_version(store: Path, text: str) -> ModelVersion:
    """`MODEL` or `MODEL@VERSION`, the newest version by default.

    Raises:
        FileNotFoundError: The store has no such version.
    """
    model, at, version = text.partition("@")
    return find_version(store, model, version if at else None)


def run(args: argparse.Namespace, console: Console) -> None:
    """Prints one row per section, and what the description says in another way."""
    new_store = args.new_store or args.store
    old, new = parse_version(args.store, args.old), parse_version(new_store, args.new)
    difference = compare_manifests(
        read_manifest(args.store, old.model, old.version),
        read_manifest(new_store, new.model, new.version),
    )
    console.table(
        f"{old} -> {new}: {format_bytes(difference.fresh_bytes)} are new",
        ["section", "change", "old bytes", "new bytes", "blobs", "new blobs", "fresh bytes", ""],
        [
            [
                section.name,
                section.change,
                section.old_bytes,
                section.new_bytes,
                section.new_blobs,
                section.fresh_blobs,
                section.fresh_bytes,
                section.detail,
            ]
            for section in difference.sections
        ],
    )
    for key, change in difference.description.items():
        if change != "same":
            console.note(f"description: {key} is {change}")
    console.result(
        {
            "old": {"store": str(args.store), **asdict(old)},
            "new": {"store": str(new_store), **asdict(new)},
            "fresh_bytes": difference.fresh_bytes,
            "sections": [asdict(section) for section in difference.sections],
            "description": dict(difference.description),
        }
    )
