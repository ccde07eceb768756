"""What one process does with its dense gradients around an all-reduce, without the transport.

A window is K micro-batches whose gradients are summed into one flat array and taken out again,
scaled. Peers: numpy adding array by array into an array of its own per gradient, and TensorFlow
ops as a training loop composes them (`tf.concat` of the flattened gradients, summed, split again).
Gradients of 16 bits: beside casts of TensorFlow to float32 before, and of the means back behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from feedfast import _core
from feedfast.bench import BenchOptions, BenchRow, compare
from feedfast.tf.fusion import fuse, unfuse

WINDOW = 5  # micro-batches per exchange


def rows(options: BenchOptions) -> Iterator[BenchRow]:
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    rng = np.random.default_rng(0)
    shapes = _tower_gradients(towers=2 if options.quick else 16)
    batches = [[rng.standard_normal(s, dtype=np.float32) for s in shapes] for _ in range(WINDOW)]
    repeats = 5 if options.quick else 21
    size = f"mb={sum(np.prod(s) for s in shapes) * 4 / 1e6:.0f}"

    arena = _core.FusionArenaFloat32(shapes)

    def arena_window() -> list[np.ndarray]:
        arena.start_window()
        for batch in batches:
            arena.accumulate(batch, threads=options.threads)
        return arena.unpack(scale=1 / WINDOW, threads=options.threads)

    sums = [np.zeros(s, np.float32) for s in shapes]

    def numpy_window() -> list[np.ndarray]:
        for k, batch in enumerate(batches):
            for total, gradient in zip(sums, batch, strict=True):
                if k == 0:
                    np.copyto(total, gradient)
                else:
                    np.add(total, gradient, out=total)
        return [total * np.float32(1 / WINDOW) for total in sums]

    _check(arena_window(), numpy_window())
    yield compare(
        f"distributed/window={WINDOW}/{size}/threads={options.threads}",
        arena_window,
        numpy_window,
        peer_name="numpy copyto and add",
        unit="us",
        target=1.1,  # both move the same bytes; one array is what the exchange needs
        repeats=repeats,
    )

    for dtype in ("float16", "bfloat16"):
        yield _narrow_row(batches, dtype, size, repeats, options.threads)

    tensors = [tf.constant(gradient) for gradient in batches[0]]
    sizes = [int(np.prod(s)) for s in shapes]

    @tf.function
    def fused_roundtrip() -> list[tf.Tensor]:
        return unfuse(fuse(tensors) * 0.5, shapes)

    @tf.function
    def concat_roundtrip() -> list[tf.Tensor]:
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0) * 0.5
        parts = tf.split(flat, sizes)
        return [tf.reshape(part, s) for part, s in zip(parts, shapes, strict=True)]

    _check(fused_roundtrip(), concat_roundtrip())
    yield compare(
        f"distributed/op=fuse_unfuse/{size}/threads={options.threads}",
        fused_roundtrip,
        concat_roundtrip,
        peer_name=f"tensorflow {tf.__version__} concat and split",
        unit="us",
        target=1.1,
        repeats=repeats,
    )


def _narrow_row(
    batches: list[list[np.ndarray]],
    dtype: Literal["float16", "bfloat16"],
    size: str,
    repeats: int,
    threads: int,
) -> BenchRow:
    shapes = [gradient.shape for gradient in batches[0]]
    tensors = [[tf.cast(gradient, dtype) for gradient in batch] for batch in batches]
    bits = tf.float16 if dtype == "float16" else tf.uint16  # numpy has no bfloat16
    arrays = [[tf.bitcast(tensor, bits).numpy() for tensor in batch] for batch in tensors]
    arena = _core.FusionArenaFloat32(shapes, formats=[dtype] * len(shapes))
    wide_arena = _core.FusionArenaFloat32(shapes)

    def narrow_window() -> list[np.ndarray]:
        arena.start_window()
        for batch in arrays:
            arena.accumulate(batch, threads=threads)
        return arena.unpack(scale=1 / WINDOW, threads=threads)

    @tf.function
    def cast(of: list[tf.Tensor], to: tf.DType) -> list[tf.Tensor]:
        return [tf.cast(tensor, to) for tensor in of]

    def cast_window() -> list[tf.Tensor]:
        wide_arena.start_window()
        for batch in tensors:
            wide = [tensor.numpy() for tensor in cast(batch, tf.float32)]
            wide_arena.accumulate(wide, threads=threads)
        means = wide_arena.unpack(scale=1 / WINDOW, threads=threads)
        return cast([tf.constant(mean) for mean in means], tf.as_dtype(dtype))

    for mean, want in zip(narrow_window(), cast_window(), strict=True):
        np.testing.assert_array_equal(mean, tf.bitcast(want, bits).numpy())
    return compare(
        f"distributed/window={WINDOW}/dtype={dtype}/{size}/threads={threads}",
        narrow_window,
        cast_window,
        peer_name="casts of TensorFlow around float32",
        unit="us",
        target=1.1,
        repeats=repeats,
    )


def _tower_gradients(*, towers: int) -> list[tuple[int, ...]]:
    """Shapes of the dense gradients of gated towers 512-256-128."""
    widths = (560, 512, 256, 128)
    tower = [s for wide, out in pairwise(widths) for s in ((wide, out), (out,), (out, out), (out,))]
    return tower * towers


def _check(got: list[np.ndarray], want: list[np.ndarray]) -> None:
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
