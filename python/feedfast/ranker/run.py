"""The folder of a training run, and the finished run in it.

    config.json       RankerConfig
    dataset.json      name, fingerprint, objectives
    work/             features and checkpoints of the stages; gone when the run is complete
    ranker/           FeedRanker: vocabularies, forest, scaling, tensors
    run.json          written last: a run is complete when it is there

Every file appears whole or not at all, so the folder is readable whenever the process dies.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from feedfast.config import RankerConfig
from feedfast.data import Dataset
from feedfast.data.fingerprint import fingerprint
from feedfast.objectives import Objective
from feedfast.ranker.trained import FeedRanker
from feedfast.store import files

_FORMAT = "feedfast.training_run"
_FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class TrainedRun:
    """A complete training run.

    Attributes:
        directory: Its folder.
        config: What it was trained with.
        dataset_name: Name of the dataset.
        dataset_fingerprint: Digest of the dataset, see `feedfast.data.fingerprint`.
        num_epochs: Epochs that the final training took.
        history: One record per epoch: stage (`select` or `final`), epoch (from 1), loss, and
            validation (mean normalised entropy of the validation rows; None in the final stage).
        effective_rows: By objective, rows of equal weight that the loss weights are worth.
        ranker: The trained ranker.
    """

    directory: Path
    config: RankerConfig
    dataset_name: str
    dataset_fingerprint: str
    num_epochs: int
    history: tuple[dict[str, Any], ...]
    effective_rows: dict[str, float]
    ranker: FeedRanker

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> TrainedRun:
        """Opens a complete run.

        Raises:
            FileNotFoundError: There is no such folder, or a part is missing.
            ValueError: The run is not complete, or a part is damaged; the message names it.
        """
        folder = RunFolder(Path(directory))
        if not folder.path.is_dir():
            raise FileNotFoundError(f"training run: folder {folder.path} does not exist")
        if not folder.is_complete:
            raise ValueError(
                f"{folder.path} holds no complete training run; train again with the same folder "
                "to go on where it stopped"
            )
        config = RankerConfig.from_json(folder.read_text("config.json"))
        dataset, run = folder.read_json("dataset.json"), folder.read_json("run.json")
        try:
            if (run["format"], run["format_version"]) != (_FORMAT, _FORMAT_VERSION):
                raise ValueError(f"format version {run['format_version']!r} is unknown")
            return cls(
                directory=folder.path,
                config=config,
                dataset_name=dataset["name"],
                dataset_fingerprint=dataset["fingerprint"],
                num_epochs=run["num_epochs"],
                history=tuple(run["history"]),
                effective_rows=run["effective_rows"],
                ranker=FeedRanker.open(
                    folder.ranker,
                    config=config,
                    objectives=[Objective(**o) for o in dataset["objectives"]],
                    utility_weights=run["utility_weights"],
                ),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder.path}: run.json or dataset.json lacks {error}") from None


class RunFolder:
    """Reads and writes the parts of a run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_complete(self) -> bool:
        """Whether `finish` was called."""
        return (self.path / "run.json").is_file()

    def prepare(self, config: RankerConfig, dataset: Dataset) -> None:
        """Makes the folder, or checks that a run in it is of this config and dataset.

        Raises:
            ValueError: The folder holds a run of another config or dataset, or something else.
        """
        files.make_folders(self.path)
        expected = {
            "config.json": config.to_json(),
            "dataset.json": _to_json(
                {
                    "name": dataset.name,
                    "fingerprint": fingerprint(dataset),
                    "objectives": [{"name": o.name, "group": o.group} for o in dataset.objectives],
                }
            ),
        }
        foreign = {path.name for path in self.path.iterdir()} - {*expected, *_PARTS}
        foreign = {name for name in foreign if not name.startswith(files.TEMPORARY_PREFIX)}
        if foreign:
            raise ValueError(f"{self.path} is not a run folder: it holds {min(foreign)!r}")
        for name, text in expected.items():
            if not (self.path / name).exists():
                self.write_text(name, text)
            elif not self._is_same(name, text, config):
                what = name.removesuffix(".json")
                raise ValueError(
                    f"{self.path} holds a run of another {what} ({name} differs); "
                    "use another folder, or remove this one"
                )

    def _is_same(self, name: str, text: str, config: RankerConfig) -> bool:
        """Whether a file of the folder says what `text` says; how processes share may differ."""
        found = self.read_text(name)
        if name != "config.json" or found == text:
            return found == text
        try:
            before = RankerConfig.from_json(found)
        except ValueError as error:
            raise ValueError(f"{self.path / name}: {error}") from None
        return replace(before, distributed=config.distributed) == config

    def make_stage(self, stage: str) -> Path:
        """The folder of a stage, with an existing folder `checkpoints`."""
        folder = self.path / "work" / stage
        files.make_folders(folder / "checkpoints")
        return folder

    @property
    def ranker(self) -> Path:
        """The folder of the ranker; whole where it exists."""
        return self.path / "ranker"

    def finish(
        self,
        *,
        num_epochs: int,
        utility_weights: Sequence[float],
        history: Sequence[dict[str, Any]],
        effective_rows: dict[str, float],
    ) -> None:
        """Marks the run as complete; the ranker is there."""
        document = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "num_epochs": num_epochs,
            "utility_weights": list(utility_weights),
            "effective_rows": effective_rows,
            "history": [
                {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in r.items()}
                for r in history
            ],
        }
        self.write_text("run.json", _to_json(document))
        self.remove_work()

    def remove_work(self) -> None:
        """Removes what only an unfinished run needs."""
        shutil.rmtree(self.path / "work", ignore_errors=True)
        self.remove_unfinished()

    def remove_unfinished(self) -> None:
        """Removes what was written under a temporary name by who did not get to its end."""
        for path in self.path.glob(f"{files.TEMPORARY_PREFIX}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def read_text(self, name: str) -> str:
        """A text file of the folder."""
        try:
            return (self.path / name).read_text()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path / name}: not UTF-8: {error}") from None

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder; ValueError when it is not one."""
        try:
            document = json.loads(self.read_text(name))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path / name}: not JSON: {error}") from None
        if not isinstance(document, dict):
            raise ValueError(f"{self.path / name}: not a JSON object")
        return document

    def write_text(self, name: str, text: str) -> None:
        """Writes a file of the folder; it appears when it is whole."""
        files.replace_durably(self.path / name, [text.encode()])


_PARTS = {"work", "ranker", "run.json"}


def _to_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
