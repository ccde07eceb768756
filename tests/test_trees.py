from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from feedfast.trees import LeafEncoder, train_forest
from reference.forest import leaf_rows

xgboost = pytest.importorskip("xgboost")

DATA = Path(__file__).parent / "data"


def features(seed: int, rows: int, columns: int, *, missing: float = 0.1) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns), dtype=np.float32).round(1)  # ties with thresholds
    x[rng.random(x.shape) < missing] = np.nan
    return x


def labels(x: NDArray[np.float32]) -> NDArray[np.float32]:
    first = np.nan_to_num(x[:, : 1 + x.shape[1] // 2])
    return (np.sin(3 * first).sum(axis=1) > 0).astype(np.float32)


def expected_rows(booster: Any, x: NDArray[np.float32]) -> NDArray[np.int64]:
    return leaf_rows(booster, xgboost.DMatrix(x))


MODELS: dict[str, dict[str, Any]] = {
    "hist": {"tree_method": "hist", "max_depth": 6},
    "approx": {"tree_method": "approx", "max_depth": 3},
    "exact_pruned": {"tree_method": "exact", "max_depth": 6, "gamma": 8.0},
    "lossguide": {
        "tree_method": "hist",
        "grow_policy": "lossguide",
        "max_leaves": 40,
        "max_depth": 0,
    },
    "dart": {"booster": "dart", "rate_drop": 0.3, "max_depth": 4},
    "parallel": {"num_parallel_tree": 3, "subsample": 0.5, "max_depth": 4},
    "stumps": {"max_depth": 1},
    "lone_leaves": {"gamma": 1e9},
}


@pytest.mark.parametrize("raw_format", ["ubj", "json"])
@pytest.mark.parametrize("name", MODELS)
def test_rows_equal_pred_leaf(name: str, raw_format: str, tmp_path: Path) -> None:
    x = features(1, 1500, 9)
    parameters = {"objective": "binary:logistic", "nthread": 1, **MODELS[name]}
    booster = xgboost.train(parameters, xgboost.DMatrix(x, labels(x)), 12)
    path = tmp_path / f"model.{raw_format}"
    booster.save_model(path)
    encoder = LeafEncoder.from_xgboost(path)
    rows = encoder(x)
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows, expected_rows(booster, x))
    assert (rows >= encoder.leaf_offsets[:-1]).all()
    assert (rows < encoder.leaf_offsets[1:]).all()


@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_multi_output_rows_equal_pred_leaf(strategy: str) -> None:
    x = features(2, 800, 6)
    y = np.stack([labels(x), 1 - labels(x), labels(x[:, ::-1])], axis=1)
    parameters = {"tree_method": "hist", "max_depth": 4, "multi_strategy": strategy}
    booster = xgboost.train(parameters, xgboost.DMatrix(x, y), 5)
    encoder = LeafEncoder.from_xgboost(booster)
    assert encoder.num_trees == (5 if strategy == "multi_output_tree" else 15)
    np.testing.assert_array_equal(encoder(x), expected_rows(booster, x))


def test_multi_class_rows_equal_pred_leaf() -> None:
    x = features(3, 800, 6)
    y = (labels(x) + labels(x[:, ::-1])).astype(int)
    parameters = {"objective": "multi:softprob", "num_class": 3, "max_depth": 3}
    booster = xgboost.train(parameters, xgboost.DMatrix(x, y), 4)
    np.testing.assert_array_equal(LeafEncoder.from_xgboost(booster)(x), expected_rows(booster, x))


def test_every_cpu_target_and_thread_count_gives_the_same_rows(cpu_target: str) -> None:
    x = features(4, 1000, 12)
    booster = train_forest(x, labels(x), num_trees=9, max_depth=5)
    encoder = LeafEncoder.from_xgboost(booster)
    want = expected_rows(booster, x)
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(encoder(x, threads=threads), want, err_msg=cpu_target)
    for rows in (0, 1, 7, 8, 9):
        np.testing.assert_array_equal(encoder(x[:rows]), want[:rows])


def test_values_beside_a_threshold_fall_as_in_xgboost() -> None:
    x = features(5, 500, 4, missing=0.0)
    booster = train_forest(x, labels(x), num_trees=6, max_depth=4)
    forest = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]
    thresholds = np.unique(
        np.float32(np.concatenate([tree["split_conditions"] for tree in forest["trees"]]))
    )
    values = np.concatenate(
        [
            thresholds,
            *(np.nextafter(thresholds, np.float32(to)) for to in (-np.inf, np.inf)),
            [-0.0],
        ]
    ).astype(np.float32)
    probes = np.repeat(values[:, None], 4, axis=1)
    np.testing.assert_array_equal(
        LeafEncoder.from_xgboost(booster)(probes), expected_rows(booster, probes)
    )


def test_input_is_compared_as_float32() -> None:
    x = features(6, 300, 3)
    encoder = LeafEncoder.from_xgboost(train_forest(x, labels(x), num_trees=3))
    np.testing.assert_array_equal(encoder(x.astype(np.float64)), encoder(x))
    np.testing.assert_array_equal(encoder(np.asfortranarray(x)), encoder(x))
    np.testing.assert_array_equal(encoder(x.tolist()), encoder(x))


def test_saved_pickled_and_copied_encoders_are_equal(tmp_path: Path) -> None:
    x = features(7, 50, 5)
    encoder = LeafEncoder.from_xgboost(DATA / "forest_v1.ubj")
    path = tmp_path / "forest.bin"
    encoder.save(path)
    encoder.save(path)  # over an existing file
    assert [entry.name for entry in tmp_path.iterdir()] == ["forest.bin"]
    assert path.read_bytes() == (DATA / "forest_v1.bin").read_bytes()
    for other in (
        LeafEncoder.open(path),
        LeafEncoder.from_bytes(encoder.to_bytes()),
        pickle.loads(pickle.dumps(encoder)),
    ):
        np.testing.assert_array_equal(other(x), encoder(x))
        assert repr(other) == "LeafEncoder(num_features=5, num_trees=4, num_leaves=15)"


def test_a_sliced_booster_gives_the_first_columns() -> None:
    x = features(8, 400, 5)
    booster = train_forest(x, labels(x), num_trees=8, max_depth=3)
    whole = LeafEncoder.from_xgboost(booster)(x)
    np.testing.assert_array_equal(LeafEncoder.from_xgboost(booster[:5])(x), whole[:, :5])


def test_what_cannot_be_encoded_is_refused_by_name() -> None:
    x = features(9, 200, 4, missing=0.0)
    linear = xgboost.train({"booster": "gblinear"}, xgboost.DMatrix(x, labels(x)), 2)
    with pytest.raises(ValueError, match="booster gblinear has no trees"):
        LeafEncoder.from_xgboost(linear)


def test_wrong_files_are_refused_with_their_name(tmp_path: Path) -> None:
    path = tmp_path / "altered.bin"
    image = bytearray((DATA / "forest_v1.bin").read_bytes())
    image[-1] ^= 1
    path.write_bytes(image)
    with pytest.raises(ValueError, match=r"altered\.bin: forest image: the checksum"):
        LeafEncoder.open(path)
    with pytest.raises(ValueError, match=r"altered\.bin: XGBoost model"):
        LeafEncoder.from_xgboost(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        LeafEncoder.open(tmp_path / "absent")


def test_wrong_shapes_are_named() -> None:
    encoder = LeafEncoder.open(DATA / "forest_v1.bin")
    with pytest.raises(ValueError, match="x has 4 columns; the forest was trained on 5 features"):
        encoder(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="x must have 2 dimensions; got 1"):
        encoder(np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="threads must be >= 1; got 0"):
        encoder(np.zeros((1, 5), np.float32), threads=0)


@pytest.mark.parametrize(
    ("x", "found"),
    [([["1"] * 5], "<U1"), ([[None] * 5], "object"), ([[1j] * 5], "complex128")],
)
def test_what_holds_no_numbers_is_refused(x: Any, found: str) -> None:
    with pytest.raises(TypeError, match=f"x must be a float array; got {found}"):
        LeafEncoder.open(DATA / "forest_v1.bin")(x)
    with pytest.raises(TypeError, match=f"^x must be a float array; got {found}"):
        train_forest(x, [1.0])
    with pytest.raises(TypeError, match=f"^evaluation y must be a float array; got {found}"):
        train_forest([[1.0]], [1.0], evaluation=([[1.0]], x))
    with pytest.raises(TypeError, match=f"^weights must be a float array; got {found}"):
        train_forest([[1.0]], [1.0], weights=x)


def test_whole_numbers_and_booleans_are_features() -> None:
    encoder = LeafEncoder.open(DATA / "forest_v1.bin")
    x = np.array([[0, 1, 0, 1, 1]])
    np.testing.assert_array_equal(encoder(x), encoder(x.astype(np.float32)))
    np.testing.assert_array_equal(encoder(x.astype(bool)), encoder(x))


def test_boosters_are_found_in_estimators_and_nowhere_else() -> None:
    x = features(11, 100, 4)
    estimator = xgboost.XGBClassifier(n_estimators=3, max_depth=2).fit(x, labels(x))
    want = LeafEncoder.from_xgboost(estimator.get_booster())
    np.testing.assert_array_equal(LeafEncoder.from_xgboost(estimator)(x), want(x))
    for wrong in (None, 3, b"{}"):
        with pytest.raises(TypeError, match=f"or a path; got {type(wrong).__name__}"):
            LeafEncoder.from_xgboost(wrong)  # type: ignore[arg-type]


def test_training_is_repeatable_and_learns() -> None:
    x = features(10, 2000, 8)
    y = labels(x)
    first = train_forest(x, y, num_trees=20, max_depth=4, seed=3, threads=2)
    again = train_forest(x, y, num_trees=20, max_depth=4, seed=3, threads=2)
    assert first.save_raw("ubj") == again.save_raw("ubj")
    assert first.num_boosted_rounds() == 20
    assert ((first.predict(xgboost.DMatrix(x)) > 0.5) == y).mean() > 0.8


def test_weights_of_zero_leave_rows_out() -> None:
    x = features(11, 1200, 5)
    y = labels(x)
    wrong = np.r_[y[:600], 1 - y[600:]]
    weights = np.r_[np.ones(600), np.zeros(600)]
    booster = train_forest(x, wrong, weights=weights, num_trees=20)
    assert ((booster.predict(xgboost.DMatrix(x[600:])) > 0.5) == y[600:]).mean() > 0.7


def test_patience_ends_with_the_best_round() -> None:
    x = features(12, 600, 5)
    noise = np.random.default_rng(0).integers(0, 2, 600)
    booster = train_forest(
        x, labels(x), num_trees=50, evaluation=(x, noise), patience=2, learning_rate=0.5
    )
    assert 1 <= booster.num_boosted_rounds() < 10


def test_wrong_training_input_is_named() -> None:
    x = features(13, 10, 3, missing=0.0)
    y = labels(x)
    with pytest.raises(ValueError, match=r"y\[2\] = nan; allowed: 0, 1"):
        train_forest(x, np.where(np.arange(10) == 2, np.nan, y))
    with pytest.raises(ValueError, match=r"y must have shape \(10,\)"):
        train_forest(x, y[:9])
    with pytest.raises(ValueError, match="x has no rows"):
        train_forest(x[:0], y[:0])
    with pytest.raises(ValueError, match=r"weights\[0\] = -1.0; must be finite and >= 0"):
        train_forest(x, y, weights=-np.ones(10))
    with pytest.raises(ValueError, match=r"x\[0, 1\] is infinite"):
        train_forest(np.where(x == x[0, 1], np.inf, x), y)
    with pytest.raises(ValueError, match="patience needs evaluation"):
        train_forest(x, y, patience=3)


def test_encoding_needs_no_xgboost_and_training_says_what_to_install() -> None:
    code = f"""
import sys
sys.modules["xgboost"] = None
import numpy as np
from feedfast.trees import LeafEncoder, train_forest
print(LeafEncoder.from_xgboost({str(DATA / "forest_v1.json")!r})(np.zeros((1, 5))).shape)
try:
    train_forest([[0.0]], [0])
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shape, message = done.stdout.splitlines()
    assert shape == "(1, 4)"
    assert message.endswith("install it with: pip install 'feedfast[train]'")
