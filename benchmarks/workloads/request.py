"""One feed request, from strings to an ordered feed, against the same model in TensorFlow.

1 M members, 200 k hashtags, dim 64, 50 + 20 history ids, Zipf(1.05) ids, 100 trees, two hidden-gate
towers of 512-256-128, 8 heads. The peer is a `tf.function` of StaticHashTable,
embedding_lookup_sparse and matmul with the same weights, fed with string tensors made beforehand,
with xgboost's leaf prediction inside the timed call. It pools the history once per request. Ours
starts from Python lists. Several requests take turns, so that no side sees the same ids again.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import xgboost
from numpy.typing import NDArray

from feedfast import LeafEncoder, ModelStore, Request, Scorer, Vocabulary
from feedfast.bench import BenchOptions, BenchRow, row, time_interleaved
from feedfast.config import HistoryConfig
from feedfast.gated_mlp import GatedLayer
from feedfast.input_layout import InputLayout
from feedfast.objectives import Objective, Utility
from feedfast.ranker_artifact import RankerArtifact, publish_ranker
from feedfast.ranker_description import tower_objectives
from feedfast.trees import train_forest

DIM = 64
LEAF_DIM = 16
NUM_SHARED, NUM_DENSE = 16, 48
NUM_TREES = 100
UNITS = (512, 256, 128)
HISTORY_MEMBERS, HISTORY_HASHTAGS = 50, 20
NUM_REQUESTS = 16

# At least as fast with float32 layers; the dense part bounds both sides.
TARGET = 1.0
# p99 within this factor of p50.
TAIL_TARGET = 1.5


def run(options: BenchOptions) -> Iterator[BenchRow]:
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    rng = np.random.default_rng(0)
    members = [f"urn:li:member:{i}" for i in range(20_000 if options.quick else 1_000_000)]
    hashtags = [f"urn:li:hashtag:{i}" for i in range(5_000 if options.quick else 200_000)]
    x = rng.standard_normal((5_000, NUM_SHARED + NUM_DENSE), dtype=np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    clicked = np.nan_to_num(x[:, :8]).sum(axis=1) > 0
    booster = train_forest(x, clicked, num_trees=NUM_TREES, threads=options.threads)
    booster.set_param({"nthread": options.threads})
    artifact = make_artifact(rng, members, hashtags, LeafEncoder.from_xgboost(booster))
    peer = TensorFlowRanker(artifact, members, hashtags, booster, options.threads)

    with tempfile.TemporaryDirectory() as folder:
        scorers = {}
        for precision in ("fp32", "int8"):
            publish_ranker(ModelStore(folder), precision, artifact, precision=precision)
            scorers[precision] = Scorer.open(folder, precision, threads=options.threads)
        for candidates in (1, 50, 500):
            requests = [
                make_request(rng, members, hashtags, candidates) for _ in range(NUM_REQUESTS)
            ]
            tensors = [peer.tensors(request) for request in requests]
            check(scorers, peer, requests, tensors)
            repeats = 5 if options.quick else 200
            functions = [
                *(Cycle(scorer.score, requests) for scorer in scorers.values()),
                Cycle(peer, tensors),
            ]
            *ours, theirs = time_interleaved(list(functions), repeats=repeats)
            for precision, taken in zip(scorers, ours, strict=True):
                name = f"request/candidates={candidates}/precision={precision}"
                name += f"/threads={options.threads}"
                for percentile in (50, 99):
                    yield row(
                        f"{name}/p{percentile}",
                        1e6 * float(np.percentile(taken, percentile)),
                        "us",
                        peer=f"tensorflow {tf.__version__}",
                        peer_value=1e6 * float(np.percentile(theirs, percentile)),
                        target=TARGET,
                    )
                yield row(
                    f"{name}/p99_of_p50",
                    1e6 * float(np.percentile(taken, 99)),
                    "us",
                    peer="its own p50",
                    peer_value=1e6 * float(np.percentile(taken, 50)),
                    target=TAIL_TARGET,
                )


class Cycle:
    """Calls a function with the next of several arguments."""

    def __init__(self, function: Any, arguments: list[Any]) -> None:
        self._function = function
        self._arguments = itertools.cycle(arguments)

    def __call__(self) -> object:
        return self._function(next(self._arguments))


def check(
    scorers: dict[str, Scorer], peer: TensorFlowRanker, requests: list[Request], tensors: Any
) -> None:
    for request, tensor in zip(requests, tensors, strict=True):
        want = peer(tensor)
        got = scorers["fp32"].score(request)
        np.testing.assert_allclose(got.probabilities, want[0], atol=1e-5)
        np.testing.assert_array_equal(np.sort(got.order), np.sort(want[2]))
        small = scorers["int8"].score(request)
        np.testing.assert_allclose(small.probabilities, want[0], atol=2e-2)


def zipf(rng: np.random.Generator, keys: list[str], count: int) -> list[str]:
    """Keys by rank, P(rank) ~ rank ** -1.05."""
    ranks = np.minimum(rng.zipf(1.05, 4 * count + 16), 1 << 62)
    ranks = ranks[ranks <= len(keys)][:count]
    while len(ranks) < count:
        ranks = np.append(ranks, rng.integers(1, len(keys) + 1))
    # Neighbouring ranks are not neighbouring rows.
    return [keys[(int(rank) * 2_654_435_761) % len(keys)] for rank in ranks]


def make_request(
    rng: np.random.Generator, members: list[str], hashtags: list[str], candidates: int
) -> Request:
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 6, candidates))])
    dense = rng.standard_normal((candidates, NUM_DENSE), dtype=np.float32)
    dense[rng.random(dense.shape) < 0.1] = np.nan
    return Request(
        viewer=zipf(rng, members, 1)[0],
        history_members=zipf(rng, members, HISTORY_MEMBERS),
        history_hashtags=zipf(rng, hashtags, HISTORY_HASHTAGS),
        shared=rng.standard_normal(NUM_SHARED, dtype=np.float32),
        item=[f"urn:li:activity:{i}" for i in range(candidates)],
        actor=zipf(rng, members, candidates),
        root_actor=zipf(rng, members, candidates),
        hashtags=(zipf(rng, hashtags, int(offsets[-1])), offsets),
        dense=dense,
    )


def make_artifact(
    rng: np.random.Generator, members: list[str], hashtags: list[str], forest: LeafEncoder
) -> RankerArtifact:
    layout = InputLayout(
        member_dim=DIM,
        hashtag_dim=DIM,
        leaf_dim=LEAF_DIM,
        num_shared=NUM_SHARED,
        num_dense=NUM_DENSE,
    )
    objectives = tuple(
        Objective(f"{group}{i}", group) for group in ("passive", "active") for i in range(4)
    )
    utility = Utility(objectives=objectives, weights=(1.0, 2.0, 5.0, 9.0) * 2)

    def weights(*shape: int) -> NDArray[np.float32]:
        scale = np.float32(1 / np.sqrt(shape[0]))
        return scale * rng.standard_normal(shape, dtype=np.float32)

    def tower(outputs: int) -> tuple[GatedLayer, ...]:
        layers, width = [], layout.num_inputs
        for units in UNITS:
            layers.append(
                GatedLayer(
                    weights(width, units),
                    np.zeros(units, np.float32),
                    weights(units, units),
                    np.zeros(units, np.float32),
                    "hidden",
                )
            )
            width = units
        head = GatedLayer(weights(width, outputs), np.zeros(outputs, np.float32))
        return (*layers, GatedLayer(head.weight, head.bias, activation="linear"))

    member_vocabulary, hashtag_vocabulary = Vocabulary.build(members), Vocabulary.build(hashtags)
    features = NUM_SHARED + NUM_DENSE
    return RankerArtifact(
        member_vocabulary=member_vocabulary,
        hashtag_vocabulary=hashtag_vocabulary,
        member_table=rng.standard_normal((member_vocabulary.num_rows, DIM), dtype=np.float32),
        hashtag_table=rng.standard_normal((hashtag_vocabulary.num_rows, DIM), dtype=np.float32),
        leaf_table=rng.standard_normal((forest.num_leaves, LEAF_DIM), dtype=np.float32),
        forest=forest,
        shared_names=tuple(f"shared{i}" for i in range(NUM_SHARED)),
        dense_names=tuple(f"dense{i}" for i in range(NUM_DENSE)),
        history=HistoryConfig(),
        mean=np.zeros(features, np.float32),
        inv_std=np.ones(features, np.float32),
        towers={name: tower(len(names)) for name, names in tower_objectives(utility).items()},
        utility=utility,
    )


class RequestTensors(NamedTuple):
    """A request as a TensorFlow service holds it."""

    viewer: tf.Tensor
    history_members: tf.Tensor
    history_hashtags: tf.Tensor
    shared: tf.Tensor
    actor: tf.Tensor
    root_actor: tf.Tensor
    hashtags: tf.SparseTensor
    dense: tf.Tensor
    features: NDArray[np.float32]


class TensorFlowRanker:
    """The artifact's model in stock TensorFlow and xgboost."""

    def __init__(
        self,
        artifact: RankerArtifact,
        members: list[str],
        hashtags: list[str],
        booster: xgboost.Booster,
        threads: int,
    ) -> None:
        def table(keys: list[str], vocabulary: Vocabulary) -> tf.lookup.StaticHashTable:
            rows = tf.constant(vocabulary.lookup(keys))
            return tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(tf.constant(keys), rows), default_value=0
            )

        self._booster = booster
        self._threads = threads
        self._leaf_rows = _leaf_rows(booster, artifact.forest)
        self._member_rows = table(members, artifact.member_vocabulary)
        self._hashtag_rows = table(hashtags, artifact.hashtag_vocabulary)
        self._member_table = tf.Variable(artifact.member_table, trainable=False)
        self._hashtag_table = tf.Variable(artifact.hashtag_table, trainable=False)
        self._leaf_table = tf.Variable(artifact.leaf_table, trainable=False)
        self._mean, self._inv_std = tf.constant(artifact.mean), tf.constant(artifact.inv_std)
        self._towers = [
            [
                {
                    key: None if value is None else tf.constant(value)
                    for key, value in (
                        ("weight", layer.weight),
                        ("bias", layer.bias),
                        ("gate_weight", layer.gate_weight),
                        ("gate_bias", layer.gate_bias),
                    )
                }
                for layer in layers
            ]
            for layers in artifact.towers.values()
        ]
        self._coefficients = tf.constant(artifact.utility.coefficients())
        self._function = tf.function(self._score, reduce_retracing=True)

    def tensors(self, request: Request) -> RequestTensors:
        keys: Any = request
        hashtags: Any = request.hashtags
        lengths = np.diff(hashtags[1])
        owners = np.repeat(np.arange(len(lengths)), lengths)
        places = np.arange(len(owners)) - np.repeat(hashtags[1][:-1], lengths)
        dense = np.asarray(request.dense)
        shared = np.broadcast_to(np.asarray(request.shared), (len(dense), NUM_SHARED))
        return RequestTensors(
            viewer=tf.constant([keys.viewer]),
            history_members=tf.constant(keys.history_members),
            history_hashtags=tf.constant(keys.history_hashtags),
            shared=tf.constant(request.shared),
            actor=tf.constant(keys.actor),
            root_actor=tf.constant(keys.root_actor),
            hashtags=tf.SparseTensor(
                np.stack([owners, places], axis=1).astype(np.int64),
                tf.constant(hashtags[0], dtype=tf.string),
                (len(lengths), 6),
            ),
            dense=tf.constant(dense),
            features=np.concatenate([shared, dense], axis=1),
        )

    def __call__(self, request: RequestTensors) -> list[NDArray[Any]]:
        data = xgboost.DMatrix(request.features, nthread=self._threads)
        nodes = self._booster.predict(data, pred_leaf=True)
        leaves = self._leaf_rows[np.arange(NUM_TREES), nodes.reshape(-1, NUM_TREES).astype(int)]
        outputs = self._function(
            request.viewer,
            request.history_members,
            request.history_hashtags,
            request.shared,
            request.actor,
            request.root_actor,
            request.hashtags,
            request.dense,
            tf.constant(leaves),
        )
        return [output.numpy() for output in outputs]

    def _score(
        self,
        viewer: tf.Tensor,
        history_members: tf.Tensor,
        history_hashtags: tf.Tensor,
        shared: tf.Tensor,
        actor: tf.Tensor,
        root_actor: tf.Tensor,
        hashtags: tf.SparseTensor,
        dense: tf.Tensor,
        leaves: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        def members(keys: tf.Tensor) -> tf.Tensor:
            return tf.gather(self._member_table, self._member_rows.lookup(keys))

        def normalized(x: tf.Tensor, mean: tf.Tensor, inv_std: tf.Tensor) -> tf.Tensor:
            z = tf.clip_by_value((x - mean) * inv_std, -8.0, 8.0)
            return tf.where(tf.math.is_nan(x), 0.0, z)

        candidates = tf.shape(actor)[0]
        history_rows = self._hashtag_rows.lookup(history_hashtags)
        viewer_part = tf.concat(
            [
                members(viewer)[0],
                tf.reduce_mean(members(history_members), axis=0),
                tf.reduce_mean(tf.gather(self._hashtag_table, history_rows), axis=0),
                normalized(shared, self._mean[:NUM_SHARED], self._inv_std[:NUM_SHARED]),
            ],
            axis=0,
        )
        # safe_: candidates without hashtags get zeros.
        pooled = tf.nn.safe_embedding_lookup_sparse(
            self._hashtag_table,
            tf.SparseTensor(
                hashtags.indices,
                self._hashtag_rows.lookup(hashtags.values),
                hashtags.dense_shape,
            ),
            combiner="mean",
            allow_fast_lookup=True,
        )
        leaf_vectors = tf.gather(self._leaf_table, leaves)
        x = tf.concat(
            [
                tf.tile(viewer_part[tf.newaxis], [candidates, 1]),
                members(actor),
                members(root_actor),
                tf.ensure_shape(pooled, [None, DIM]),
                tf.reduce_sum(leaf_vectors, axis=1) / np.sqrt(NUM_TREES).astype(np.float32),
                normalized(dense, self._mean[NUM_SHARED:], self._inv_std[NUM_SHARED:]),
            ],
            axis=1,
        )
        logits = []
        for layers in self._towers:
            y = x
            for layer in layers[:-1]:
                y = tf.nn.relu(tf.nn.bias_add(y @ layer["weight"], layer["bias"]))
                y *= tf.sigmoid(tf.nn.bias_add(y @ layer["gate_weight"], layer["gate_bias"]))
            logits.append(tf.nn.bias_add(y @ layers[-1]["weight"], layers[-1]["bias"]))
        probabilities = tf.sigmoid(tf.concat(logits, axis=1))
        score = tf.linalg.matvec(probabilities, self._coefficients)
        return probabilities, score, tf.argsort(score, direction="DESCENDING", stable=True)


def _leaf_rows(booster: xgboost.Booster, forest: LeafEncoder) -> NDArray[np.int64]:
    """[trees, node ids]: row of the leaf table."""
    frame = booster.trees_to_dataframe()
    leaves = frame[frame["Feature"] == "Leaf"]
    table = np.zeros((NUM_TREES, int(frame["Node"].max()) + 1), dtype=np.int64)
    for tree, nodes in leaves.groupby("Tree")["Node"]:
        table[tree, np.sort(nodes)] = np.arange(len(nodes)) + forest.leaf_offsets[tree]
    return table
