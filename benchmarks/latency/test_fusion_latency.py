from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from feedfast import _core, runtime

# The dense gradients of one gated tower.
SHAPES = [(560, 512), (512,), (512, 512), (512,), (512, 256), (256,), (256, 256), (256,)]


@pytest.mark.benchmark(group="fusion")
@pytest.mark.parametrize("step", ["store", "add", "unpack"])
def test_fusion_latency(benchmark: BenchmarkFixture, step: str) -> None:
    rng = np.random.default_rng(0)
    gradients = [rng.standard_normal(shape, dtype=np.float32) for shape in SHAPES]
    arena = _core.FusionArenaFloat32(SHAPES)
    arena.accumulate(gradients)

    def store() -> None:
        arena.start_window()
        arena.accumulate(gradients)

    if step == "store":
        benchmark(store)
    elif step == "add":
        benchmark(arena.accumulate, gradients)
    else:
        benchmark(arena.unpack, scale=0.5)
    store()
    np.testing.assert_array_equal(arena.unpack(scale=0.5)[0], gradients[0] / 2)
    benchmark.extra_info.update(bytes=arena.fused.nbytes, target=runtime.cpu_target())
