"""`feedfast vocab build`, and what `convert` shares with it."""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.cli import key_input
from feedfast.cli.console import Console, Progress, format_bytes
from feedfast.cli.output_path import require_writable
from feedfast.vocab import BuildProgress, Vocabulary

FINGERPRINT_BITS = (0, 8, 16, 32)
PRESETS = ("compact", "fast")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast vocab build`."""
    parser.add_argument(
        "input",
        nargs="+",
        help="text with a key per line, - for standard input, or Parquet files or folders",
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        help="column of keys, or of lists of them, in Parquet; repeatable; default: the only one",
    )
    parser.add_argument("--rows", metavar="COLUMN", help="column with the row of each key")
    parser.add_argument(
        "--unique",
        action="store_true",
        help="drop repeated and missing keys; holds the distinct keys twice while it merges them",
    )
    parser.add_argument(
        "--buffer",
        type=_size,
        metavar="SIZE",
        help="for keys that do not fit memory: work in SIZE (such as 512M or 4G, at least 16M) and "
        "a byte per key, with temporary files beside the output",
    )
    add_build_options(parser)


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Options of every action that builds."""
    parser.add_argument(
        "--fingerprint-bits",
        type=int,
        choices=FINGERPRINT_BITS,
        default=16,
        help="kept per key; an unknown key is taken for a known one once in 2^bits",
    )
    parser.add_argument(
        "--preset", choices=PRESETS, default="compact", help="fewest bits, or quickest build"
    )
    parser.add_argument("--threads", type=int, help="threads of the build; default: all")
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        help="of the key hash, stored in the file; 'random' keeps others from preparing keys",
    )


def _seed(text: str) -> int | None:
    if text == "random":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an integer nor 'random'") from None


def _size(text: str) -> int:
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    units = {"": 0, "K": 10, "M": 20, "G": 30}
    if unit not in units or not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512M or 4G")
    return int(number) << units[unit]


def run(args: argparse.Namespace, console: Console) -> None:
    """Reads keys, builds, writes and reports."""
    require_writable(args.out)
    if args.rows is not None and (args.unique or len(args.column) > 1):
        raise ValueError("--rows goes with one --column and without --unique")
    if args.buffer is not None:
        if args.unique:
            raise ValueError("--unique holds all distinct keys; it does not go with --buffer")
        _build_external(args, console)
        return
    start = time.perf_counter()
    num_read = None
    rows = None
    with console.progress("read keys") as progress:
        if args.rows is not None:
            keys, rows = _keys_with_rows(args)
        else:
            batches = key_input.show_rate(
                key_input.read_batches(args.input, args.column, drop_missing=args.unique), progress
            )
            if args.unique:
                from feedfast.data import distinct_keys

                distinct = distinct_keys(batches)
                keys, num_read = distinct.keys, distinct.num_read
            else:
                keys = _gather(batches)
    if len(keys) == 0:
        raise ValueError(f"{', '.join(args.input)}: no keys")
    read_seconds = time.perf_counter() - start
    report = write_vocabulary(args, console, keys, rows)
    report["read_seconds"] = read_seconds
    if num_read is not None:
        report["repeats_dropped"] = num_read - len(keys)
        console.note(f"{num_read - len(keys):,} of {num_read:,} keys were repeats")
    console.result(report)


def _build_external(args: argparse.Namespace, console: Console) -> None:
    with_rows = args.rows is not None
    with console.progress("build") as progress:
        start = time.perf_counter()
        batches: Iterator[Any] = (
            _key_row_batches(args) if with_rows else key_input.read_batches(args.input, args.column)
        )
        vocabulary = Vocabulary.build_external(
            _not_empty(batches, args),
            args.out,
            with_rows=with_rows,
            buffer_bytes=args.buffer,
            fingerprint_bits=args.fingerprint_bits,
            preset=args.preset,
            threads=args.threads,
            seed=args.seed,
            progress=_shown(progress),
        )
        seconds = time.perf_counter() - start
    console.result(_report(args, console, vocabulary, seconds))


def write_vocabulary(
    args: argparse.Namespace, console: Console, keys: Any, rows: NDArray[np.int64] | None
) -> dict[str, object]:
    """Builds, saves and reports; returns the JSON document."""
    with console.progress(f"build {len(keys):,} keys") as progress:
        start = time.perf_counter()
        vocabulary = Vocabulary.build(
            keys,
            fingerprint_bits=args.fingerprint_bits,
            preset=args.preset,
            rows=rows,
            threads=args.threads,
            seed=args.seed,
            progress=_shown(progress),
        )
        seconds = time.perf_counter() - start
        progress.update(len(keys), len(keys), f"{len(keys) / max(seconds, 1e-9):,.0f} keys/s")
        vocabulary.save(args.out)
    return _report(args, console, vocabulary, seconds)


def _report(
    args: argparse.Namespace, console: Console, vocabulary: Vocabulary, seconds: float
) -> dict[str, object]:
    """Prints what was built and returns the JSON document."""
    num_keys = len(vocabulary)
    report: dict[str, object] = {
        "path": str(args.out),
        "keys": num_keys,
        "bytes": vocabulary.nbytes,
        "bytes_per_key": vocabulary.nbytes / num_keys,
        "bits_per_key": vocabulary.bits_per_key,
        "fingerprint_bits": args.fingerprint_bits,
        "preset": args.preset,
        "seed": vocabulary.describe()["hash_seed"],
        "build_ns_per_key": 1e9 * seconds / num_keys,
        "peak_memory_bytes": _peak_memory_bytes(),
    }
    console.table(
        f"{args.out}: {format_bytes(vocabulary.nbytes)}",
        ["keys", "bytes", "bytes/key", "hash bits/key", "build ns/key", "peak memory of the run"],
        [
            [
                num_keys,
                vocabulary.nbytes,
                vocabulary.nbytes / num_keys,
                vocabulary.bits_per_key,
                1e9 * seconds / num_keys,
                format_bytes(_peak_memory_bytes()),
            ]
        ],
    )
    return report


def _shown(progress: Progress) -> Callable[[BuildProgress], None]:
    """Shows the phase of a build and its keys/s."""
    started: dict[str, float] = {}

    def show(report: BuildProgress) -> None:
        now = time.monotonic()
        rate = report.done / max(now - started.setdefault(report.phase, now), 1e-3)
        progress.update(report.done, report.total, f"{report.phase}, {rate:,.0f} keys/s")

    return show


def _gather(batches: Iterable[key_input.KeyBatch]) -> Any:
    """All keys in one container for `Vocabulary.build`."""
    gathered = list(batches)
    if len(gathered) == 1:
        return gathered[0]
    import pyarrow as pa

    return pa.chunked_array([_binary(batch) for batch in gathered], type=pa.large_binary())


def _binary(batch: key_input.KeyBatch) -> Any:
    import pyarrow as pa

    return pa.array(batch).cast(pa.large_binary())


def _keys_with_rows(args: argparse.Namespace) -> tuple[Any, NDArray[np.int64]]:
    keys, rows = [], []
    for some_keys, their_rows in _key_row_batches(args):
        keys.append(some_keys)
        rows.append(their_rows)
    return _gather(keys), np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)


def _not_empty(batches: Iterator[Any], args: argparse.Namespace) -> Iterator[Any]:
    """Passes batches on; where there is none it raises, before an empty vocabulary is written."""
    first = next(batches, None)
    if first is None:
        raise ValueError(f"{', '.join(args.input)}: no keys")
    yield first
    yield from batches


def _key_row_batches(args: argparse.Namespace) -> Iterator[tuple[Any, NDArray[np.int64]]]:
    from feedfast.data import read_keys

    for source in args.input:
        if not key_input.is_parquet(source):
            raise ValueError(f"--rows {args.rows} goes with Parquet; {source} is text")
        for batch in read_keys(source, columns=args.column, rows_column=args.rows):
            assert batch.rows is not None
            yield batch.keys, batch.rows


def _peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
