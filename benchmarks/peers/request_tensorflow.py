"""The ranker of request_model in TensorFlow and xgboost: a stock SavedModel and a tuned function.

The stock model is what a trained Keras model serves: `StaticHashTable`, `embedding_lookup_sparse`
for the history and hashtags of every candidate, float32. The tuned one pools the history once per
request, and may run its towers in bfloat16 with weights stored so. Both take leaves that xgboost's
`predict(pred_leaf=True)` finds inside the timed call, and string tensors made before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import request_model
import tensorflow as tf
import xgboost
from numpy.typing import NDArray

from feedfast import LeafEncoder, Request, Vocabulary
from feedfast.gated_mlp import GatedLayer

NAME = f"tensorflow {tf.__version__}"


def configure(threads: int) -> None:
    """Sizes of TensorFlow's pools, which cannot change once it runs, and its graph rewrites.

    The arithmetic optimiser makes sparse lookups read the whole variable
    (SimplifyEmbeddingLookupStage), which copies the table in every call: 20 ms a request with
    tables of 1 M and 200 k rows. The peer is faster without it, so it is off.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})


class Inputs(NamedTuple):
    """A request as a TensorFlow service holds it, and the features that xgboost reads."""

    tensors: dict[str, tf.Tensor]
    features: NDArray[np.float32]


def make_inputs(request: Request) -> Inputs:
    keys: Any = request
    values, offsets = keys.hashtags
    lengths = np.diff(offsets)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(owners)) - np.repeat(offsets[:-1], lengths)
    dense = np.asarray(request.dense)
    shared = np.broadcast_to(
        np.asarray(request.shared, np.float32), (len(dense), request_model.NUM_SHARED)
    )
    tensors = {
        "viewer": tf.constant([keys.viewer]),
        "history_members": tf.constant(keys.history_members),
        "history_hashtags": tf.constant(keys.history_hashtags),
        "shared": tf.constant(request.shared),
        "actor": tf.constant(keys.actor),
        "root_actor": tf.constant(keys.root_actor),
        "hashtags": tf.constant(values, dtype=tf.string),
        "hashtag_indices": tf.constant(np.stack([owners, places], axis=1).astype(np.int64)),
        "dense": tf.constant(dense),
    }
    return Inputs(tensors, np.concatenate([shared, dense], axis=1))


class Leaves:
    """xgboost's leaf prediction, as rows of the model's leaf table."""

    def __init__(self, booster: xgboost.Booster, forest: LeafEncoder, threads: int) -> None:
        self._booster = booster
        self._threads = threads
        frame = booster.trees_to_dataframe()
        leaves = frame[frame["Feature"] == "Leaf"]
        self._rows = np.zeros((forest.num_trees, int(frame["Node"].max()) + 1), dtype=np.int64)
        for tree, nodes in leaves.groupby("Tree")["Node"]:
            self._rows[tree, np.sort(nodes)] = np.arange(len(nodes)) + forest.leaf_offsets[tree]
        self._trees = np.arange(forest.num_trees)

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        data = xgboost.DMatrix(features, nthread=self._threads)
        nodes = self._booster.predict(data, pred_leaf=True).reshape(len(features), -1)
        return self._rows[self._trees, nodes.astype(np.int64)]


class Ranker(tf.Module):
    """The model with variables of its own; `tuned` pools the history once."""

    def __init__(
        self, model: request_model.Model, folder: Path, *, tuned: bool, dtype: Any = tf.float32
    ) -> None:
        super().__init__()
        artifact = model.artifact
        self._tuned, self._dtype = tuned, dtype
        self._member_rows, members = _table(
            folder / "members.txt", model.members, artifact.member_vocabulary, artifact.member_table
        )
        self._hashtag_rows, hashtags = _table(
            folder / "hashtags.txt",
            model.hashtags,
            artifact.hashtag_vocabulary,
            artifact.hashtag_table,
        )
        self._member_table = tf.Variable(members, trainable=False)
        self._hashtag_table = tf.Variable(hashtags, trainable=False)
        self._leaf_table = tf.Variable(artifact.leaf_table, trainable=False)
        self._mean = tf.constant(artifact.mean)
        self._inv_std = tf.constant(artifact.inv_std)
        self._towers = [tower_variables(layers, dtype) for layers in artifact.towers.values()]
        self._coefficients = tf.constant(artifact.utility.coefficients())

    @tf.function(
        input_signature=[
            tf.TensorSpec([1], tf.string, "viewer"),
            tf.TensorSpec([None], tf.string, "history_members"),
            tf.TensorSpec([None], tf.string, "history_hashtags"),
            tf.TensorSpec([request_model.NUM_SHARED], tf.float32, "shared"),
            tf.TensorSpec([None], tf.string, "actor"),
            tf.TensorSpec([None], tf.string, "root_actor"),
            tf.TensorSpec([None], tf.string, "hashtags"),
            tf.TensorSpec([None, 2], tf.int64, "hashtag_indices"),
            tf.TensorSpec([None, request_model.NUM_DENSE], tf.float32, "dense"),
            tf.TensorSpec([None, request_model.NUM_TREES], tf.int64, "leaves"),
        ]
    )
    def score(
        self,
        viewer: tf.Tensor,
        history_members: tf.Tensor,
        history_hashtags: tf.Tensor,
        shared: tf.Tensor,
        actor: tf.Tensor,
        root_actor: tf.Tensor,
        hashtags: tf.Tensor,
        hashtag_indices: tf.Tensor,
        dense: tf.Tensor,
        leaves: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        candidates = tf.shape(actor)[0]
        split = request_model.NUM_SHARED

        def repeated(row: tf.Tensor) -> tf.Tensor:
            return tf.tile(row, [candidates, 1])

        def history(table: tf.Variable, rows: tf.Tensor) -> tf.Tensor:
            if self._tuned:
                pooled = tf.reduce_mean(tf.gather(table, rows), axis=0, keepdims=True)
                return repeated(pooled)
            length = tf.shape(rows)[0]
            bags = tf.RaggedTensor.from_uniform_row_length(tf.tile(rows, [candidates]), length)
            return tf.nn.embedding_lookup_sparse(table, bags.to_sparse(), None, combiner="mean")

        pooled_hashtags = tf.nn.safe_embedding_lookup_sparse(
            self._hashtag_table,
            tf.SparseTensor(
                hashtag_indices,
                self._hashtag_rows.lookup(hashtags) + 1,
                tf.stack([tf.cast(candidates, tf.int64), request_model.MAX_HASHTAGS]),
            ),
            combiner="mean",
        )
        leaf_vectors = tf.reduce_sum(tf.gather(self._leaf_table, leaves), axis=1)
        leaf_scale = np.float32(1 / np.sqrt(request_model.NUM_TREES))
        parts = [
            repeated(self._members(viewer)),
            history(self._member_table, self._member_rows.lookup(history_members) + 1),
            history(self._hashtag_table, self._hashtag_rows.lookup(history_hashtags) + 1),
            repeated(_normalized(shared, self._mean[:split], self._inv_std[:split])[tf.newaxis]),
            self._members(actor),
            self._members(root_actor),
            tf.ensure_shape(pooled_hashtags, [None, request_model.DIM]),
            leaf_vectors * leaf_scale,
            _normalized(dense, self._mean[split:], self._inv_std[split:]),
        ]
        x = tf.cast(tf.concat(parts, axis=1), self._dtype)
        logits = [tf.cast(apply_tower(layers, x), tf.float32) for layers in self._towers]
        probabilities = tf.sigmoid(tf.concat(logits, axis=1))
        score = tf.linalg.matvec(probabilities, self._coefficients)
        return {
            "probabilities": probabilities,
            "score": score,
            "order": tf.argsort(score, direction="DESCENDING", stable=True),
        }

    def _members(self, keys: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._member_table, self._member_rows.lookup(keys) + 1)


class TimedRanker:
    """What is timed: leaves by xgboost, then the function; arrays as a caller reads them."""

    def __init__(self, function: Any, leaves: Leaves) -> None:
        self._function = function
        self._leaves = leaves

    def __call__(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        leaves = tf.constant(self._leaves(inputs.features))
        outputs = self._function(**inputs.tensors, leaves=leaves)
        return {name: output.numpy() for name, output in outputs.items()}


def save(ranker: Ranker, folder: Path) -> None:
    tf.saved_model.save(ranker, str(folder), signatures={"serving_default": ranker.score})


def load(folder: Path) -> Any:
    """(function, its model, which must outlive the function)."""
    loaded = tf.saved_model.load(str(folder))
    return loaded.signatures["serving_default"], loaded


def apply_tower(layers: Sequence[dict[str, tf.Variable]], x: tf.Tensor) -> tf.Tensor:
    """Hidden-gate layers and a linear head."""
    for layer in layers[:-1]:
        x = tf.nn.relu(tf.nn.bias_add(x @ layer["weight"], layer["bias"]))
        x *= tf.sigmoid(tf.nn.bias_add(x @ layer["gate_weight"], layer["gate_bias"]))
    return tf.nn.bias_add(x @ layers[-1]["weight"], layers[-1]["bias"])


def tower_variables(layers: Sequence[GatedLayer], dtype: Any) -> list[dict[str, tf.Variable]]:
    names = ("weight", "bias", "gate_weight", "gate_bias")
    return [
        {
            name: tf.Variable(tf.cast(value, dtype), trainable=False)
            for name in names
            if (value := getattr(layer, name)) is not None
        }
        for layer in layers
    ]


def _normalized(x: tf.Tensor, mean: tf.Tensor, inv_std: tf.Tensor) -> tf.Tensor:
    z = tf.clip_by_value((x - mean) * inv_std, -8.0, 8.0)
    return tf.where(tf.math.is_nan(x), 0.0, z)


def _table(
    path: Path, keys: list[str], vocabulary: Vocabulary, table: NDArray[np.float32]
) -> tuple[tf.lookup.StaticHashTable, NDArray[np.float32]]:
    """Key to line, -1 for unknown keys; and the table in the order of the lines behind row 0."""
    if not path.exists():
        path.write_text("\n".join(keys) + "\n")
    lines = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(path),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        default_value=-1,
    )
    rows = np.concatenate([[0], vocabulary.lookup(keys)])
    return lines, table[rows]
