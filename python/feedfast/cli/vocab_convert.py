"""`feedfast vocab convert`: vocabularies that keep the ids of an ordered list of keys."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from feedfast.cli import key_input
from feedfast.cli.console import Console
from feedfast.cli.output_path import require_writable
from feedfast.cli.vocab_build import add_build_options, write_vocabulary
from feedfast.vocab_sources import read_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast vocab convert`."""
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
    add_build_options(parser)


def run(args: argparse.Namespace, console: Console) -> None:
    """Converts a text file or what Keras saved."""
    require_writable(args.out)
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
    console.result(write_vocabulary(args, console, keys, rows))


def _convert_keras(args: argparse.Namespace, console: Console) -> None:
    from feedfast.tf.keras_vocabulary import read_keras_vocabulary

    if args.first_row != 1:
        raise ValueError("--first-row goes with a text vocabulary; a layer has its own ids")
    if not Path(args.input).is_file():
        raise FileNotFoundError(f"{args.input} does not exist")
    found = read_keras_vocabulary(args.input, args.layer)
    report = write_vocabulary(args, console, found.keys, found.ids)
    console.note(f"rows are the ids of layer {found.layer!r}; unknown keys have row 0")
    console.result({**report, "layer": found.layer, "num_oov_indices": found.num_oov_indices})


def _only_asset(model: Path) -> Path:
    assets = sorted(path for path in (model / "assets").glob("*") if path.is_file())
    if len(assets) != 1:
        names = ", ".join(str(path) for path in assets) or "none"
        raise ValueError(f"{model} has {len(assets)} assets; name the text file itself: {names}")
    return assets[0]
