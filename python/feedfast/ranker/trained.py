"""A trained ranker without TensorFlow: what predicts, is exported and is kept in a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedfast.config import RankerConfig
from feedfast.objectives import Objective
from feedfast.ranker.features import FeatureSpace
from feedfast.ranker.tensor_store import read_tensors, write_tensors
from feedfast.store import files

TENSORS = "tensors.safetensors"
"""Name of the file of the weights in the folder of a ranker."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class FeedRanker:
    """Features and weights of a trained ranker.

    Attributes:
        config: What it was trained with.
        objectives: One per output.
        utility_weights: [objectives], inverse base rates of the training rows.
        features: From impressions to model inputs.
        tensors: Weights by name: the three tables; `<tower>/<layer>/weight`, `bias`, `gate_weight`,
            `gate_bias` and, with a gate rank, `gate_down`, where the last layer of a tower is its
            linear head; `cross/<layer>/weight`, `bias` and, with a rank, `down`; and
            `embedding/<name>/mean` and `variance`, or `projection`.
    """

    config: RankerConfig
    objectives: tuple[Objective, ...]
    utility_weights: tuple[float, ...]
    features: FeatureSpace
    tensors: Mapping[str, NDArray[np.float32]]

    def save(self, folder: Path) -> None:
        """Writes the ranker to a new folder, which appears under its name only when it is whole.

        Raises:
            OSError: The folder exists and is not empty.
        """
        self.publish(self.write_unfinished(folder), folder)

    def write_unfinished(
        self, folder: Path, *, absent: Mapping[str, tuple[int, int]] | None = None
    ) -> Path:
        """The first half of `save`: everything under a name that stands for nothing yet.

        Args:
            folder: As for `save`.
            absent: Tables that `tensors` lacks, with their shapes; to be filled, before `publish`,
                by `tensor_store.RowsWriter` in the file `TENSORS` of the folder that is returned.
        """
        unfinished = files.temporary_sibling(folder)
        unfinished.mkdir()
        self.features.save(unfinished)
        write_tensors(unfinished / TENSORS, self.tensors, absent=absent)
        files.sync_folder(unfinished)
        return unfinished

    @staticmethod
    def publish(unfinished: Path, folder: Path) -> None:
        """The second half of `save`."""
        unfinished.rename(folder)
        files.sync_folder(folder.parent)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        config: RankerConfig,
        objectives: Sequence[Objective],
        utility_weights: Sequence[float],
    ) -> FeedRanker:
        """Maps what `save` wrote; the rest is kept by the run it belongs to.

        Raises:
            FileNotFoundError: A part is missing.
            ValueError: A part is damaged; the message names it.
        """
        return cls(
            config=config,
            objectives=tuple(objectives),
            utility_weights=tuple(utility_weights),
            features=FeatureSpace.open(folder),
            tensors=read_tensors(folder / TENSORS),
        )
