"""Every kind of tree model of XGBoost encodes to the leaves that XGBoost itself predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feedfast.trees import LeafEncoder
from reference.forest import leaf_rows

xgboost = pytest.importorskip("xgboost")

DATA = Path(__file__).parent / "data"
CATEGORIES = 70  # three words of a set
ROWS = 300
# What XGBoost takes for no category of the training rows, and what it takes for missing.
ODD_CATEGORIES = [-1.0, -0.5, 0.5, 69.9, 70.0, 1e4, 2.0**24 - 1, 2.0**24, 1e30, np.inf, np.nan]

KINDS: dict[str, dict[str, Any]] = {
    "depthwise": {"tree_method": "hist"},
    "lossguide": {
        "tree_method": "hist",
        "grow_policy": "lossguide",
        "max_depth": 0,
        "max_leaves": 50,
    },
    "forest": {"tree_method": "hist", "num_parallel_tree": 3, "subsample": 0.6},
    "dart": {"booster": "dart", "rate_drop": 0.4},
    "classes": {"objective": "multi:softprob", "num_class": 3},
    "class_forests": {"objective": "multi:softprob", "num_class": 3, "num_parallel_tree": 2},
    "outputs": {"multi_strategy": "one_output_per_tree"},
    "vector_leaves": {"multi_strategy": "multi_output_tree"},
    "exact": {"tree_method": "exact", "gamma": 3.0},
}


def features(rng: np.random.Generator, columns: int, num_categorical: int) -> NDArray[np.float32]:
    """[ROWS, columns]: categories, then numbers of a coarse grid; one value in ten is missing."""
    categories = rng.integers(0, rng.choice([2, 5, CATEGORIES]), (ROWS, num_categorical))
    numbers = rng.standard_normal((ROWS, columns - num_categorical)).round(1)
    x = np.concatenate([categories, numbers], axis=1).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 10_000),
    columns=st.integers(1, 12),
    categorical=st.booleans(),
    depth=st.integers(1, 9),
    rounds=st.integers(1, 4),
    one_hot=st.sampled_from([1, 4, 100]),
    data=st.data(),
)
def test_leaves_equal_pred_leaf(
    kind: str,
    seed: int,
    columns: int,
    categorical: bool,
    depth: int,
    rounds: int,
    one_hot: int,
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(seed)
    only_numbers = kind in ("exact", "vector_leaves")  # so XGBoost says
    num_categorical = columns // 2 if categorical and not only_numbers else 0
    x = features(rng, columns, num_categorical)
    types = ["c"] * num_categorical + ["q"] * (columns - num_categorical)
    signal = np.sin(3 * np.nan_to_num(x)).sum(axis=1) + 0.5 * rng.standard_normal(ROWS)
    y: NDArray[Any] = (signal > 0).astype(np.int64)
    if "num_class" in KINDS[kind]:
        y = y + (signal > 1)
    elif "multi_strategy" in KINDS[kind]:
        y = np.stack([signal, -signal, signal**2], axis=1)
    parameters = {"nthread": 1, "max_depth": depth, "max_cat_to_onehot": one_hot, **KINDS[kind]}
    train = xgboost.DMatrix(x, y, feature_types=types, enable_categorical=True, nthread=1)
    booster = xgboost.train(parameters, train, rounds)

    probes = x.copy()
    if num_categorical:
        odd = rng.random((ROWS, num_categorical)) < 0.3
        probes[:, :num_categorical][odd] = rng.choice(ODD_CATEGORIES, odd.sum())
    matrix = xgboost.DMatrix(
        np.where(np.isinf(probes), np.float32(1e30), probes),  # XGBoost takes no infinities
        feature_types=types,
        enable_categorical=True,
        nthread=1,
    )
    encoder = LeafEncoder.from_xgboost(booster)
    want = leaf_rows(booster, matrix)
    np.testing.assert_array_equal(encoder(probes), want)
    np.testing.assert_array_equal(encoder(probes[:1]), want[:1])
    np.testing.assert_array_equal(LeafEncoder.from_bytes(encoder.to_bytes())(probes), want)
    if np.diff(encoder.leaf_offsets).max() <= 256:
        np.testing.assert_array_equal(encoder.ordinals(probes), want - encoder.leaf_offsets[:-1])

    begin = data.draw(st.integers(0, rounds - 1), "begin")
    end = data.draw(st.integers(begin + 1, rounds), "end")
    part = LeafEncoder.from_xgboost(booster, iteration_range=(begin, end))
    np.testing.assert_array_equal(part(probes), leaf_rows(booster[begin:end], matrix))


def test_the_golden_forest_with_categories_is_that_of_its_model(cpu_target: str) -> None:
    encoder = LeafEncoder.open(DATA / "forest_v2.bin")
    from_model = LeafEncoder.from_xgboost(DATA / "forest_v2.ubj")
    assert encoder.to_bytes() == from_model.to_bytes()
    booster = xgboost.Booster(model_file=DATA / "forest_v2.ubj")
    rng = np.random.default_rng(20_240_608)
    x = np.c_[rng.integers(0, 4, ROWS), rng.integers(0, 75, ROWS), rng.normal(size=(ROWS, 2))]
    x = x.astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    matrix = xgboost.DMatrix(x, feature_types=["c", "c", "q", "q"], enable_categorical=True)
    np.testing.assert_array_equal(encoder(x), leaf_rows(booster, matrix), err_msg=cpu_target)


def test_an_estimator_that_stopped_early_is_read_as_its_apply() -> None:
    rng = np.random.default_rng(3)
    x = features(rng, 5, 0)
    noise = rng.integers(0, 2, ROWS)
    y = (np.nan_to_num(x[:, 0]) > 0).astype(int)
    estimator = xgboost.XGBClassifier(n_estimators=40, early_stopping_rounds=2, learning_rate=0.5)
    estimator.fit(x, y, eval_set=[(x, noise)], verbose=False)
    rounds = estimator.get_booster().num_boosted_rounds()
    best = estimator.best_iteration + 1
    assert best < rounds
    encoder = LeafEncoder.from_xgboost(estimator)
    assert encoder.num_trees == best == estimator.apply(x).reshape(ROWS, -1).shape[1]
    assert LeafEncoder.from_xgboost(estimator, iteration_range=(0, 0)).num_trees == rounds
    assert LeafEncoder.from_xgboost(estimator.get_booster()).num_trees == rounds
    assert LeafEncoder.from_xgboost(estimator, iteration_range=(1, 3)).num_trees == 2


def test_rounds_that_the_model_has_not_are_refused(tmp_path: Path) -> None:
    for wrong in ((0, 5), (3, 2), (-1, 2), (4, 0)):
        with pytest.raises(ValueError, match="are not among its 4 rounds"):
            LeafEncoder.from_xgboost(DATA / "forest_v1.ubj", iteration_range=wrong)


def test_ordinals_of_large_trees_are_refused_by_name() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((4000, 4)).astype(np.float32)
    parameters = {"grow_policy": "lossguide", "max_depth": 0, "max_leaves": 300, "nthread": 1}
    y = np.sin(5 * x).sum(axis=1)
    encoder = LeafEncoder.from_xgboost(xgboost.train(parameters, xgboost.DMatrix(x, y), 1))
    with pytest.raises(ValueError, match=r"tree 0 has \d+ leaves; ordinals of one byte hold 256"):
        encoder.ordinals(x)
    small = LeafEncoder.open(DATA / "forest_v1.bin")
    assert small.ordinals(np.zeros((0, 5))).shape == (0, 4)
    with pytest.raises(ValueError, match="x has 4 columns; the forest was trained on 5 features"):
        small.ordinals(x)
