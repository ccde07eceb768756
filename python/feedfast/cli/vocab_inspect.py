"""`feedfast vocab inspect`: what the file of a vocabulary is made of."""

from __future__ import annotations

import argparse
from pathlib import Path

from feedfast.cli.console import Console, format_bytes
from feedfast.vocab import Vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast vocab inspect`."""
    parser.add_argument("vocabulary", type=Path, help="file of a vocabulary")
    parser.add_argument(
        "--verify", choices=("header", "full"), default="header", help="what is checked"
    )


def run(args: argparse.Namespace, console: Console) -> None:
    """Prints sections, counts and what the checksums say."""
    vocabulary = Vocabulary.open(args.vocabulary, verify=args.verify)
    description = vocabulary.describe()
    total = vocabulary.nbytes
    sections: list[tuple[str, int]] = [(name, size) for name, _, size in description["sections"]]
    sections.append(("header and padding", total - sum(size for _, size in sections)))
    bits = description["fingerprint_bits"]
    per_key = total / max(1, len(vocabulary))
    console.table(
        f"{args.vocabulary}: {format_bytes(total)}",
        ["section", "bytes", "%"],
        [[name, size, 100.0 * size / total] for name, size in sections],
    )
    for line in (
        f"{len(vocabulary):,} keys, {vocabulary.num_rows:,} rows with row 0 for unknown keys",
        f"{per_key:.4g} bytes/key; the hash function alone {vocabulary.bits_per_key:.4g} bits/key",
        f"fingerprints of {bits} bits: {2.0**-bits:.3g} of unknown keys are taken for known ones",
        f"format version {description['version']}, seed {description['hash_seed']}, "
        f"{len(description['levels'])} levels of (slots, buckets): "
        + ", ".join(f"({slots:,}, {buckets:,})" for slots, buckets in description["levels"]),
        "every byte matches its checksum"
        if args.verify == "full"
        else "header matches its checksum; sections not read (--verify full)",
    ):
        console.note(line)
    console.result(
        {
            "path": str(args.vocabulary),
            "bytes": total,
            "bytes_per_key": per_key,
            "bits_per_key": vocabulary.bits_per_key,
            "expected_false_accept_rate": 2.0**-bits,
            "verified": args.verify,
            **description,
            "sections": [{"name": name, "bytes": size} for name, size in sections],
        }
    )
