"""Checkpoints that are whole or absent, whenever the process dies."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from feedfast.store import files

_NAME = re.compile(r"step-(\d{10})\.safetensors\Z")
_TABLES_NAME = re.compile(r"step-\d{10}\.tables\Z")
TABLES = "tables/"
"""How names of tensors of whole tables start."""


@dataclass(frozen=True, eq=False, slots=True)
class Checkpoint:
    """State of a training run after `step` steps.

    Attributes:
        step: Steps done.
        tensors: Arrays by name.
        state: JSON values beside them.
        has_tables: Whether the file holds tables; if not, they lie in `tables_folder`.
    """

    step: int
    tensors: Mapping[str, NDArray[Any]]
    state: Mapping[str, Any]
    has_tables: bool = True


def tables_folder(folder: Path, step: int) -> Path:
    """Where the divided tables of a checkpoint lie."""
    return folder / f"step-{step:010d}.tables"


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint and then removes older ones and unfinished files.

    The file is written under a temporary name, synced and renamed, so a name of a checkpoint always
    stands for a whole file, and the folder holds the newest one at any moment. Divided tables must
    lie in `tables_folder` before.
    """
    target = _path(folder, checkpoint.step)
    metadata = {"state": json.dumps(dict(checkpoint.state))}
    files.replace_durably(target, [save(dict(checkpoint.tensors), metadata=metadata)])
    for path in folder.iterdir():
        if path != target and (
            _NAME.match(path.name) or path.name.startswith(files.TEMPORARY_PREFIX)
        ):
            path.unlink()
    # After the files that stand for them: a folder alone is no checkpoint.
    tables = tables_folder(folder, checkpoint.step)
    for path in folder.iterdir():
        if path != tables and _TABLES_NAME.match(path.name):
            shutil.rmtree(path)


def latest_checkpoint(folder: Path, *, with_tables: bool = True) -> Checkpoint | None:
    """The checkpoint with the most steps; None when there is none.

    Args:
        folder: Of the checkpoints.
        with_tables: Whether to read tables that are in the file.

    Raises:
        ValueError: The file is damaged; the message names it and what to do.
    """
    steps = [int(m[1]) for m in map(_NAME.match, (p.name for p in folder.iterdir())) if m]
    if not steps:
        return None
    path = _path(folder, max(steps))
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            tensors = {
                name: np.array(file.get_tensor(name))
                for name in names
                if with_tables or not name.startswith(TABLES)
            }
            state = json.loads(file.metadata()["state"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); remove it to train from the start") from None
    has_tables = any(name.startswith(TABLES) for name in names)
    return Checkpoint(max(steps), tensors, state, has_tables)


def read_part(
    folder: Path, step: int, name: str, rows: slice, columns: slice
) -> NDArray[np.float32]:
    """Some rows and columns of a whole table in the file of a checkpoint.

    Raises:
        ValueError: The file is damaged, or the tensor is not of that size; the message names it.
    """
    path = _path(folder, step)
    try:
        with safe_open(path, framework="numpy") as file:
            part: NDArray[np.float32] = file.get_slice(name)[rows, columns]
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); remove it to train from the start") from None
    return part


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:010d}.safetensors"
