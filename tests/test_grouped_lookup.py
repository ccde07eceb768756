from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import feedfast as ff
from feedfast import Bags, PooledFeature, QuantizedTable

NUM_BAGS = 9


def random_features(*, seed: int = 20_240_601) -> list[PooledFeature]:
    """Float and quantized tables of several widths, one of them shared; an empty feature."""
    rng = np.random.default_rng(seed)

    def bags(num_rows: int, mean: float, *, narrow: bool = False) -> Bags:
        lengths = rng.poisson(mean, NUM_BAGS)
        ids = rng.integers(0, num_rows, lengths.sum(), np.int32 if narrow else np.int64)
        return Bags.from_lengths(ids, lengths, rng.uniform(0.1, 2, ids.size) if mean > 4 else None)

    members = rng.standard_normal((50, 17), dtype=np.float32)
    half = rng.standard_normal((20, 64)).astype(np.float16)
    bits = rng.standard_normal((20, 3), dtype=np.float32).view(np.uint32)
    return [
        PooledFeature(members, bags(50, 1), "mean"),
        PooledFeature(half, bags(20, 10, narrow=True), "sqrtn"),
        PooledFeature(members, bags(50, 0)),
        PooledFeature(QuantizedTable.quantize(members), bags(50, 5), "mean"),
        PooledFeature(QuantizedTable.quantize(members, 4), bags(50, 50)),
        PooledFeature((bits >> 16).astype(np.uint16), bags(20, 3), dtype="bf16"),
    ]


def one_by_one(feature: PooledFeature) -> np.ndarray:
    bags = feature.bags
    if isinstance(feature.table, QuantizedTable):
        return feature.table.pooled_lookup(bags.values, bags.offsets, bags.weights, feature.pooling)
    return ff.pooled_lookup(
        feature.table, bags.values, bags.offsets, bags.weights, feature.pooling, dtype=feature.dtype
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_bits_of_one_lookup_per_feature(threads: int, cpu_target: str) -> None:
    features = random_features()
    got = ff.pooled_lookup_grouped(features, threads=threads)
    assert got.tobytes() == np.concatenate([one_by_one(f) for f in features], 1).tobytes()


def test_columns_and_an_output_of_ones_own() -> None:
    members, half = random_features()[:2]
    features = [
        PooledFeature(members.table, members.bags, "mean", column=70),
        PooledFeature(half.table, half.bags, column=2),
    ]
    out = np.full((NUM_BAGS, 90), -7, np.float32)
    assert ff.pooled_lookup_grouped(features, out=out) is out
    want = np.full_like(out, -7)
    want[:, 70:87] = one_by_one(features[0])
    want[:, 2:66] = one_by_one(features[1])
    assert (out == want).all()
    fresh = ff.pooled_lookup_grouped(features)
    assert fresh.shape == (NUM_BAGS, 87)
    assert (fresh[:, :2] == 0).all()
    assert (fresh[:, 66:70] == 0).all()


def test_nothing_to_do() -> None:
    assert ff.pooled_lookup_grouped([]).shape == (0, 0)
    empty = PooledFeature(np.zeros((0, 3), np.float32), Bags([], [0]))
    assert ff.pooled_lookup_grouped([empty, empty]).shape == (0, 6)


@pytest.mark.parametrize(
    ("feature", "out_columns", "error", "message"),
    [
        (
            ([1, 4], [0, 2], None),
            4,
            IndexError,
            "features[1].values[1] = 4 is not a row of a table",
        ),
        (([1, 2], [0, 1], None), 4, ValueError, "features[1].offsets[1] = 1 must equal the number"),
        (([1], [0, 1], [np.inf]), 4, ValueError, "features[1].weights[0] = inf is not finite"),
        (([1], [0, 1, 1], None), 4, ValueError, "features[1] has 2 bags; all must have as many as"),
        (([1], [0, 1], None), 3, ValueError, "features[1].column = 2 with 2 columns does not fit"),
    ],
)
def test_bad_features_write_nothing(
    feature: Any, out_columns: int, error: type[Exception], message: str
) -> None:
    table = np.ones((4, 2), np.float32)
    out = np.zeros((1, out_columns), np.float32)
    features = [PooledFeature(table, Bags([0], [0, 1])), PooledFeature(table, Bags(*feature))]
    with pytest.raises(error, match=re.escape(message)):
        ff.pooled_lookup_grouped(features, out=out)
    assert not out.any()


def test_bad_outputs() -> None:
    table = np.ones((4, 2), np.float32)
    features = [PooledFeature(table, Bags([0], [0, 1]))]
    with pytest.raises(ValueError, match="out has 2 rows; it must have one for each of 1 bags"):
        ff.pooled_lookup_grouped(features, out=np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="out must be a writable C-contiguous float32 array"):
        ff.pooled_lookup_grouped(features, out=np.zeros((1, 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape("features[1].column = 1 lies in the columns")):
        ff.pooled_lookup_grouped([*features, PooledFeature(table, Bags([0], [0, 1]), column=1)])
    with pytest.raises(ValueError, match="threads must be at least 1; got 0"):
        ff.pooled_lookup_grouped(features, threads=0)
