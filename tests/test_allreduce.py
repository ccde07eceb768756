from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from feedfast import _core

ARENAS = [(_core.FusionArenaFloat32, np.float32), (_core.FusionArenaFloat64, np.float64)]
SHAPES = [(7, 9), (), (0,), (64,), (3, 1, 5), (50_001,)]


def micro_batch(rng: np.random.Generator, dtype: Any) -> list[np.ndarray]:
    return [np.asarray(rng.standard_normal(shape), dtype=dtype) for shape in SHAPES]


@pytest.mark.parametrize(("arena_type", "dtype"), ARENAS)
@pytest.mark.parametrize("threads", [1, 2])
def test_window_is_the_mean_of_its_micro_batches(
    arena_type: Any, dtype: Any, threads: int, cpu_target: str
) -> None:
    rng = np.random.default_rng(20_240_606)
    arena = arena_type(SHAPES)
    for window in (1, 5, 2):
        arena.start_window()
        batches = [micro_batch(rng, dtype) for _ in range(window)]
        for batch in batches:
            arena.accumulate(batch, threads=threads)
        assert arena.num_accumulated == window
        means = arena.unpack(scale=1.0 / window, threads=threads)
        for i, mean in enumerate(means):
            assert mean.dtype == dtype
            want = np.mean([batch[i].astype(np.float64) for batch in batches], axis=0)
            assert mean.shape == SHAPES[i], cpu_target
            np.testing.assert_allclose(mean, want, rtol=0, atol=2e-6)  # float32, sums below 16


def test_one_array_holds_every_gradient_at_its_offset() -> None:
    rng = np.random.default_rng(20_240_607)
    arena = _core.FusionArenaFloat32(SHAPES)
    fused = arena.fused
    assert fused.ctypes.data % 64 == 0
    assert not fused.any()
    batch = micro_batch(rng, np.float32)
    arena.accumulate(batch)
    want = np.zeros_like(fused)
    for offset, gradient in zip(arena.offsets, batch, strict=True):
        assert offset % 16 == 0
        want[offset : offset + gradient.size] = gradient.ravel()
    np.testing.assert_array_equal(fused, want)
    fused *= 2  # what a transport does in place
    np.testing.assert_array_equal(arena.unpack(scale=1.0)[0], 2 * batch[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_of_16_bits_are_summed_in_float32(threads: int, cpu_target: str) -> None:
    shapes = [(4,), (50_001,), (7, 9), ()]
    arena = _core.FusionArenaFloat32(shapes, formats=["float32", "float16", "bfloat16", "bfloat16"])
    dtypes = [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.bfloat16]
    rng = np.random.default_rng(20_261_122)
    for window in (3, 1):
        arena.start_window()
        batches = [
            [np.asarray(rng.normal(0, 3, s), d) for s, d in zip(shapes, dtypes, strict=True)]
            for _ in range(window)
        ]
        for batch in batches:
            arena.accumulate([as_numpy(gradient) for gradient in batch], threads=threads)
        means = arena.unpack(scale=0.3, threads=threads)
        for i, (mean, dtype) in enumerate(zip(means, dtypes, strict=True)):
            total = np.sum([batch[i].astype(np.float32) for batch in batches], 0, np.float32)
            want = (np.float32(0.3) * total).astype(dtype)
            np.testing.assert_array_equal(mean, as_numpy(want), cpu_target, strict=True)


def as_numpy(array: np.ndarray) -> np.ndarray:
    """Of bfloat16, which is no dtype of numpy, the bits."""
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


def test_the_view_keeps_the_arena_alive() -> None:
    fused = _core.FusionArenaFloat64([(1000,)]).fused
    gc.collect()
    fused += 1
    assert fused.sum() == fused.size == 1000


def test_layout_follows_from_the_shapes_alone() -> None:
    first = _core.FusionArenaFloat32(SHAPES)
    assert first.offsets == _core.FusionArenaFloat32(SHAPES).offsets
    assert _core.FusionArenaFloat32([]).fused.size == 0
    assert _core.FusionArenaFloat32([]).unpack(scale=1.0) == []


def test_threads_may_accumulate_into_one_arena_at_once() -> None:
    arena = _core.FusionArenaFloat32([(100_001,)])
    arena.start_window()
    ones = np.ones(100_001, np.float32)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: arena.accumulate([ones]), range(40)))
    assert arena.num_accumulated == 40
    np.testing.assert_array_equal(arena.unpack(scale=1.0)[0], 40 * ones)


def test_wrong_gradients_are_named() -> None:
    arena = _core.FusionArenaFloat32([(2, 3), (4,)])
    with pytest.raises(ValueError, match="1 gradients for an arena of 2"):
        arena.accumulate([np.zeros((2, 3), np.float32)])
    with pytest.raises(ValueError, match=r"gradients\[1\] has shape \(4, 1\); slot 1 has \(4\)"):
        arena.accumulate([np.zeros((2, 3), np.float32), np.zeros((4, 1), np.float32)])
    with pytest.raises(TypeError, match=r"gradients\[0\] is float64; slot 0 has float32"):
        arena.accumulate([np.zeros((2, 3)), np.zeros(4)])  # no silent conversion
    with pytest.raises(ValueError, match=r"gradients\[0\] must be C-contiguous"):
        arena.accumulate([np.zeros((3, 2), np.float32).T, np.zeros(4, np.float32)])
    narrow = _core.FusionArenaFloat32([(2,), (2,)], formats=["float16", "bfloat16"])
    halves = np.zeros(2, np.float16)
    with pytest.raises(TypeError, match="is float16; slot 1 has bfloat16 as uint16"):
        narrow.accumulate([halves, halves])
    with pytest.raises(ValueError, match=r"formats\[1\] = 'int8'; must be one of 'float32', 'f"):
        _core.FusionArenaFloat32([(2,), (2,)], formats=["float16", "int8"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="1 formats for 2 gradients"):
        _core.FusionArenaFloat32([(2,), (2,)], formats=["float16"])
    unaligned = np.frombuffer(bytes(17), np.float32, offset=1)
    with pytest.raises(ValueError, match=r"gradients\[1\] is not aligned to its dtype"):
        arena.accumulate([np.zeros((2, 3), np.float32), unaligned])
    with pytest.raises(ValueError, match="threads must be >= 1; got 0"):
        arena.unpack(scale=1.0, threads=0)
    with pytest.raises(ValueError, match=r"shapes\[0\]\[1\] = -1; a dimension must be >= 0"):
        _core.FusionArenaFloat32([(2, -1)])
    assert arena.num_accumulated == 0
