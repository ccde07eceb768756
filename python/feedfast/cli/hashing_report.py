"""`feedfast inspect --hashing`: what hashing instead of a vocabulary would cost and save."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from feedfast.cli.console import Console, format_bytes
from feedfast.hashing import METHODS, CollisionRate, HashedKeys, collision_rates
from feedfast.vocab import Keys, Vocabulary

COLUMNS = ("method", "rows", "bytes", "of the vocabulary's", "keys that share, measured", "theory")
_BYTES_PER_WEIGHT = 4  # float32
_DEFAULT_DIM = 64
_DEFAULT_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the rows of the vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast inspect` that go with --hashing."""
    parser.add_argument(
        "--hashing",
        nargs="+",
        metavar="KEYS",
        help="instead of a store: text with a key per line, - for standard input, Parquet files or "
        "folders, or a number of keys; repeated keys count once",
    )
    parser.add_argument(
        "--column",
        action="append",
        help="column of keys, or of lists of them, in Parquet; repeatable; default: the only one",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        type=int,
        metavar="N",
        help="rows of the hashed tables; default: 1/16 to 1 of the vocabulary's",
    )
    parser.add_argument("--dim", type=int, help=f"length of the vectors; default: {_DEFAULT_DIM}")


def run(args: argparse.Namespace, console: Console) -> None:
    """Prints bytes and collisions of every method and table size beside the vocabulary's."""
    dim = _DEFAULT_DIM if args.dim is None else args.dim
    if dim < 1:
        raise ValueError(f"--dim must be at least 1; got {dim}")
    source = _read(args.hashing, args.column or ())
    if source.num_keys == 0:
        raise ValueError(f"{', '.join(args.hashing)}: no keys")
    vocabulary = Vocabulary.build(source.as_strings)
    row_bytes = dim * _BYTES_PER_WEIGHT
    total = vocabulary.nbytes + vocabulary.num_rows * row_bytes
    sizes = args.rows or sorted({max(2, round(s * vocabulary.num_rows)) for s in _DEFAULT_SHARES})

    records: list[CollisionRate] = []
    with console.progress("hashing") as progress:
        for done, num_rows in enumerate(sizes):
            progress.update(done, len(sizes), f"{num_rows:,} rows")
            records += collision_rates(source.keys, num_rows)
        progress.update(len(sizes), len(sizes))
    records.sort(key=lambda record: METHODS.index(record.method))
    table: list[tuple[object, ...]] = [
        ("vocabulary", vocabulary.num_rows, format_bytes(total), "100%", 0.0, 0.0)
    ]
    methods: list[dict[str, object]] = []
    for record in records:
        num_bytes = record.num_rows * row_bytes
        share = f"{100 * num_bytes / total:.3g}%"
        table.append(
            (
                *(record.method, record.num_rows, format_bytes(num_bytes)),
                *(share, record.measured, record.expected),
            )
        )
        methods.append(
            {
                "method": record.method,
                "rows": record.num_rows,
                "bytes": num_bytes,
                "bytes_ratio": num_bytes / total,
                "measured": record.measured,
                "expected": record.expected,
            }
        )
    console.table(
        f"{source.num_keys:,} distinct keys, {dim} float32 per row; the vocabulary itself takes "
        f"{format_bytes(vocabulary.nbytes)}",
        COLUMNS,
        table,
    )
    console.result(
        {
            "num_keys": source.num_keys,
            "num_keys_read": source.num_read,
            "dim": dim,
            "vocabulary": {
                "rows": vocabulary.num_rows,
                "bytes": total,
                "vocabulary_bytes": vocabulary.nbytes,
            },
            "methods": methods,
        }
    )


class _Source(NamedTuple):
    """Distinct keys, as they are hashed and as a vocabulary takes them."""

    keys: HashedKeys
    as_strings: Keys
    num_keys: int
    num_read: int


def _read(sources: Sequence[str], columns: Sequence[str]) -> _Source:
    if len(sources) == 1 and sources[0].isdecimal():
        if columns:
            raise ValueError(f"--column goes with Parquet; got {sources[0]}, a number of keys")
        ids = np.arange(int(sources[0]))
        # Without the zero bytes at its end every id still has bytes of its own.
        return _Source(ids, ids.view("S8"), len(ids), len(ids))
    from feedfast.cli.key_input import read_batches
    from feedfast.data.key_columns import distinct_keys

    keys, num_read = distinct_keys(read_batches(sources, columns, drop_missing=True))
    return _Source(keys, keys, len(keys), num_read)
