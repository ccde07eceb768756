"""From a trained ranker to a served model version; loads no TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Mapping

from feedfast.config import TowerConfig
from feedfast.cross_network import CrossWeights
from feedfast.gated_mlp import GatedLayer
from feedfast.layer_weights import FloatArray
from feedfast.objectives import Utility
from feedfast.quantize import RangeMethod
from feedfast.ranker.embedding_inputs import folded_normalizer, folded_rows
from feedfast.ranker.trained import FeedRanker
from feedfast.ranker_artifact import RankerArtifact, publish_ranker
from feedfast.store import ModelStore


def export(
    ranker: FeedRanker,
    store_path: str | os.PathLike[str],
    *,
    name: str = "feed",
    precision: str | Mapping[str, str] = "fp32",
    range_method: RangeMethod | None = None,
) -> str:
    """Publishes a ranker as the next version of a model in a store, which is made if needed.

    The version appears whole or not at all, whenever the process is killed.

    Args:
        ranker: The trained ranker.
        store_path: Folder of the store.
        name: Model name.
        precision: Of all tables, or by table and layer; see `ranker_precision.resolve_precisions`.
        range_method: Of int8 and int4 tables; see `ranker_artifact.publish_ranker`.

    Returns:
        The version, such as `000001`.

    Raises:
        ValueError: Not a model name, unknown section or precision, or a table that its precision
            cannot hold.
    """
    return publish_ranker(
        ModelStore(store_path),
        name,
        artifact_of(ranker),
        precision=precision,
        range_method=range_method,
    )


def artifact_of(ranker: FeedRanker) -> RankerArtifact:
    """The ranker as the model store keeps it: batch norms and projections are folded away."""
    features, tensors, config = ranker.features, ranker.tensors, ranker.config
    normalizer = folded_normalizer(
        features.embedding_inputs, tensors, features.normalizer, len(features.shared_names)
    )
    return RankerArtifact(
        member_vocabulary=features.members,
        hashtag_vocabulary=features.hashtags,
        member_table=tensors["member_table"],
        hashtag_table=tensors["hashtag_table"],
        leaf_table=tensors["leaf_table"],
        forest=features.forest,
        shared_names=features.shared_names,
        dense_names=features.dense_names,
        history=config.history,
        mean=normalizer.mean,
        inv_std=normalizer.inv_std,
        towers={
            name: _layers(ranker, name, tower)
            for name, tower in (("passive", config.passive), ("active", config.active))
            if f"{name}/0/weight" in tensors
        },
        utility=Utility(objectives=ranker.objectives, weights=ranker.utility_weights),
        cross=[
            CrossWeights(
                tensors[f"cross/{index}/weight"],
                tensors[f"cross/{index}/bias"],
                tensors.get(f"cross/{index}/down"),
            )
            for index in range(config.cross.layers if config.cross is not None else 0)
        ],
    )


def require_towers_alone(artifact: RankerArtifact, what: str) -> None:
    """Refuses a ranker with parts behind its towers, for formats that have no place for them.

    Raises:
        ValueError: It has calibrators or random effects.
    """
    if artifact.calibrators or artifact.random_effects is not None:
        which = "calibrators" if artifact.calibrators else "random effects"
        raise ValueError(f"{what} has no place for {which}; export to a model store")


def _layers(ranker: FeedRanker, tower: str, config: TowerConfig) -> list[GatedLayer]:
    tensors, features, sizes = ranker.tensors, ranker.features, ranker.features.sizes

    def on_inputs(index: int, matrix: FloatArray) -> FloatArray:
        """A matrix that multiplies a layer's input, with the input's projections folded in."""
        if index > 0:
            return matrix
        return folded_rows(
            features.embedding_inputs,
            tensors,
            matrix,
            first_shared=2 * ranker.config.member.dim + ranker.config.hashtag.dim,
            num_shared=sizes.num_shared,
            num_dense=sizes.num_dense,
        )

    layers = []
    for index in range(len(config.units) + 1):
        gate = None if index == len(config.units) or config.gate == "none" else config.gate
        of = {
            part: tensors[f"{tower}/{index}/{part}"]
            for part in ("weight", "bias", "gate_down", "gate_weight", "gate_bias")
            if f"{tower}/{index}/{part}" in tensors
        }
        if gate == "input":
            first = "gate_down" if "gate_down" in of else "gate_weight"
            of[first] = on_inputs(index, of[first])
        gate_weight = of.get("gate_weight")
        layers.append(
            GatedLayer(
                on_inputs(index, of["weight"]),
                of["bias"],
                (of["gate_down"], of["gate_weight"]) if "gate_down" in of else gate_weight,
                of.get("gate_bias"),
                gate,
                "linear" if index == len(config.units) else "relu",
            )
        )
    return layers
