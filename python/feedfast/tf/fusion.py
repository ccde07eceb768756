"""Many tensors as one flat vector and back, so that one exchange carries all gradients."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from feedfast.tf import _library

__all__ = ["fuse", "unfuse"]


def fuse(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Copy `tensors` into one vector, each at a 64-byte boundary, zeros in between.

    The layout follows from the shapes and the dtype alone, so every process that fuses tensors of
    the same shapes can reduce the vectors element by element. Differentiable.

    Args:
        tensors: At least one; all float32 or all float64, of any shapes.

    Returns:
        [elements] of the same dtype; longer than the tensors together by the zeros in between.

    Raises:
        ValueError: `tensors` is empty.
    """
    if not tensors:
        raise ValueError("fuse needs at least one tensor; got none")
    return _library.ops().feedfast_fuse(tensors=list(tensors))


def unfuse(fused: tf.Tensor, shapes: Sequence[tf.Tensor | Sequence[int]]) -> list[tf.Tensor]:
    """Take the tensors of `shapes` out of a vector that `fuse` made. Differentiable.

    Args:
        fused: [elements] float32 or float64.
        shapes: The shapes of the fused tensors, in their order.

    Returns:
        One tensor per shape.

    Raises:
        ValueError: `shapes` is empty.
        tf.errors.InvalidArgumentError: `fused` has another length than `fuse` gives for `shapes`.
    """
    if not shapes:
        raise ValueError("unfuse needs at least one shape; got none")
    vectors = [tf.cast(shape, tf.int64) for shape in shapes]
    return list(_library.ops().feedfast_unfuse(fused=fused, shapes=vectors))


@tf.RegisterGradient("FeedfastFuse")  # type: ignore[untyped-decorator]
def _fuse_gradient(op: tf.Operation, gradient: tf.Tensor) -> list[tf.Tensor]:
    return unfuse(gradient, [tf.shape(tensor, out_type=tf.int64) for tensor in op.inputs])


@tf.RegisterGradient("FeedfastUnfuse")  # type: ignore[untyped-decorator]
def _unfuse_gradient(op: tf.Operation, *gradients: tf.Tensor) -> list[tf.Tensor | None]:
    return [fuse(gradients), *([None] * len(gradients))]
