"""A small model with tables of every kind, its data, and training on all examples at once."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from feedfast.tf import optimizers

BATCH = 6
NUM_WINDOWS = 20
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda: optimizers.SparseSGD(0.1),
    "adagrad": lambda: optimizers.SparseAdagrad(0.05),
    "rowwise_adagrad": lambda: optimizers.RowwiseAdagrad(0.05),
    "adam": lambda: optimizers.SparseAdam(0.01, epsilon=1e-3),
    "keras_adam": lambda: keras.optimizers.Adam(0.01, epsilon=1e-3),
}
Batch = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


class Model:
    """Odd sizes; `few` has fewer rows than there may be processes, and one hot row."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)

        def variable(name: str, *shape: int) -> keras.Variable:
            return keras.Variable(rng.normal(0, 0.3, shape).astype(np.float32), name=name)

        self.many, self.few = variable("many", 300, 5), variable("few", 2, 3)
        self.bias = variable("bias", 40)
        self.weight, self.out, self.shift = (
            variable("weight", 8, 7),
            variable("out", 7, 1),
            variable("shift"),
        )

    @property
    def variables(self) -> list[keras.Variable]:
        return [self.many, self.weight, self.few, self.bias, self.out, self.shift]

    def losses(self, ids: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """One per example; ids [n, 3, 2]: two rows of each table."""

        def pooled(table: keras.Variable, column: int) -> tf.Tensor:
            return tf.reduce_sum(tf.gather(table.value, ids[:, column]), axis=1)

        x = tf.concat([pooled(self.many, 0), pooled(self.few, 1)], axis=1)
        hidden = tf.nn.tanh(tf.matmul(x, self.weight))
        logits = tf.matmul(hidden, self.out)[:, 0] + pooled(self.bias, 2) + self.shift
        return tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)

    def loss(self, ids: tf.Tensor, labels: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """Their sum divided by `size`, so that a batch may be empty."""
        return tf.reduce_sum(self.losses(ids, labels)) / size


def draw_batch(window: int, step: int, rank: int) -> Batch:
    """Examples of one micro-batch; every seventh or so is empty."""
    rng = np.random.default_rng([window, step, rank])
    size = 0 if rng.random() < 0.15 else BATCH
    ids = np.stack(
        [rng.integers(0, 300, (size, 2)), np.zeros((size, 2)), rng.integers(0, 40, (size, 2))],
        axis=1,
    ).astype(np.int64)
    labels = rng.integers(0, 2, size).astype(np.float32)
    return tf.constant(ids), tf.constant(labels), tf.constant(float(BATCH))


def train_on_all_at_once(optimizer: Any, *, k: int, size: int) -> list[np.ndarray]:
    """The weights after 20 steps of one process on the k * size batches of each window."""
    model = Model()
    variables = model.variables
    optimizer.build(variables)

    @tf.function(reduce_retracing=True)
    def step(ids: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = model.loss(ids, labels, tf.constant(float(k * size * BATCH)))
        gradients = tape.gradient(loss, [v.value for v in variables])
        if not isinstance(optimizer, optimizers.RowOptimizer):
            # Keras squares slices of a row one by one where they stand apart.
            gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        optimizer.apply(gradients, variables)

    for window in range(NUM_WINDOWS):
        batches = [draw_batch(window, s, rank) for s in range(k) for rank in range(size)]
        step(tf.concat([b[0] for b in batches], 0), tf.concat([b[1] for b in batches], 0))
    return [variable.numpy() for variable in variables]


def assert_close(got: list[np.ndarray], want: list[np.ndarray]) -> None:
    """Within 1e-5 of each tensor's largest element."""
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())
