"""The --data argument shared by the commands that read an impression log."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feedfast.cli.console import Console

if TYPE_CHECKING:
    from feedfast.data import Dataset

NAMED = ("simulated", "movielens", "openbandit")


def add_dataset_arguments(
    parser: argparse.ArgumentParser, *, default: str | None, required: bool = True
) -> None:
    """Adds --data and what goes with it; without a default it is required unless said otherwise."""
    parser.add_argument(
        "--data",
        default=default,
        required=required and default is None,
        help="simulated, movielens, openbandit, or a Parquet file or folder of the log schema",
    )
    parser.add_argument(
        "--movielens-folder",
        type=Path,
        help="folder with MovieLens 100k (original or RecBole files) instead of a download",
    )
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="OBJECTIVE=GROUP",
        help="passive, active or other, for a log whose file does not say; repeatable",
    )
    parser.add_argument(
        "--superset",
        help="the label that happens whenever another does, for a log whose file does not say; "
        "default: any engagement",
    )


def _groups(arguments: list[str]) -> dict[str, str]:
    groups = {}
    for argument in arguments:
        name, equals, group = argument.partition("=")
        if not (name and equals and group):
            raise ValueError(f"--group takes OBJECTIVE=GROUP; got {argument!r}")
        groups[name] = group
    return groups


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class LoadedData:
    """A data set and, for the simulated feed, its true probabilities [rows, objectives]."""

    dataset: Dataset
    true_probabilities: NDArray[np.float32] | None


def load_dataset(args: argparse.Namespace, console: Console, **options: Any) -> LoadedData:
    """Loads what --data names and says what was dropped.

    Args:
        args: Parsed arguments of `add_dataset_arguments`.
        console: Where notes go.
        options: Further options of `feedfast.data.load` for this data set.
    """
    from feedfast.data import load, simulate

    if args.movielens_folder is not None:
        if args.data != "movielens":
            raise ValueError(f"--movielens-folder goes with --data movielens; got {args.data}")
        options["folder"] = args.movielens_folder
    for flag, value in (("groups", _groups(args.group)), ("superset", args.superset)):
        if value:
            if args.data in NAMED:
                raise ValueError(f"--group and --superset go with a log; got --data {args.data}")
            options[flag] = value
    true_probabilities = None
    if args.data == "simulated":
        simulation = simulate(**options)
        dataset, true_probabilities = simulation.dataset, simulation.probabilities
    else:
        dataset = load(args.data, **options)
    log = dataset.log
    console.note(
        f"{dataset.name}: {log.num_rows:,} impressions, {len(dataset.objectives)} objectives"
    )
    for note in dataset.notes:
        console.note(f"  {note}")
    if log.report.num_dropped:
        console.note(str(log.report))
    return LoadedData(dataset=dataset, true_probabilities=true_probabilities)
