"""Scores of a ranker in float64, one candidate at a time, straight from the definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.gated_mlp import GatedLayer
from feedfast.ranker_artifact import RankerArtifact
from feedfast.ranker_description import tower_objectives
from feedfast.request import Request

Vector = NDArray[np.float64]


def sigmoid(x: Vector) -> Vector:
    return np.asarray(1 / (1 + np.exp(-x)))


def layer_output(layer: GatedLayer, x: Vector) -> Vector:
    h = x @ layer.weight.astype(np.float64) + layer.bias
    if layer.activation == "relu":
        h = np.maximum(h, 0)
    if layer.gate is None:
        return np.asarray(h)
    gate = h if layer.gate == "hidden" else x
    factors = layer.gate_weight if isinstance(layer.gate_weight, tuple) else (layer.gate_weight,)
    for factor in factors:
        assert factor is not None
        gate = gate @ factor.astype(np.float64)
    return np.asarray(h * sigmoid(gate + layer.gate_bias))


def mean_of(table: NDArray[np.float32], rows: Sequence[int] | NDArray[np.int64]) -> Vector:
    if len(rows) == 0:
        return np.zeros(table.shape[1])
    return np.asarray(table[rows].astype(np.float64).mean(axis=0))


def normalized(artifact: RankerArtifact, features: NDArray[np.float32]) -> Vector:
    z = (features.astype(np.float64) - artifact.mean) * artifact.inv_std
    return np.where(np.isnan(z), 0, np.clip(z, -8, 8))


def probabilities(artifact: RankerArtifact, request: Request) -> NDArray[np.float64]:
    """[candidates, objectives]; every column of the request is given."""
    members, tags = artifact.member_vocabulary.lookup, artifact.hashtag_vocabulary.lookup
    assert request.hashtags is not None
    tag_keys: Any = request.hashtags[0]
    tag_offsets = np.asarray(request.hashtags[1])
    keys: Any = request
    shared = np.asarray(request.shared, dtype=np.float32)
    dense = np.asarray(request.dense, dtype=np.float32)
    objectives = [objective.name for objective in artifact.utility.objectives]
    outputs = tower_objectives(artifact.utility)
    result = np.zeros((len(keys.item), len(objectives)))
    for c in range(len(keys.item)):
        features = np.concatenate([shared, dense[c]])
        leaves = artifact.forest(features[np.newaxis])[0]
        z = normalized(artifact, features)
        bag = tag_keys[tag_offsets[c] : tag_offsets[c + 1]]
        x = np.concatenate(
            [
                mean_of(artifact.member_table, members([keys.viewer])),
                mean_of(artifact.member_table, members(keys.history_members)),
                mean_of(artifact.hashtag_table, tags(keys.history_hashtags)),
                z[: len(shared)],
                mean_of(artifact.member_table, members([keys.actor[c]])),
                mean_of(artifact.member_table, members([keys.root_actor[c]])),
                mean_of(artifact.hashtag_table, tags(bag)),
                artifact.leaf_table[leaves].astype(np.float64).sum(axis=0) / np.sqrt(len(leaves)),
                z[len(shared) :],
            ]
        )
        logits = np.zeros(len(objectives))
        for tower, layers in artifact.towers.items():
            y = x
            for layer in layers:
                y = layer_output(layer, y)
            for name, logit in zip(outputs[tower], y, strict=True):
                logits[objectives.index(name)] = logit
        effects = artifact.random_effects
        if effects is not None:
            logits += effects.coefficients[effects.vocabulary.lookup([keys.item[c]])[0]]
        result[c] = sigmoid(logits)
        for k, name in enumerate(objectives):
            if name in artifact.calibrators:
                calibrator = artifact.calibrators[name]
                result[c, k] = np.interp(result[c, k], calibrator.x, calibrator.y)
    return result
