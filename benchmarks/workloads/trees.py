"""Leaf encoding against xgboost's own leaf prediction: 100 trees of depth 6, 64 features.

One value in ten is missing. `predict` gets a fresh DMatrix per call, as a service that holds
features in an array must; `predict_dmatrix_ready` leaves its construction out. The size rows are
the wire layouts of a request's leaves, as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import xgboost

from feedfast.bench import BenchOptions, BenchRow, compare, row
from feedfast.trees import LeafEncoder, train_forest

NUM_TREES = 100
NUM_FEATURES = 64
TARGET = 0.1  # of the time of xgboost, which treelite comes close to from batch 50 on


def run(options: BenchOptions) -> Iterator[BenchRow]:
    rng = np.random.default_rng(0)
    train = rng.standard_normal((2_000 if options.quick else 20_000, NUM_FEATURES), np.float32)
    train[rng.random(train.shape) < 0.1] = np.nan
    clicked = np.nan_to_num(train[:, :8]).sum(axis=1) > 0
    booster = train_forest(train, clicked, num_trees=NUM_TREES, threads=options.threads)
    booster.set_param({"nthread": options.threads})
    encoder = LeafEncoder.from_xgboost(booster)
    node_rows = _node_rows(booster, encoder)

    for batch in (1, 50, 500):
        x = train[:batch].copy()
        ready = xgboost.DMatrix(x, nthread=options.threads)

        def ours(x: np.ndarray = x) -> np.ndarray:
            return encoder(x, threads=options.threads)

        def peer(x: np.ndarray = x) -> np.ndarray:
            data = xgboost.DMatrix(x, nthread=options.threads)
            return booster.predict(data, pred_leaf=True)

        def ready_peer(ready: xgboost.DMatrix = ready) -> np.ndarray:
            return booster.predict(ready, pred_leaf=True)

        expected = node_rows[np.arange(NUM_TREES), peer().astype(np.int64)]
        np.testing.assert_array_equal(ours(), expected)
        repeats = 15 if options.quick else 200
        for name, other in (("predict", peer), ("predict_dmatrix_ready", ready_peer)):
            yield compare(
                f"trees/batch={batch}/threads={options.threads}/peer={name}",
                ours,
                other,
                peer_name=f"xgboost {xgboost.__version__} pred_leaf",
                target=TARGET,
                repeats=repeats,
            )
    yield from _wire_sizes(encoder, 500)


def _node_rows(booster: xgboost.Booster, encoder: LeafEncoder) -> np.ndarray:
    """[trees, nodes]: leaf row of every node id of every tree; -1 where it is no leaf."""
    model = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]
    left = [np.asarray(tree["left_children"]) for tree in model["trees"]]
    table = np.full((encoder.num_trees, max(nodes.size for nodes in left)), -1)
    is_leaf = np.stack([np.arange(table.shape[1]) < nodes.size for nodes in left])
    for leaves, nodes in zip(is_leaf, left, strict=True):
        leaves[: nodes.size] &= nodes == -1
    table[is_leaf] = np.arange(encoder.num_leaves)
    return table


def _wire_sizes(encoder: LeafEncoder, batch: int) -> Iterator[BenchRow]:
    """Bytes of one request's leaves, dense against a sparse tensor (two int64 indices, a value)."""
    values = batch * encoder.num_trees
    sparse_int64 = values * (2 * 8 + 8)
    sparse_float32 = values * (2 * 8 + 4)
    for layout, item_bytes, peer, peer_bytes, target in (
        ("int64", 8, "sparse tensor, int64 values", sparse_int64, 1 / 3),
        ("int32", 4, "sparse tensor, float32 values", sparse_float32, 1 / 5),
        ("uint8_ordinals", 1, "sparse tensor, float32 values", sparse_float32, 1 / 20),
    ):
        yield row(
            f"trees/wire/dense={layout}",
            values * item_bytes,
            "bytes",
            peer=peer,
            peer_value=peer_bytes,
            target=target,
        )
