"""Leaf encoding against treelite's and xgboost's own leaf prediction.

100 trees of depth 6, 64 features, one value in ten missing: batches of 1, 50 and 500 rows.
`predict` gets a fresh DMatrix per call, as a service that holds features in an array must;
`predict_dmatrix_ready` leaves its construction out. Three other forests at batch 500: trees of
depth 8, unbalanced trees, and trees that split eight of the features by category. The size rows are
the wire layouts of a request's leaves, as bytes. Without treelite its rows are left out, with a
line that says so.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import xgboost

from feedfast.bench import BenchOptions, BenchRow, compare, row
from feedfast.trees import LeafEncoder, train_forest

sys.path.append(str(Path(__file__).parents[1] / "peers"))
NUM_TREES = 100
NUM_FEATURES = 64
NUM_CATEGORIES = 40
TARGET = 0.1  # of the time of treelite, and of xgboost
TARGET_ONE_ROW = 5 / 24  # 5 us where treelite takes 24


def run(options: BenchOptions) -> Iterator[BenchRow]:
    treelite = _import_treelite()
    train = _features(2_000 if options.quick else 20_000)
    clicked = np.nan_to_num(train[:, :8]).sum(axis=1) > 0
    booster = train_forest(train, clicked, num_trees=NUM_TREES, threads=options.threads)
    booster.set_param({"nthread": options.threads})
    encoder = LeafEncoder.from_xgboost(booster)
    repeats = 15 if options.quick else 200
    for batch in (1, 50, 500):
        yield from _against_treelite(
            f"trees/batch={batch}", booster, train[:batch].copy(), treelite, repeats, options
        )
        yield from _against_xgboost(encoder, booster, train[:batch].copy(), repeats, options)
    for name, other in _other_forests(train, clicked, options):
        yield from _against_treelite(
            f"trees/batch=500/forest={name}", other, train[:500].copy(), treelite, repeats, options
        )
    yield from _wire_sizes(encoder(train[:500]), encoder.ordinals(train[:500]))


def _import_treelite() -> ModuleType | None:
    try:
        return importlib.import_module("trees_treelite")
    except ImportError as error:
        logging.getLogger("feedfast.bench").warning("treelite is not measured: %s", error)
        return None


def _features(rows: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, NUM_FEATURES), np.float32)
    x[:, -8:] = rng.integers(0, NUM_CATEGORIES, (rows, 8))
    x[rng.random(x.shape) < 0.1] = np.nan
    return x


def _other_forests(
    x: np.ndarray[Any, Any], clicked: np.ndarray[Any, Any], options: BenchOptions
) -> Iterator[tuple[str, xgboost.Booster]]:
    parameters = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "learning_rate": 0.1,
        "nthread": options.threads,
    }
    unbalanced = {"grow_policy": "lossguide", "max_depth": 0, "max_leaves": 64}
    in_class = clicked ^ (np.nan_to_num(x[:, -1]) % 3 == 0)
    types = ["q"] * (NUM_FEATURES - 8) + ["c"] * 8
    for name, extra, label, feature_types in (
        ("depth8", {"max_depth": 8}, clicked, None),
        ("unbalanced", unbalanced, clicked, None),
        ("categorical", {"max_depth": 6}, in_class, types),
    ):
        data = xgboost.DMatrix(
            x,
            label,
            feature_types=feature_types,
            enable_categorical=feature_types is not None,
            nthread=options.threads,
        )
        yield name, xgboost.train({**parameters, **extra}, data, NUM_TREES)


def _against_treelite(
    name: str,
    booster: xgboost.Booster,
    x: np.ndarray[Any, Any],
    treelite: ModuleType | None,
    repeats: int,
    options: BenchOptions,
) -> Iterator[BenchRow]:
    if treelite is None:
        return
    encoder = LeafEncoder.from_xgboost(booster)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "forest.ubj"
        booster.save_model(path)
        model = treelite.load(path)

    def peer() -> np.ndarray[Any, Any]:
        return treelite.leaves(model, x, options.threads)

    node_rows = _node_rows(booster, encoder)
    expected = node_rows[np.arange(encoder.num_trees), peer().astype(np.int64)]
    np.testing.assert_array_equal(encoder(x), expected)
    calls = [("", encoder.__call__)]
    if np.diff(encoder.leaf_offsets).max() <= 256:
        calls.append(("/output=ordinals", encoder.ordinals))
    for output, encode in calls:
        yield compare(
            f"{name}/threads={options.threads}{output}/peer=treelite",
            lambda encode=encode: encode(x, threads=options.threads),
            peer,
            peer_name=treelite.NAME,
            target=TARGET_ONE_ROW if len(x) == 1 else TARGET,
            repeats=repeats,
        )


def _against_xgboost(
    encoder: LeafEncoder,
    booster: xgboost.Booster,
    x: np.ndarray[Any, Any],
    repeats: int,
    options: BenchOptions,
) -> Iterator[BenchRow]:
    ready = xgboost.DMatrix(x, nthread=options.threads)

    def ours() -> np.ndarray[Any, Any]:
        return encoder(x, threads=options.threads)

    def peer() -> np.ndarray[Any, Any]:
        data = xgboost.DMatrix(x, nthread=options.threads)
        return booster.predict(data, pred_leaf=True)

    def ready_peer() -> np.ndarray[Any, Any]:
        return booster.predict(ready, pred_leaf=True)

    expected = _node_rows(booster, encoder)[np.arange(NUM_TREES), peer().astype(np.int64)]
    np.testing.assert_array_equal(ours(), expected)
    for name, other in (("predict", peer), ("predict_dmatrix_ready", ready_peer)):
        yield compare(
            f"trees/batch={len(x)}/threads={options.threads}/peer={name}",
            ours,
            other,
            peer_name=f"xgboost {xgboost.__version__} pred_leaf",
            target=TARGET,
            repeats=repeats,
        )


def _node_rows(booster: xgboost.Booster, encoder: LeafEncoder) -> np.ndarray[Any, Any]:
    """[trees, nodes]: leaf row of every node id of every tree; -1 where it is no leaf."""
    model = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]
    left = [np.asarray(tree["left_children"]) for tree in model["trees"]]
    table = np.full((encoder.num_trees, max(nodes.size for nodes in left)), -1)
    is_leaf = np.stack([np.arange(table.shape[1]) < nodes.size for nodes in left])
    for leaves, nodes in zip(is_leaf, left, strict=True):
        leaves[: nodes.size] &= nodes == -1
    table[is_leaf] = np.arange(encoder.num_leaves)
    return table


def _wire_sizes(rows: np.ndarray[Any, Any], ordinals: np.ndarray[Any, Any]) -> Iterator[BenchRow]:
    """Bytes of one request's leaves, dense against sparse coordinates.

    Coordinates are two int64 indices beside the value of a leaf. Varints take a byte per 7 bits, as
    in a serialized tf.train.Example; their coordinates are varint indices and a float32 value.
    """
    batch, num_trees = rows.shape
    indices = np.indices(rows.shape)
    float32 = 4 * rows.size
    for layout, dense, peer, sparse, target in (
        ("int64", 8 * rows.size, "coordinates, int64 values", (16 + 8) * rows.size, 1 / 3),
        ("int32", rows.nbytes, "coordinates, float32 values", (16 + 4) * rows.size, 1 / 5),
        (
            "uint8_ordinals",
            ordinals.nbytes,
            "coordinates, float32 values",
            (16 + 4) * rows.size,
            1 / 20,
        ),
        (
            "varint",
            _varint_bytes(rows),
            "coordinates, varints",
            _varint_bytes(indices) + float32,
            1 / 3,
        ),
    ):
        yield row(
            f"trees/wire/batch={batch}/trees={num_trees}/dense={layout}",
            dense,
            "bytes",
            peer=peer,
            peer_value=sparse,
            target=target,
        )


def _varint_bytes(values: np.ndarray[Any, Any]) -> int:
    bits = np.maximum(1, np.ceil(np.log2(values + 1.0)))
    return int(np.ceil(bits / 7).sum())
