"""Checkpoints that are whole or absent, whenever the process dies."""

from __future__ import annotations

import json
import re
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


@dataclass(frozen=True, eq=False, slots=True)
class Checkpoint:
    """State of a training run after `step` steps.

    Attributes:
        step: Steps done.
        tensors: Arrays by name.
        state: JSON values beside them.
    """

    step: int
    tensors: Mapping[str, NDArray[Any]]
    state: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint and then removes older ones and unfinished files.

    The file is written under a temporary name, synced and renamed, so a name of a checkpoint always
    stands for a whole file, and the folder holds the newest one at any moment.
    """
    target = folder / f"step-{checkpoint.step:010d}.safetensors"
    metadata = {"state": json.dumps(dict(checkpoint.state))}
    files.replace_durably(target, [save(dict(checkpoint.tensors), metadata=metadata)])
    for path in folder.iterdir():
        if path != target and (
            _NAME.match(path.name) or path.name.startswith(files.TEMPORARY_PREFIX)
        ):
            path.unlink()


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint with the most steps; None when there is none.

    Raises:
        ValueError: The file is damaged; the message names it and what to do.
    """
    steps = [int(m[1]) for m in map(_NAME.match, (p.name for p in folder.iterdir())) if m]
    if not steps:
        return None
    path = folder / f"step-{max(steps):010d}.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            state = json.loads(file.metadata()["state"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); remove it to train from the start") from None
    return Checkpoint(max(steps), tensors, state)
