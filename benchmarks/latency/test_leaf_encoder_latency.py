from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from feedfast import runtime
from feedfast.trees import LeafEncoder, train_forest


@pytest.fixture(scope="module")
def encoder() -> LeafEncoder:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 64), dtype=np.float32)
    return LeafEncoder.from_xgboost(train_forest(x, x[:, :8].sum(axis=1) > 0, num_trees=100))


@pytest.mark.benchmark(group="leaf_encoder")
@pytest.mark.parametrize("batch", [1, 50, 500])
def test_leaf_encoder_latency(
    benchmark: BenchmarkFixture, encoder: LeafEncoder, batch: int
) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batch, 64), dtype=np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    leaves = benchmark(encoder, x)
    assert leaves.shape == (batch, encoder.num_trees)
    assert (leaves >= encoder.leaf_offsets[:-1]).all()
    assert (leaves < encoder.leaf_offsets[1:]).all()
    benchmark.extra_info.update(leaves=encoder.num_leaves, target=runtime.cpu_target())
