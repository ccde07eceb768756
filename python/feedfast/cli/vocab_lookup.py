"""`feedfast vocab lookup`: rows of keys, printed or written beside the keys."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from feedfast.cli import key_input
from feedfast.cli.console import Console
from feedfast.cli.output_path import require_writable
from feedfast.store import files
from feedfast.vocab import Vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast vocab lookup`."""
    parser.add_argument("vocabulary", type=Path, help="file of a vocabulary")
    parser.add_argument("keys", nargs="*", help="keys; without any, --input is read")
    parser.add_argument(
        "--input",
        default=key_input.STDIN,
        help="text with a key per line, - for standard input, or a Parquet file or folder",
    )
    parser.add_argument("--column", action="append", default=[], help="column of keys in Parquet")
    parser.add_argument("--output", type=Path, help="Parquet file to write, columns key and row")


def run(args: argparse.Namespace, console: Console) -> None:
    """Looks keys up from arguments, standard input or files."""
    vocabulary = Vocabulary.open(args.vocabulary)
    if args.keys:
        if args.output is not None or args.column or args.input != key_input.STDIN:
            raise ValueError("--input, --column and --output do not go with keys as arguments")
        keys = [key.encode(errors="surrogateescape") for key in args.keys]
        rows = vocabulary.lookup(keys).tolist()
        shown = [key.decode(errors="backslashreplace") for key in keys]
        console.table(str(args.vocabulary), ["key", "row"], list(zip(shown, rows, strict=True)))
        found: dict[str, object] = {
            "rows": [{"key": k, "row": r} for k, r in zip(shown, rows, strict=True)]
        }
        _report_lookup(console, len(rows), rows.count(0), found)
        return
    batches = key_input.read_batches([args.input], args.column)
    if args.output is not None:
        require_writable(args.output)
        with console.progress("look up") as progress:
            _lookup_to_parquet(vocabulary, key_input.show_rate(batches, progress), args, console)
        return
    num_keys = num_unknown = 0
    for batch in batches:
        found_rows = vocabulary.lookup(batch)
        num_keys += len(found_rows)
        num_unknown += int(np.count_nonzero(found_rows == 0))
        if not args.json:
            sys.stdout.write("".join(f"{row}\n" for row in found_rows.tolist()))
            sys.stdout.flush()
    _report_lookup(console, num_keys, num_unknown, {}, to_stderr=True)


def _report_lookup(
    console: Console,
    num_keys: int,
    num_unknown: int,
    more: dict[str, object],
    *,
    to_stderr: bool = False,
) -> None:
    share = num_unknown / max(1, num_keys)
    line = f"{num_keys:,} keys, {num_unknown:,} unknown ({100 * share:.4g}%)"
    if to_stderr:  # stdout holds the rows
        print(line, file=sys.stderr)
    else:
        console.note(line)
    console.result({"keys": num_keys, "unknown": num_unknown, "unknown_share": share, **more})


def _lookup_to_parquet(
    vocabulary: Vocabulary,
    batches: Iterator[key_input.KeyBatch],
    args: argparse.Namespace,
    console: Console,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first: pa.Array = pa.array(next(batches, pa.array([], type=pa.large_binary())))
    key_type = first.type
    schema = pa.schema([("key", key_type), ("row", pa.int64())])
    num_keys = num_unknown = 0
    with (
        files.replacing(args.output) as unfinished,
        pq.ParquetWriter(
            unfinished, schema, compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        for batch in itertools.chain([first], batches):
            keys = pa.array(batch).cast(key_type)
            rows = vocabulary.lookup(keys)
            num_keys += len(rows)
            num_unknown += int(np.count_nonzero(rows == 0))
            writer.write_table(pa.table({"key": keys, "row": rows}, schema=schema))
    _report_lookup(console, num_keys, num_unknown, {"output": str(args.output)})
