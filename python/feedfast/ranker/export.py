"""From a trained ranker to a served model version; loads no TensorFlow."""

from __future__ import annotations

import os

from feedfast.gated_mlp import GatedLayer
from feedfast.objectives import Utility
from feedfast.ranker.trained import FeedRanker
from feedfast.ranker_artifact import Precision, RankerArtifact, publish_ranker
from feedfast.store import ModelStore


def export(
    ranker: FeedRanker,
    store_path: str | os.PathLike[str],
    *,
    name: str = "feed",
    precision: Precision = "fp32",
) -> str:
    """Publishes a ranker as the next version of a model in a store, which is made if needed.

    The version appears whole or not at all, whenever the process is killed.

    Args:
        ranker: The trained ranker.
        store_path: Folder of the store.
        name: Model name.
        precision: Of the three tables: `fp32`, or `int8` with a scale and a bias per row.

    Returns:
        The version, such as `000001`.

    Raises:
        ValueError: Not a model name, unknown precision, or a table that int8 cannot hold.
    """
    return publish_ranker(ModelStore(store_path), name, artifact_of(ranker), precision=precision)


def artifact_of(ranker: FeedRanker) -> RankerArtifact:
    """The ranker as the model store keeps it."""
    features, tensors = ranker.features, ranker.tensors
    return RankerArtifact(
        member_vocabulary=features.members,
        hashtag_vocabulary=features.hashtags,
        member_table=tensors["member_table"],
        hashtag_table=tensors["hashtag_table"],
        leaf_table=tensors["leaf_table"],
        forest=features.forest,
        shared_names=features.shared_names,
        dense_names=features.dense_names,
        history=ranker.config.history,
        mean=features.normalizer.mean,
        inv_std=features.normalizer.inv_std,
        towers=_towers(ranker),
        utility=Utility(objectives=ranker.objectives, weights=ranker.utility_weights),
    )


def _towers(ranker: FeedRanker) -> dict[str, list[GatedLayer]]:
    tensors = ranker.tensors
    towers: dict[str, list[GatedLayer]] = {}
    for name, tower in (("passive", ranker.config.passive), ("active", ranker.config.active)):
        if f"{name}/0/weight" not in tensors:
            continue
        layers = []
        for index in range(len(tower.units) + 1):
            is_head = index == len(tower.units)
            prefix = f"{name}/{index}"
            layers.append(
                GatedLayer(
                    tensors[f"{prefix}/weight"],
                    tensors[f"{prefix}/bias"],
                    tensors.get(f"{prefix}/gate_weight"),
                    tensors.get(f"{prefix}/gate_bias"),
                    None if is_head or tower.gate == "none" else tower.gate,
                    "linear" if is_head else "relu",
                )
            )
        towers[name] = layers
    return towers
