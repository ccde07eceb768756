"""The part of the Keras model that scales and projects embedding inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from feedfast.ranker.embedding_inputs import EPSILON, EmbeddingInput, kept_columns
from feedfast.ranker.normalizer import LIMIT

# Of the moving mean and variance per training step.
_MOMENTUM = 0.99


class InputScaling(keras.layers.Layer):  # type: ignore[misc]
    """Columns of one part of the input: batch norms in place, projections at the end.

    A batch-normalised column is (x - mean) / sqrt(variance + e), clipped to [-8, 8], with mean and
    variance of the batch in training and their moving averages else; missing values (NaN) take no
    part in them and become 0. A batch without a value of a column leaves its averages as they are,
    as one with a single value does the variance, which is averaged unbiased: a column that few rows
    have keeps its scale. It has no factor and offset of its own: the layers above start with
    linear maps, which have both. A projection is linear for the same reason, and has no offset.
    """

    def __init__(
        self, part: str, width: int, inputs: Sequence[EmbeddingInput], seeds: Iterator[int]
    ) -> None:
        super().__init__(name=f"{part}_inputs")
        self._norms = [e for e in inputs if e.part == part and e.kind == "batch_norm"]
        self._projections = [e for e in inputs if e.part == part and e.kind == "projection"]
        self._kept = kept_columns(inputs, part, width)
        self._variables: dict[str, Any] = {}
        for group in self._norms:
            for name, initializer in (("mean", "zeros"), ("variance", "ones")):
                self._variables[group.tensor(name)] = self.add_weight(
                    shape=(len(group.columns),), initializer=initializer, trainable=False, name=name
                )
        for group in self._projections:
            self._variables[group.tensor("projection")] = self.add_weight(
                shape=(len(group.columns), group.dim),
                initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
                name="projection",
            )

    def named_variables(self) -> Iterator[tuple[str, keras.Variable]]:
        """The weights by the names of `FeedRanker.tensors`."""
        yield from self._variables.items()

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[batch, columns of the part] to [batch, columns that the towers see]."""
        for group in self._norms:
            x = self._normalized(group, x, training)
        if not self._projections:
            return x
        parts = [tf.gather(x, self._kept, axis=1)]
        for group in self._projections:
            projection = self._variables[group.tensor("projection")]
            columns = tf.gather(x, list(group.columns), axis=1)
            parts.append(tf.matmul(columns, tf.convert_to_tensor(projection)))
        return tf.concat(parts, axis=1)

    def _normalized(self, group: EmbeddingInput, x: tf.Tensor, training: bool) -> tf.Tensor:
        columns = tf.gather(x, list(group.columns), axis=1)
        present = tf.math.is_finite(columns)
        moving = [self._variables[group.tensor(name)] for name in ("mean", "variance")]
        mean, variance = (tf.convert_to_tensor(v) for v in moving)
        if training:
            found = tf.reduce_sum(tf.cast(present, x.dtype), axis=0)
            count = tf.maximum(found, 1.0)
            zeroed = tf.where(present, columns, 0.0)
            mean = tf.reduce_sum(zeroed, axis=0) / count
            off = tf.where(present, columns - mean, 0.0)
            squares = tf.reduce_sum(tf.square(off), axis=0)
            variance = squares / count
            unbiased = squares / tf.maximum(found - 1.0, 1.0)
            for variable, value, least in zip(moving, (mean, unbiased), (1.0, 2.0), strict=True):
                moved = _MOMENTUM * variable + (1.0 - _MOMENTUM) * value
                variable.assign(tf.where(found >= least, moved, variable))
        scaled = (columns - mean) * tf.math.rsqrt(variance + EPSILON)
        scaled = tf.where(present, tf.clip_by_value(scaled, -LIMIT, LIMIT), 0.0)
        # Back to their places: column c comes from x, or from `scaled`, which follows x.
        width = x.shape[1]
        place = list(range(width))
        for index, column in enumerate(group.columns):
            place[column] = width + index
        return tf.gather(tf.concat([x, scaled], axis=1), place, axis=1)
