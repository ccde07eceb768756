"""`feedfast vocab`: builds vocabularies, looks keys up, shows what a file is made of, converts."""

from __future__ import annotations

import argparse
import itertools
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.cli import key_input
from feedfast.cli.console import Console, Progress, format_bytes
from feedfast.store import files
from feedfast.vocab import BuildProgress, Vocabulary
from feedfast.vocab_sources import read_lines

FINGERPRINT_BITS = (0, 8, 16, 32)
PRESETS = ("compact", "fast")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast vocab` and its four actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, help_text, add in (
        ("build", "build a vocabulary from keys", _add_build),
        ("lookup", "rows of keys: printed one per line, or written beside the keys", _add_lookup),
        ("inspect", "sections, counts and checksums of a vocabulary", _add_inspect),
        ("convert", "a vocabulary from an ordered list of keys, keeping their ids", _add_convert),
    ):
        action = actions.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        add(action)
        # The parser above has --json too; only a given one may change its value.
        action.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,
            help="print the machine-readable result alone",
        )


def run(args: argparse.Namespace) -> int:
    """Runs one action."""
    console = Console(as_json=args.json)
    actions = {"build": _build, "lookup": _lookup, "inspect": _inspect, "convert": _convert}
    with _terminated_like_interrupted():
        actions[args.action](args, console)
    return 0


def _add_build(parser: argparse.ArgumentParser) -> None:
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
    _add_build_options(parser)


def _add_build_options(parser: argparse.ArgumentParser) -> None:
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


def _add_lookup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vocabulary", type=Path, help="file of a vocabulary")
    parser.add_argument("keys", nargs="*", help="keys; without any, --input is read")
    parser.add_argument(
        "--input",
        default=key_input.STDIN,
        help="text with a key per line, - for standard input, or a Parquet file or folder",
    )
    parser.add_argument("--column", action="append", default=[], help="column of keys in Parquet")
    parser.add_argument("--output", type=Path, help="Parquet file to write, columns key and row")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vocabulary", type=Path, help="file of a vocabulary")
    parser.add_argument(
        "--verify", choices=("header", "full"), default="header", help="what is checked"
    )


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        help="text vocabulary with a key per line in the order of the ids, a SavedModel folder "
        "with one as its asset, or a .keras model with a StringLookup layer",
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument(
        "--first-row", type=int, default=1, help="row of the first key of a text vocabulary"
    )
    parser.add_argument("--layer", help="StringLookup of a .keras model; default: the only one")
    _add_build_options(parser)


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


def _build(args: argparse.Namespace, console: Console) -> None:
    _require_writable(args.out)
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
    report = _write_vocabulary(args, console, keys, rows)
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


def _write_vocabulary(
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


def _lookup(args: argparse.Namespace, console: Console) -> None:
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
        _require_writable(args.output)
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


def _inspect(args: argparse.Namespace, console: Console) -> None:
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


def _convert(args: argparse.Namespace, console: Console) -> None:
    _require_writable(args.out)
    if args.first_row < 1:
        raise ValueError(f"--first-row {args.first_row} is below 1; row 0 is for unknown keys")
    path = Path(args.input)
    if path.suffix == ".keras":
        _convert_keras(args, console)
        return
    if args.layer is not None:
        raise ValueError(f"--layer {args.layer} goes with a .keras model; {path} is none")
    if (path / "saved_model.pb").is_file():
        path = _only_asset(path)
    elif key_input.is_parquet(args.input):
        raise ValueError(f"{path} is Parquet; use vocab build with --rows")
    keys = read_lines(path)
    if len(keys) == 0:
        raise ValueError(f"{path}: no keys")
    rows = np.arange(args.first_row, args.first_row + len(keys), dtype=np.int64)
    console.result(_write_vocabulary(args, console, keys, rows))


def _convert_keras(args: argparse.Namespace, console: Console) -> None:
    from feedfast.tf.keras_vocabulary import read_keras_vocabulary

    if args.first_row != 1:
        raise ValueError("--first-row goes with a text vocabulary; a layer has its own ids")
    if not Path(args.input).is_file():
        raise FileNotFoundError(f"{args.input} does not exist")
    found = read_keras_vocabulary(args.input, args.layer)
    report = _write_vocabulary(args, console, found.keys, found.ids)
    console.note(f"rows are the ids of layer {found.layer!r}; unknown keys have row 0")
    console.result({**report, "layer": found.layer, "num_oov_indices": found.num_oov_indices})


def _only_asset(model: Path) -> Path:
    assets = sorted(path for path in (model / "assets").glob("*") if path.is_file())
    if len(assets) != 1:
        names = ", ".join(str(path) for path in assets) or "none"
        raise ValueError(f"{model} has {len(assets)} assets; name the text file itself: {names}")
    return assets[0]


def _require_writable(path: Path) -> None:
    """Says before the work what would fail after it."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name the file to write")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder {path.parent} does not exist; cannot write {path.name}")


def _peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that no unfinished file stays behind."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
