from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from feedfast import runtime
from feedfast.gated_mlp import GatedLayer, GatedMLP


@pytest.fixture(scope="module")
def mlp() -> GatedMLP:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    return GatedMLP(
        [
            GatedLayer(normal(a, b), normal(b), normal(b, b), normal(b), "hidden")
            for a, b in ((512, 1024), (1024, 1024), (1024, 512))
        ]
    )


@pytest.mark.benchmark(group="gated_mlp")
@pytest.mark.parametrize("batch", [1, 50, 500])
def test_gated_mlp_latency(benchmark: BenchmarkFixture, mlp: GatedMLP, batch: int) -> None:
    x = np.random.default_rng(1).standard_normal((batch, 512), dtype=np.float32)
    out = benchmark(mlp, x)
    y = x
    for layer in mlp.layers:
        h = np.maximum(y @ layer.weight + layer.bias, 0)
        y = h / (1 + np.exp(-(h @ layer.gate_weight + layer.gate_bias)))
    np.testing.assert_allclose(out, y, atol=1e-5)
    benchmark.extra_info.update(weight_bytes=mlp.nbytes, target=runtime.cpu_target())
