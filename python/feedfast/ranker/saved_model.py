"""An exported ranker as a TensorFlow SavedModel: strings in, probabilities out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import feedfast.tf as fft
from feedfast.cross_network import CrossWeights
from feedfast.gated_mlp import GatedLayer
from feedfast.ranker.export import require_towers_alone
from feedfast.ranker.normalizer import LIMIT
from feedfast.ranker_artifact import RankerArtifact
from feedfast.ranker_description import tower_objectives
from feedfast.store import files


def save_model(artifact: RankerArtifact, path: str | os.PathLike[str]) -> None:
    """Writes a ranker as a SavedModel on the drop-in ops; it appears whole or not at all.

    The folder needs nothing else: vocabularies are assets, the forest is a constant of the graph.
    The process that loads it imports `feedfast.tf` first, which brings the ops. The signature
    `serving_default` takes the columns of a `feedfast.RequestBatch`, with bags as keys and offsets:

        candidate_offsets int64 [requests + 1], viewer string [requests],
        history_members string [k] with history_member_offsets int64 [requests + 1],
        history_hashtags string [k] with history_hashtag_offsets int64 [requests + 1],
        shared float32 [requests, S], actor and root_actor string [candidates],
        hashtags string [k] with hashtag_offsets int64 [candidates + 1],
        dense float32 [candidates, F]

    and gives `probabilities` [candidates, objectives] float32, those of the scorer to 1e-5. The
    signature `inputs` gives the `vectors` [candidates, inputs] that go into the cross network, if
    there is one, and the towers.

    Args:
        artifact: The ranker.
        path: Folder, which must not exist.

    Raises:
        ValueError: The ranker has calibrators or random effects.
        FileExistsError: The path exists.
    """
    require_towers_alone(artifact, "a SavedModel")
    target = Path(path)
    if target.exists():
        raise FileExistsError(f"{target} exists; a SavedModel is written to a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    module = _ServedRanker(artifact)
    unfinished = files.temporary_sibling(target)
    signatures = {"serving_default": module.probabilities, "inputs": module.vectors}
    try:
        tf.saved_model.save(module, str(unfinished), signatures=signatures)
        files.sync_folder(unfinished)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    files.sync_folder(target.parent)


class _ServedRanker(tf.Module):  # type: ignore[misc]
    def __init__(self, artifact: RankerArtifact) -> None:
        super().__init__(name="ranker")
        self.member_vocabulary = fft.VocabularyTable(artifact.member_vocabulary)
        self.hashtag_vocabulary = fft.VocabularyTable(artifact.hashtag_vocabulary)

        def variable(array: Any, name: str) -> tf.Variable:
            return tf.Variable(array, trainable=False, name=name)

        self.member_table = variable(artifact.member_table, "member_table")
        self.hashtag_table = variable(artifact.hashtag_table, "hashtag_table")
        self.leaf_table = variable(artifact.leaf_table, "leaf_table")
        self.mean = variable(artifact.mean, "mean")
        self.inv_std = variable(artifact.inv_std, "inv_std")
        self.cross = [
            _CrossLayer(layer, f"cross/{index}") for index, layer in enumerate(artifact.cross)
        ]
        self.towers = {
            tower: [_Layer(layer, f"{tower}/{index}") for index, layer in enumerate(layers)]
            for tower, layers in artifact.towers.items()
        }
        self._forest = np.frombuffer(artifact.forest.to_bytes(), dtype=np.uint8)
        self._order = _objective_order(artifact)
        signature = _signature(len(artifact.shared_names), len(artifact.dense_names))
        self.probabilities = tf.function(
            lambda **columns: {"probabilities": self._probabilities(columns)},
        ).get_concrete_function(**signature)
        self.vectors = tf.function(
            lambda **columns: {"vectors": self._vectors(columns)},
        ).get_concrete_function(**signature)

    def _probabilities(self, columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
        x = x0 = self._vectors(columns)
        for cross in self.cross:
            x = cross(x0, x)
        logits = []
        for layers in self.towers.values():
            y = x
            for layer in layers:
                y = layer(y)
            logits.append(y)
        return tf.sigmoid(tf.gather(tf.concat(logits, axis=1), self._order, axis=1))

    def _vectors(self, columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
        members, hashtags = self.member_vocabulary.lookup, self.hashtag_vocabulary.lookup

        def single(keys: tf.Tensor) -> tf.Tensor:
            bags_of_one = tf.range(tf.size(keys, tf.int64) + 1)
            return fft.ops.pooled_lookup(self.member_table, members(keys), bags_of_one)

        def mean(table: tf.Variable, rows: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
            return fft.ops.pooled_lookup(table, rows, offsets, pooling="mean")

        offsets = columns["candidate_offsets"]
        num_shared = columns["shared"].shape[1]
        viewer = tf.concat(
            [
                single(columns["viewer"]),
                mean(
                    self.member_table,
                    members(columns["history_members"]),
                    columns["history_member_offsets"],
                ),
                mean(
                    self.hashtag_table,
                    hashtags(columns["history_hashtags"]),
                    columns["history_hashtag_offsets"],
                ),
                self._scaled(columns["shared"], slice(0, num_shared)),
            ],
            axis=1,
        )
        candidates = offsets[1:] - offsets[:-1]
        raw = tf.concat([tf.repeat(columns["shared"], candidates, 0), columns["dense"]], axis=1)
        leaves = tf.cast(fft.ops.leaf_encode(raw, tf.constant(self._forest)), tf.int64)
        trees = tf.shape(leaves, tf.int64)[1]
        leaf_offsets = tf.range(tf.shape(leaves, tf.int64)[0] + 1) * trees
        return tf.concat(
            [
                tf.repeat(viewer, candidates, axis=0),
                single(columns["actor"]),
                single(columns["root_actor"]),
                mean(self.hashtag_table, hashtags(columns["hashtags"]), columns["hashtag_offsets"]),
                fft.ops.pooled_lookup(
                    self.leaf_table, tf.reshape(leaves, [-1]), leaf_offsets, pooling="sqrtn"
                ),
                self._scaled(columns["dense"], slice(num_shared, None)),
            ],
            axis=1,
        )

    def _scaled(self, x: tf.Tensor, part: slice) -> tf.Tensor:
        scaled = (x - self.mean[part]) * self.inv_std[part]
        return tf.where(tf.math.is_nan(scaled), 0.0, tf.clip_by_value(scaled, -LIMIT, LIMIT))


class _CrossLayer(tf.Module):  # type: ignore[misc]
    def __init__(self, layer: CrossWeights, name: str) -> None:
        super().__init__()
        self.factors = [
            tf.Variable(array, trainable=False, name=f"{name}/{part}")
            for part, array in (("down", layer.down), ("weight", layer.weight))
            if array is not None
        ]
        self.bias = tf.Variable(layer.bias, trainable=False, name=f"{name}/bias")

    def __call__(self, x0: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        crossed = x
        for factor in self.factors:
            crossed = tf.matmul(crossed, factor)
        return x0 * (crossed + self.bias) + x


class _Layer(tf.Module):  # type: ignore[misc]
    def __init__(self, layer: GatedLayer, name: str) -> None:
        super().__init__()

        def variable(array: Any, part: str) -> tf.Variable:
            return tf.Variable(array, trainable=False, name=f"{name}/{part}")

        self._gate, self._activation = layer.gate, layer.activation
        self.weight, self.bias = variable(layer.weight, "weight"), variable(layer.bias, "bias")
        self.gate_weight: Any = None
        self.gate_bias: Any = None
        if layer.gate is not None:
            self.gate_bias = variable(layer.gate_bias, "gate_bias")
            if isinstance(layer.gate_weight, tuple):
                down, up = layer.gate_weight
                self.gate_weight = (variable(down, "gate_down"), variable(up, "gate_weight"))
            else:
                self.gate_weight = variable(layer.gate_weight, "gate_weight")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return fft.ops.gated_dense(
            x,
            self.weight,
            self.bias,
            tuple(self.gate_weight) if isinstance(self.gate_weight, Sequence) else self.gate_weight,
            self.gate_bias,
            gate=self._gate,
            activation=self._activation,
        )


def _objective_order(artifact: RankerArtifact) -> list[int]:
    """For each objective the column of the towers' outputs, side by side."""
    outputs = tower_objectives(artifact.utility)
    columns = [name for tower in artifact.towers for name in outputs[tower]]
    return [columns.index(objective.name) for objective in artifact.utility.objectives]


def _signature(num_shared: int, num_dense: int) -> dict[str, tf.TensorSpec]:
    strings = ("viewer", "history_members", "history_hashtags", "actor", "root_actor", "hashtags")
    offsets = ("candidate", "history_member", "history_hashtag", "hashtag")
    return {
        **{name: tf.TensorSpec([None], tf.string, name) for name in strings},
        **{
            f"{name}_offsets": tf.TensorSpec([None], tf.int64, f"{name}_offsets")
            for name in offsets
        },
        "shared": tf.TensorSpec([None, num_shared], tf.float32, "shared"),
        "dense": tf.TensorSpec([None, num_dense], tf.float32, "dense"),
    }
