"""What moving sparse features into the trees saves, and what it leaves as it was.

The stages are those of benchmarks/peers/request_progression.py: many sparse features, one sparse
tree input, one dense tree input, in front of the same layers. Ours take the same inputs: strings
in lists, leaves from the raw features. Times are by part of the work: `strings` to rows, `trees`,
`lookups`, `dense`; `total` is the whole, `network` all but the trees: what TensorFlow serves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import request_model
import request_progression
import request_tensorflow
import request_tensorflow_stages
import tensorflow as tf
from numpy.typing import NDArray

from feedfast import Bags, GatedMLP, PooledFeature, Vocabulary, pooled_lookup, pooled_lookup_grouped
from feedfast.bench import BenchOptions, BenchRow, row, time_interleaved

CANDIDATES = 500
ROUNDS, QUICK_ROUNDS = 60, 3
PARTS = ("strings", "trees", "lookups", "dense")
# The dense work stays as it is, whatever the encoding.
SPREAD_TARGET = 1.1
LOGIT_TOLERANCE = 1e-4
# A dense tensor is a third of the same ids with their indices.
WIRE_TARGET = 1 / 3
STAGES = request_progression.STAGES


class Ours:
    """The three encodings with feedfast's kernels; `seconds` by stage and part, one per call."""

    def __init__(self, given: Inputs, threads: int) -> None:
        self._given = given
        self._threads = threads
        self._vocabularies = [
            Vocabulary.build(known, rows=np.arange(1, len(known) + 1)) for known in given.known
        ]
        self._mlp = GatedMLP(given.layers)
        self._ones = np.arange(CANDIDATES + 1)
        self._bags = np.arange(CANDIDATES * given.model.artifact.forest.num_trees + 1)
        self.seconds: dict[str, dict[str, list[float]]] = {stage: {} for stage in STAGES}

    def many_sparse(self) -> NDArray[np.float32]:
        stage = "many_sparse"
        given = self._given
        with self._part(stage, "strings"):
            rows = [
                vocabulary.lookup(column)
                for vocabulary, column in zip(self._vocabularies, given.words, strict=True)
            ]
        with self._part(stage, "lookups"):
            x = pooled_lookup_grouped(
                [
                    PooledFeature(table, Bags(ids, self._ones), "mean")
                    for table, ids in zip(given.tables, rows, strict=True)
                ],
                threads=self._threads,
            )
        return self._dense(stage, x)

    def tree_sparse(self) -> NDArray[np.float32]:
        stage = "tree_sparse"
        with self._part(stage, "trees"):
            leaves = self._encode().astype(np.int64)
        with self._part(stage, "lookups"):
            # From COO to bags: where each pair of candidate and tree starts.
            trees = self._given.model.artifact.forest.num_trees
            places = self._given.indices @ np.array([trees, 1])
            x = self._pool(leaves, np.searchsorted(places, self._bags))
        return self._dense(stage, x)

    def tree_dense(self) -> NDArray[np.float32]:
        stage = "tree_dense"
        with self._part(stage, "trees"):
            leaves = self._encode()
        with self._part(stage, "lookups"):
            x = self._pool(leaves, self._bags)
        return self._dense(stage, x)

    def _encode(self) -> NDArray[np.int32]:
        given = self._given
        return given.model.artifact.forest(given.features, threads=self._threads)

    def _pool(self, leaves: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        table = self._given.leaf_table
        vectors = pooled_lookup(table, leaves.reshape(-1), offsets, threads=self._threads)
        return vectors.reshape(CANDIDATES, -1)

    def _dense(self, stage: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._part(stage, "dense"):
            return self._mlp(x, threads=self._threads)

    @contextmanager
    def _part(self, stage: str, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage].setdefault(name, []).append(time.perf_counter() - start)


class Inputs:
    """Candidates in all three forms, and the weights."""

    def __init__(self, options: BenchOptions) -> None:
        rng = np.random.default_rng(0)
        count, width = request_progression.NUM_FEATURES, request_progression.WIDTH
        self.model = request_model.build(threads=options.threads, quick=True)
        forest = self.model.artifact.forest
        request = request_model.make_request(rng, self.model, CANDIDATES)
        shared = np.broadcast_to(np.asarray(request.shared), (CANDIDATES, request_model.NUM_SHARED))
        self.features = np.concatenate([shared, np.asarray(request.dense)], axis=1)
        # Every feature of the first half as a string: its bucket, `missing` where there is none.
        buckets = np.nan_to_num(self.features[:, :count] * 40 + 100, nan=-1)
        buckets = buckets.clip(-1, request_progression.BUCKETS - 1).astype(int)
        self.known = [
            [f"feature{i}=missing"]
            + [f"feature{i}=bucket{b}" for b in range(request_progression.BUCKETS)]
            for i in range(count)
        ]
        self.words = [[self.known[i][1 + b] for b in buckets[:, i]] for i in range(count)]
        self.tables = [
            rng.standard_normal((len(known) + 1, width // count), dtype=np.float32)
            for known in self.known
        ]
        leaf_dim = width // forest.num_trees
        self.leaf_table = rng.standard_normal((forest.num_leaves, leaf_dim), dtype=np.float32)
        utility = request_model.make_utility({"passive": 4})
        self.layers = request_model.make_towers(rng, width, utility)["passive"]
        trees = np.arange(forest.num_trees)
        owners = np.repeat(np.arange(CANDIDATES), len(trees))
        self.indices = np.stack([owners, np.tile(trees, CANDIDATES)], axis=1)


class Theirs:
    """The three encodings in TensorFlow and xgboost."""

    def __init__(self, given: Inputs, options: BenchOptions) -> None:
        model = given.model
        self._given = given
        self._leaves = request_tensorflow.Leaves(
            model.booster, model.artifact.forest, options.threads
        )
        self._encodings = request_progression.Encodings(
            given.known, given.tables, given.leaf_table, given.layers
        )
        self._words = [tf.constant(column) for column in given.words]
        self._rows = tf.constant([[i, 0] for i in range(CANDIDATES)], tf.int64)
        self._shape = tf.constant([CANDIDATES, model.artifact.forest.num_trees], tf.int64)

    def leaves(self) -> NDArray[np.int64]:
        return self._leaves(self._given.features)

    def many_sparse(self) -> Any:
        return self._encodings.many_sparse(self._words, self._rows).numpy()

    def tree_sparse(self) -> Any:
        to_wire = request_progression.to_wire
        leaves = self.leaves().reshape(-1)
        return self._encodings.tree_sparse(
            to_wire(self._given.indices), to_wire(leaves), self._shape
        ).numpy()

    def tree_dense(self) -> Any:
        leaves = self.leaves().astype(np.int32)
        return self._encodings.tree_dense(request_progression.to_wire(leaves)).numpy()


def run(options: BenchOptions) -> Iterator[BenchRow]:
    if options.threads != 1:
        raise ValueError("request progression is that of one thread; run it with --threads 1")
    request_tensorflow.configure(1)
    given = Inputs(options)
    ours, theirs = Ours(given, 1), Theirs(given, options)
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    for stage in STAGES:
        np.testing.assert_allclose(
            getattr(ours, stage)(), getattr(theirs, stage)(), atol=LOGIT_TOLERANCE
        )
    sides = [getattr(side, stage) for stage in STAGES for side in (ours, theirs)]
    leaf_times, *times = time_interleaved([theirs.leaves, *sides], repeats=rounds)
    dense: dict[str, list[float]] = {"feedfast": [], "tensorflow": []}
    for index, stage in enumerate(STAGES):
        my_times, peer_times = times[2 * index : 2 * index + 2]
        my_parts = {
            part: float(np.median(taken[-rounds:])) for part, taken in ours.seconds[stage].items()
        }
        peer_parts = request_tensorflow_stages.stage_seconds(getattr(theirs, stage), rounds)
        if stage != "many_sparse":
            peer_parts["trees"] = float(np.median(leaf_times))
        my_parts["total"] = float(np.median(my_times))
        peer_parts["total"] = float(np.median(peer_times))
        for parts in (my_parts, peer_parts):
            parts["network"] = parts["total"] - parts.get("trees", 0.0)
        dense["feedfast"].append(my_parts["dense"])
        dense["tensorflow"].append(peer_parts["dense"])
        for part in (*PARTS, "network", "total"):
            if part in my_parts and part in peer_parts:
                yield row(
                    f"request/progression/stage={stage}/{part}",
                    1e6 * my_parts[part],
                    "us",
                    peer=request_tensorflow.NAME,
                    peer_value=1e6 * peer_parts[part],
                )
    for side, seconds in dense.items():
        yield row(
            f"request/progression/dense_spread/{side}",
            1e6 * max(seconds),
            "us",
            peer="the stage with the fastest dense work",
            peer_value=1e6 * min(seconds),
            target=SPREAD_TARGET,
        )
    leaves = given.model.artifact.forest(given.features)
    yield row(
        "request/progression/wire_bytes",
        leaves.nbytes,
        "bytes",
        peer="COO, int64 indices and ids",
        peer_value=given.indices.nbytes + leaves.astype(np.int64).nbytes,
        target=WIRE_TARGET,
    )
