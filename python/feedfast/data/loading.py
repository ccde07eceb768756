"""The one function that gets a dataset by name or path."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feedfast.data.adapters.movielens import load_movielens
from feedfast.data.adapters.openbandit import load_openbandit
from feedfast.data.dataset import ANY_ENGAGEMENT, GROUP_KEY, SUPERSET_KEY, Dataset
from feedfast.data.log import ImpressionLog, parquet_files, superset_label
from feedfast.data.schema import LABEL_PREFIX
from feedfast.data.simulate import simulate
from feedfast.objectives import GROUPS, Group, Objective


def load(name_or_path: str | os.PathLike[str], **options: Any) -> Dataset:
    """A dataset by name or path.

    Args:
        name_or_path: `simulated`, `movielens`, `openbandit`, or a Parquet file or folder of the
            schema. A file of one of these names is reached as `./simulated`.
        options: Those of `simulate`, `load_movielens`, `load_openbandit` or `load_log`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The source cannot be read, or options are wrong; see the function named above.
        TypeError: The function named above has no such option.
    """
    match os.fspath(name_or_path):
        case "simulated":
            return simulate(**options).dataset
        case "movielens":
            return load_movielens(**options)
        case "openbandit":
            return load_openbandit(**options)
        case path:
            return load_log(path, **options)


def load_engagement(
    path: str | os.PathLike[str], objectives: Sequence[Objective]
) -> tuple[ImpressionLog, NDArray[np.bool_]]:
    """A log that needs no labels, and which of its rows enter the viewers' histories.

    Args:
        path: File, or folder of Parquet files.
        objectives: What the labels mean where the file's metadata names no superset: a row with a
            label of 1 for one that is not of group `other` enters.

    Returns:
        (log, engaged [n] bool).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read.
    """
    log = ImpressionLog.read_parquet(path)
    metadata = pq.read_schema(parquet_files(path)[0]).metadata or {}
    superset = metadata.get(SUPERSET_KEY, ANY_ENGAGEMENT.encode()).decode(errors="replace")
    if superset in log.objective_names:
        return log, log.label(superset) == 1
    counted = [o.name for o in objectives if o.group != "other" and o.name in log.objective_names]
    return log, superset_label(log, counted) == 1


def load_log(
    path: str | os.PathLike[str],
    *,
    groups: Mapping[str, Group] | None = None,
    superset: str | None = None,
) -> Dataset:
    """A log of the schema from Parquet.

    Args:
        path: File, or folder of Parquet files.
        groups: Objective name to group, for every `label.<name>` column; by default what the file's
            metadata says (field metadata `feedfast.group`, which `Dataset.write_parquet` writes).
        superset: By default what the metadata says (`feedfast.superset`), else ANY_ENGAGEMENT.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, has no label, or an objective has no group.
    """
    log = ImpressionLog.read_parquet(path)
    if not log.objective_names:
        raise ValueError(f"{path}: has no {LABEL_PREFIX}<objective> column")
    schema = pq.read_schema(parquet_files(path)[0])
    known: dict[str, str] = {}
    for name in log.objective_names:
        metadata = schema.field(LABEL_PREFIX + name).metadata or {}
        if GROUP_KEY in metadata:
            known[name] = metadata[GROUP_KEY].decode(errors="replace")
    if groups is not None:
        unknown = [name for name in groups if name not in log.objective_names]
        if unknown:
            raise ValueError(
                f"{path}: groups names {unknown[0]!r}, which is not a label of the log"
            )
        known.update(groups)
    objectives = []
    for name in log.objective_names:
        group = next((g for g in GROUPS if g == known.get(name)), None)
        if group is None:
            raise ValueError(
                f"{path}: objective {name!r} has group {known.get(name)!r}; it must be one of "
                f"{', '.join(GROUPS)}: give groups={{{name!r}: ...}}, or --group {name}=..."
            )
        objectives.append(Objective(name, group))
    stored = (
        (schema.metadata or {}).get(SUPERSET_KEY, ANY_ENGAGEMENT.encode()).decode(errors="replace")
    )
    return Dataset(
        log=log, objectives=tuple(objectives), superset=superset or stored, name=os.fspath(path)
    )
