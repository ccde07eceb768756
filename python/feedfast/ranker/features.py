"""From a dataset to model inputs: vocabularies, forest and scaling, learned on training rows."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from feedfast import trees
from feedfast.config import RankerConfig
from feedfast.data import Dataset, History, ImpressionLog, KeyBags
from feedfast.data.key_counts import frequent_keys
from feedfast.ranker.embedding_inputs import EmbeddingInput, find_embedding_inputs
from feedfast.ranker.examples import Examples, RowBags
from feedfast.ranker.normalizer import Normalizer
from feedfast.store import files
from feedfast.vocab import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Numbers of rows and columns that the data decides; rows of ID tables include the OOV row."""

    num_members: int
    num_hashtags: int
    num_trees: int
    num_leaves: int
    num_shared: int
    num_dense: int
    embedding_inputs: tuple[EmbeddingInput, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class FeatureSpace:
    """What turns impressions into `Examples`, and nothing else does.

    Attributes:
        members: Vocabulary of viewers, actors, root actors and the members of histories.
        hashtags: Vocabulary of hashtags and the hashtags of histories.
        forest: Leaf encoder of [shared | dense], raw, NaN where missing.
        normalizer: Scaling of [shared | dense].
        shared_names, dense_names: Names of the columns.
        embedding_inputs: Columns that are vectors from elsewhere.
    """

    members: Vocabulary
    hashtags: Vocabulary
    forest: trees.LeafEncoder
    normalizer: Normalizer
    shared_names: tuple[str, ...]
    dense_names: tuple[str, ...]
    embedding_inputs: tuple[EmbeddingInput, ...] = ()

    @classmethod
    def fit(cls, dataset: Dataset, rows: NDArray[np.int64], config: RankerConfig) -> FeatureSpace:
        """Learns everything from the given rows of the dataset and from no other.

        An id has a row in the member table when the viewer, the actor or the root actor column
        shows it in at least `min_count` of the rows; a hashtag likewise. Other ids are OOV. The
        forest predicts the superset objective on the rows where it is defined.

        Args:
            rows: [m] int64, rows of the log to learn from.

        Raises:
            ValueError: The log has no numeric feature, the superset objective is defined in none of
                the rows, or an embedding input of the config is not in the log.
        """
        log = dataset.log.take(rows)
        raw = _raw(log)
        if raw.shape[1] == 0:
            raise ValueError(
                f"dataset {dataset.name!r}: the forest needs a shared or dense feature"
            )
        superset = dataset.superset_label()[rows]
        defined = ~np.isnan(superset)
        if not defined.any():
            raise ValueError(
                f"dataset {dataset.name!r}: superset objective {dataset.superset!r} is undefined "
                "in every training row"
            )
        embedding_inputs = find_embedding_inputs(
            config.embedding_inputs, shared=log.shared_names, dense=log.dense_names
        )
        members = frequent_keys(
            [log.viewer, log.actor, log.root_actor], min_count=config.member.min_count
        )
        hashtags = frequent_keys([log.hashtags.values], min_count=config.hashtag.min_count)
        booster = trees.train_forest(
            raw[defined],
            superset[defined],
            num_trees=config.forest.num_trees,
            max_depth=config.forest.max_depth,
            learning_rate=config.forest.learning_rate,
            seed=config.seed,
        )
        return cls(
            members=Vocabulary.build(members),
            hashtags=Vocabulary.build(hashtags),
            forest=trees.LeafEncoder.from_xgboost(booster),
            normalizer=Normalizer.fit(raw),
            shared_names=log.shared_names,
            dense_names=log.dense_names,
            embedding_inputs=embedding_inputs,
        )

    @property
    def sizes(self) -> Sizes:
        """What a model on these features needs to know."""
        return Sizes(
            num_members=self.members.num_rows,
            num_hashtags=self.hashtags.num_rows,
            num_trees=self.forest.num_trees,
            num_leaves=self.forest.num_leaves,
            num_shared=len(self.shared_names),
            num_dense=len(self.dense_names),
            embedding_inputs=self.embedding_inputs,
        )

    def encode(self, log: ImpressionLog, history: History) -> Examples:
        """Model inputs of every row of the log.

        Args:
            log: Any impressions with the columns that the space was fit on.
            history: Of these rows, point in time.

        Raises:
            ValueError: Feature columns differ from those of the training log.
        """
        for what, got, want in (
            ("shared", log.shared_names, self.shared_names),
            ("dense", log.dense_names, self.dense_names),
        ):
            if got != want:
                raise ValueError(f"{what} features are {got}; the ranker was trained on {want}")
        raw = _raw(log)
        scaled = self.normalizer(raw)
        num_shared = len(self.shared_names)
        for group in self.embedding_inputs:
            if group.kind == "batch_norm":  # the model scales, clips and fills these itself
                columns = np.array(group.columns) + (num_shared if group.part == "dense" else 0)
                scaled[:, columns] = self.normalizer.standardize(raw, columns)
        return Examples(
            viewer=self.members.lookup(log.viewer),
            actor=self.members.lookup(log.actor),
            root_actor=self.members.lookup(log.root_actor),
            history_members=_row_bags(history.members, self.members),
            history_hashtags=_row_bags(history.hashtags, self.hashtags),
            hashtags=_row_bags(log.hashtags, self.hashtags),
            leaves=self.forest(raw),
            shared=np.ascontiguousarray(scaled[:, :num_shared]),
            dense=np.ascontiguousarray(scaled[:, num_shared:]),
        )

    def save(self, folder: Path) -> None:
        """Writes the parts into an existing folder; `open` reads them."""
        self.members.save(folder / "members.vocabulary")
        self.hashtags.save(folder / "hashtags.vocabulary")
        self.forest.save(folder / "forest.trees")
        tensors = {"mean": self.normalizer.mean, "inv_std": self.normalizer.inv_std}
        # One entry: safetensors writes several in an order of its own each time.
        names: dict[str, Any] = {"shared": self.shared_names, "dense": self.dense_names}
        if self.embedding_inputs:
            names["embedding_inputs"] = [dataclasses.asdict(e) for e in self.embedding_inputs]
        metadata = {"names": json.dumps(names)}
        files.write_synced(folder / "normalizer.safetensors", [save(tensors, metadata=metadata)])

    @classmethod
    def open(cls, folder: Path) -> FeatureSpace:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: A part is missing.
            ValueError: A part is damaged; the message names it.
        """
        path = folder / "normalizer.safetensors"
        try:
            with safe_open(path, framework="numpy") as file:
                mean, inv_std = file.get_tensor("mean"), file.get_tensor("inv_std")
                names = json.loads(file.metadata()["names"])
                shared_names, dense_names = tuple(names["shared"]), tuple(names["dense"])
                embedding_inputs = tuple(
                    EmbeddingInput(**{**e, "columns": tuple(e["columns"])})
                    for e in names.get("embedding_inputs", ())
                )
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
        return cls(
            members=Vocabulary.open(folder / "members.vocabulary"),
            hashtags=Vocabulary.open(folder / "hashtags.vocabulary"),
            forest=trees.LeafEncoder.open(folder / "forest.trees"),
            normalizer=Normalizer(mean, inv_std),
            shared_names=shared_names,
            dense_names=dense_names,
            embedding_inputs=embedding_inputs,
        )


def _raw(log: ImpressionLog) -> NDArray[np.float32]:
    return np.concatenate([log.shared, log.dense], axis=1)


def _row_bags(keys: KeyBags, vocabulary: Vocabulary) -> RowBags:
    return RowBags(keys.rows(vocabulary.lookup), keys.offsets)
