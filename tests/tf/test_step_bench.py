"""The ways of `feedfast bench step` train the same model, and the large table as a whole."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
import tensorflow as tf

import feedfast.tf as fft

WORKLOADS = Path(__file__).resolve().parents[2] / "benchmarks" / "workloads"


@pytest.fixture(scope="module")
def train() -> Iterator[ModuleType]:
    sys.path.append(str(WORKLOADS))
    yield importlib.import_module("step_parts.train")
    sys.path.remove(str(WORKLOADS))


def test_every_way_trains_alike(train: ModuleType) -> None:
    tables = train.features(500, quick=True)
    batches = train.make_batches(tables, 16)
    stock_layers, stock_pools = train.stock_layers(tables)
    fused_layers, fused_pools = train.pooled_layers(tables, 16, fft.optimizers.SparseAdagrad(0.01))
    layers, pools = train.pooled_layers(tables, 16, None)

    def model(pools: list, layers: list, optimizer: keras.optimizers.Optimizer) -> train.Step:
        head = train.make_head(tables, "float32")
        return train.compiled(train.Ranker(pools, layers, head), optimizer)

    ways = {
        "raw": train.Loop(tables, 16).step(tf.nn.embedding_lookup_sparse, "float32"),
        "drop-in": train.Loop(tables, 16).step(fft.embedding_lookup_sparse, "float32"),
        "fused": model(fused_pools, fused_layers, keras.optimizers.Adagrad(0.01)),
        "optimizer": model(pools, layers, fft.optimizers.SparseAdagrad(0.01)),
        # Its Adagrad squares the slices of a row one by one before it sums them.
        "stock": model(stock_pools, stock_layers, keras.optimizers.Adagrad(0.01)),
    }
    losses = {way: [float(step(batch)) for batch in 2 * batches] for way, step in ways.items()}
    assert losses["raw"][-1] < losses["raw"][0]
    for way, values in losses.items():
        np.testing.assert_allclose(
            values, losses["raw"], rtol=2e-2 if way == "stock" else 1e-4, err_msg=way
        )


@pytest.mark.parametrize(
    ("optimizer", "dtype", "bytes_per_row"),
    [("adam", "float32", 3 * 4 * 64), ("rowwise_adagrad", "bfloat16", 2 * 64 + 4)],
)
def test_a_large_table_is_trained_as_a_whole(
    optimizer: str, dtype: str, bytes_per_row: int
) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(WORKLOADS / "step_parts" / "train_capacity.py"),
            *("--parameters", "3200000", "--optimizer", optimizer, "--dtype", dtype),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["table_bytes"] == 50_000 * bytes_per_row
    assert result["peak_bytes"] > result["start_bytes"]
    assert result["steps"] == 2
