"""One model with its optimizers: weighted masked cross entropy, Adam, decay, one step at a time.

A step costs what its batch holds, however many rows the tables have: `SparseAdam` updates the rows
that the batch reads, and Keras' Adam the layers. Only the decay of the tables, every
`_TABLE_DECAY_STEPS` steps, passes over all rows.

Several processes hold the same layers and take a share of each batch. Tables are whole in each, or
divided between them. Their gradients are those of the whole batch, so they train what one process
would, up to the order of additions. Dropout masks alone differ: every rank draws its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from feedfast.comm import Engine, NullEngine
from feedfast.config import RankerConfig, TrainingConfig
from feedfast.ranker.examples import Examples
from feedfast.ranker.model import RankerModel, input_signature, model_inputs
from feedfast.sharded_tables import ShardedTables
from feedfast.tf import distributed, optimizers
from feedfast.training import replicas

_FINAL_SHARE = 0.1
# Steps whose decay the tables get at once. Rows that no batch reads must shrink too: decaying only
# the rows of the batch, as `row_weight_decay` does, leaves rare ids nearly undecayed.
_TABLE_DECAY_STEPS = 32
UPDATES = "tables/updates"
"""Name of the count of updates of the tables in `Trainer.variables`."""


@dataclass(frozen=True, eq=False, slots=True)
class LabelledExamples:
    """Inputs with what they teach.

    Attributes:
        examples: n model inputs.
        labels: [n, objectives] float32, 0, 1 or NaN where undefined.
        weights: [n, objectives] float32 loss weights, >= 0; ignored where the label is undefined.
    """

    examples: Examples
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> LabelledExamples:
        """The rows, in that order."""
        return LabelledExamples(self.examples.take(rows), self.labels[rows], self.weights[rows])


def learning_rate(config: TrainingConfig, step: int, num_steps: int) -> float:
    """Rate of a step, counted from 0: linear warm-up, then half a cosine down to a tenth."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (_FINAL_SHARE + (1.0 - _FINAL_SHARE) * cosine)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Sum over objectives of the weighted cross entropy, divided by the rows of the batch.

        loss = 1 / n * sum_i sum_k w_ik * mask_ik * BCE(logit_ik, y_ik)

    A row whose label is undefined (NaN) adds nothing for that objective, and no gradient. The loss
    of no rows is 0.

    Args:
        logits, labels, weights: [n, objectives] float32.
    """
    defined = tf.math.is_finite(labels)
    y = tf.where(defined, labels, 0.0)
    w = tf.where(defined, weights, 0.0)
    losses = w * tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logits)
    return tf.reduce_sum(losses) / tf.cast(tf.maximum(tf.shape(logits)[0], 1), tf.float32)


def table_optimizer() -> optimizers.SparseAdam:
    """What trains tables, whole or divided; its rate is set in each step."""
    return optimizers.SparseAdam(learning_rate=0.0, name="table_adam")


class Trainer:
    """One model, its optimizers and the step that changes both."""

    def __init__(
        self, model: RankerModel, config: RankerConfig, engine: Engine | None = None
    ) -> None:
        """Makes the optimizers; that of divided tables is there already.

        Args:
            model: Changed by `step`.
            config: Rates, decays, micro-batches.
            engine: Between the processes that train the model; default: this one alone.
        """
        self.model = model
        self.engine = engine or NullEngine()
        self._config = config
        self._tables = [layer.embeddings for layer in model.tables.values()]
        apart = {id(v) for v in self._tables}
        triggers = []
        if model.sharded is None:
            self._table_optimizer = table_optimizer()
            self._table_optimizer.build(self._tables)
        else:
            assert model.table_optimizer is not None
            self._table_optimizer = model.table_optimizer
            triggers = [model.sharded.trigger]
            apart.add(id(model.sharded.trigger))
        self._dense = [v for v in model.trainable_variables if id(v) not in apart]
        self._matrices = [v for v in self._dense if len(v.shape) == 2]
        self._optimizer = keras.optimizers.Adam(learning_rate=0.0, name="adam")
        self._optimizer.build(self._dense)
        self._common = [
            *(v for v in model.variables if id(v) not in apart),
            *self._optimizer.variables,
        ]
        self._rate = tf.Variable(0.0, trainable=False)
        self._num_parts = config.training.accumulate
        self._decay_steps = _TABLE_DECAY_STEPS
        self._tape: distributed.AccumulatingGradientTape | None = None
        self._step: Callable[..., tf.Tensor]
        pair = tf.TensorSpec([None, None], tf.float32)
        signature = [input_signature(model.sizes), pair, pair]
        if self.engine.size == 1 and self._num_parts == 1 and model.sharded is None:
            self._step = tf.function(self._train_step, input_signature=signature)
        else:
            self._tape = distributed.AccumulatingGradientTape(
                k=self._num_parts,
                engine=self.engine,
                participants=[] if model.sharded is None else [model.sharded],
            )
            variables = [*self._tables, *self._dense, *triggers]
            self._step = self._tape.training_step(
                self._loss, variables, self._update, input_signature=signature
            )
        self._shrink_tables = tf.function(
            self._multiply_tables, input_signature=[tf.TensorSpec([], tf.float32)]
        )

    @property
    def sharded(self) -> ShardedTables | None:
        """The tables that processes divide; None where they are whole."""
        return None if self.model.sharded is None else self.model.sharded.sharded

    @property
    def num_steps(self) -> int:
        """Steps done since the first weights."""
        return int(self._optimizer.iterations)

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """Everything a checkpoint needs beside divided tables, by name.

        `dense/NNNN`: weights of the layers, dropout counters, moments and steps of Adam. Of whole
        tables also `tables/<table>/weights`, `state0`, `state1` and their count of updates,
        `tables/updates`.
        """
        found = {f"dense/{i:04d}": variable for i, variable in enumerate(self._common)}
        if self._tables:
            found[UPDATES] = self._table_optimizer.iterations
            moments = iter(self._table_optimizer.variables[2:])  # behind iterations and rate
            for name, table in zip(self.model.tables, self._tables, strict=True):
                found[f"tables/{name}/weights"] = table
                found[f"tables/{name}/state0"] = next(moments)
                found[f"tables/{name}/state1"] = next(moments)
        return found

    def align(self) -> None:
        """Gives all processes the state of rank 0, and dropout masks of their own; collective."""
        if self.engine.size > 1:
            distributed.broadcast_variables(list(self.variables.values()), self.engine)
            replicas.part_dropout(self.model, self.engine)

    def settle(self) -> None:
        """Makes this a place to stop and continue at, or to validate at; collective."""
        replicas.settle(self.model, self.engine)
        if self._tape is not None:
            self._tape.reset_choices()

    def step(self, share: LabelledExamples, rate: float) -> float:
        """One update with the given learning rate; collective.

        Args:
            share: This process's rows of the batch; may be empty.
            rate: Learning rate.

        Returns:
            The mean loss of the rows before the update; 0 without rows.
        """
        self._rate.assign(rate)
        self._table_optimizer.learning_rate.assign(rate)
        loss_sum = 0.0
        bounds = [len(share.examples) * i // self._num_parts for i in range(self._num_parts + 1)]
        for first, end in itertools.pairwise(bounds):
            part = share if self._num_parts == 1 else share.take(np.arange(first, end))
            # Means of the parts, weighted by their rows: the mean over the whole batch.
            weight = {"weight": float(end - first)} if self._tape is not None else {}
            with self.model.python_errors():
                loss = self._step(
                    model_inputs(part.examples),
                    tf.constant(part.labels),
                    tf.constant(part.weights),
                    **weight,
                )
            loss_sum += float(loss) * (end - first)
        decay = self._config.training.table_weight_decay
        # The optimizer's count is in the checkpoint, so a resumed run decays at the same steps.
        if decay > 0.0 and self.num_steps % self._decay_steps == 0:
            kept = max(0.0, 1.0 - rate * decay) ** self._decay_steps
            if self.sharded is None:
                self._shrink_tables(tf.constant(kept, tf.float32))
            else:
                self.sharded.scale(kept)
        return loss_sum / max(1, bounds[-1])

    def _train_step(
        self, inputs: dict[str, tf.Tensor], labels: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._loss(inputs, labels, weights)
        variables = [*self._tables, *self._dense]
        self._update(tape.gradient(loss, [v.value for v in variables]))
        return loss

    def _loss(
        self, inputs: dict[str, tf.Tensor], labels: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        return cross_entropy(self.model(inputs, training=True), labels, weights)

    def _update(self, gradients: list[Any]) -> None:
        rate = self._rate.value()
        decay = self._config.training.weight_decay
        if decay > 0.0:
            for matrix in self._matrices:
                matrix.assign(matrix * (1.0 - rate * decay))
        num_tables = len(self._tables)
        if num_tables:
            self._table_optimizer.apply(gradients[:num_tables], self._tables)
        self._optimizer.learning_rate.assign(rate)
        # Behind them there may be the zero gradient of the trigger of divided tables.
        self._optimizer.apply(gradients[num_tables : num_tables + len(self._dense)], self._dense)

    def _multiply_tables(self, share: tf.Tensor) -> None:
        for table in self._tables:
            table.assign(table * share)
