"""A trained ranker without TensorFlow: what predicts, is exported and is kept in a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from feedfast.config import RankerConfig
from feedfast.objectives import Objective
from feedfast.ranker.features import FeatureSpace
from feedfast.store import files


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
        unfinished = files.temporary_sibling(folder)
        unfinished.mkdir()
        self.features.save(unfinished)
        files.write_synced(unfinished / "tensors.safetensors", [save(dict(self.tensors))])
        files.sync_folder(unfinished)
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
        """Reads what `save` wrote; the rest is kept by the run it belongs to.

        Raises:
            FileNotFoundError: A part is missing.
            ValueError: A part is damaged; the message names it.
        """
        path = folder / "tensors.safetensors"
        try:
            tensors = load(path.read_bytes())
        except SafetensorError as error:
            raise ValueError(f"{path}: {error}") from None
        return cls(
            config=config,
            objectives=tuple(objectives),
            utility_weights=tuple(utility_weights),
            features=FeatureSpace.open(folder),
            tensors=tensors,
        )
