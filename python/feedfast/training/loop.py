"""The training loop: weighted masked cross entropy, Adam with warm-up, repeatable to the bit.

A step costs what its batch holds, however many rows the tables have: `SparseAdam` updates the rows
that the batch reads, and Keras' Adam the layers. Only the decay of the tables, every
`_TABLE_DECAY_STEPS` steps, passes over all rows.

Every random choice is drawn from (seed, epoch, step), and nothing else carries state than the
variables of model and optimizer, so a run that is resumed from a checkpoint goes on exactly as it
would have. On one machine with one number of threads two runs give the same bits.

Several processes hold the same weights and take a share of each batch. Their gradients are those of
the whole batch, so they train what one process would, up to the order of additions. Dropout masks
alone differ: every rank draws its own.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from feedfast.comm import Engine, NullEngine
from feedfast.comm.traced import TracedEngine
from feedfast.config import RankerConfig, TrainingConfig
from feedfast.ranker.examples import Examples
from feedfast.ranker.model import RankerModel, input_signature, model_inputs
from feedfast.tf import distributed, optimizers
from feedfast.training import replicas
from feedfast.training.checkpoints import Checkpoint, latest_checkpoint, save_checkpoint
from feedfast.training.progress import Progress, ProgressCallback

_FINAL_SHARE = 0.1
_PROGRESS_INTERVAL_S = 0.5
# Steps whose decay the tables get at once. Rows that no batch reads must shrink too: decaying only
# the rows of the batch, as `row_weight_decay` does, leaves rare ids nearly undecayed.
_TABLE_DECAY_STEPS = 32
# Streams of the generators derived from the seed.
_ORDER, _ID_DROPOUT = 1, 2


EpochRecord = dict[str, Any]
"""One line of a run's history: epoch from 1, mean training loss, validation figure (may be NaN)."""


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


class Trainer:
    """One model, its optimizer and the step that changes both."""

    def __init__(
        self, model: RankerModel, config: RankerConfig, engine: Engine | None = None
    ) -> None:
        """Makes the optimizers.

        Args:
            model: Changed by `step`.
            config: Rates, decays, micro-batches.
            engine: Between the processes that train the model; default: this one alone.
        """
        self.model = model
        self.engine = engine or NullEngine()
        self._config = config
        self._tables = [layer.embeddings for layer in (model.member, model.hashtag, model.leaf)]
        in_tables = {id(v) for v in self._tables}
        self._dense = [v for v in model.trainable_variables if id(v) not in in_tables]
        self._matrices = [v for v in self._dense if len(v.shape) == 2]
        self._table_optimizer = optimizers.SparseAdam(learning_rate=0.0, name="table_adam")
        self._table_optimizer.build(self._tables)
        self._optimizer = keras.optimizers.Adam(learning_rate=0.0, name="adam")
        self._optimizer.build(self._dense)
        self._rate = tf.Variable(0.0, trainable=False)
        self._num_parts = config.training.accumulate
        self._tape: distributed.AccumulatingGradientTape | None = None
        self._step: Callable[..., tf.Tensor]
        pair = tf.TensorSpec([None, None], tf.float32)
        signature = [input_signature(model.sizes), pair, pair]
        if self.engine.size == 1 and self._num_parts == 1:
            self._step = tf.function(self._train_step, input_signature=signature)
        else:
            self._tape = distributed.AccumulatingGradientTape(k=self._num_parts, engine=self.engine)
            variables = [*self._tables, *self._dense]
            self._step = self._tape.training_step(
                self._loss, variables, self._update, input_signature=signature
            )
        self._shrink_tables = tf.function(
            self._multiply_tables, input_signature=[tf.TensorSpec([], tf.float32)]
        )

    @property
    def variables(self) -> list[keras.Variable]:
        """Everything a checkpoint needs: weights, dropout counters, moments and steps of Adam."""
        return [
            *self.model.variables,
            *self._table_optimizer.variables,
            *self._optimizer.variables,
        ]

    def align(self) -> None:
        """Gives all processes the state of rank 0, and dropout masks of their own; collective."""
        if self.engine.size > 1:
            distributed.broadcast_variables(self.variables, self.engine)
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
        loss_sum = 0.0
        bounds = [len(share.examples) * i // self._num_parts for i in range(self._num_parts + 1)]
        for first, end in itertools.pairwise(bounds):
            part = share if self._num_parts == 1 else share.take(np.arange(first, end))
            # Means of the parts, weighted by their rows: the mean over the whole batch.
            weight = {"weight": float(end - first)} if self._tape is not None else {}
            loss = self._step(
                model_inputs(part.examples),
                tf.constant(part.labels),
                tf.constant(part.weights),
                **weight,
            )
            loss_sum += float(loss) * (end - first)
        decay = self._config.training.table_weight_decay
        # The optimizer's count is in the checkpoint, so a resumed run decays at the same steps.
        if decay > 0.0 and int(self._optimizer.iterations) % _TABLE_DECAY_STEPS == 0:
            kept = max(0.0, 1.0 - rate * decay) ** _TABLE_DECAY_STEPS
            self._shrink_tables(tf.constant(kept, tf.float32))
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
        self._table_optimizer.learning_rate.assign(rate)
        self._table_optimizer.apply(gradients[:num_tables], self._tables)
        self._optimizer.learning_rate.assign(rate)
        self._optimizer.apply(gradients[num_tables:], self._dense)

    def _multiply_tables(self, share: tf.Tensor) -> None:
        for table in self._tables:
            table.assign(table * share)


def train_epochs(
    trainer: Trainer,
    data: LabelledExamples,
    *,
    config: RankerConfig,
    num_epochs: int,
    stop: Callable[[list[EpochRecord]], bool],
    validate: Callable[[], float],
    checkpoints: Path,
    stage: str,
    progress: ProgressCallback,
) -> list[EpochRecord]:
    """Trains from the newest checkpoint of the folder, or from the start, to the end; collective.

    Rank 0 alone reads and writes checkpoints; another number of processes may go on from them.

    Args:
        trainer: Changed in place.
        data: Training rows; each epoch takes them in another order, the last batch may be short.
        config: Seed, schedule and batch size.
        num_epochs: Most epochs.
        stop: Whether to stop after the epochs so far.
        validate: Called after each epoch by all processes, with the same result, which goes into
            the record.
        checkpoints: Existing folder for the checkpoints of this stage alone.
        stage: Name for the reports.
        progress: Told about twice a second.

    Returns:
        One record per epoch, the same in all processes.

    Raises:
        ValueError: The folder's checkpoint is damaged or of another model.
    """
    options = config.training
    n = len(data.examples)
    steps_per_epoch = -(-n // options.batch_size)
    schedule_steps = options.max_epochs * steps_per_epoch
    step, loss_sum, records = _restore(trainer, checkpoints)
    meter = _Meter(stage, num_epochs * steps_per_epoch, progress, trainer.engine)
    while step < num_epochs * steps_per_epoch and not stop(records):
        epoch, first = divmod(step, steps_per_epoch)
        order = np.random.default_rng([config.seed, _ORDER, epoch]).permutation(n)
        for index in range(first, steps_per_epoch):
            rows = order[index * options.batch_size : (index + 1) * options.batch_size]
            share = replicas.share_of(len(rows), trainer.engine)
            batch = _draw_batch(data, rows, share, config, step)
            loss = trainer.step(batch, learning_rate(options, step, schedule_steps))
            step += 1
            loss_sum += loss * (len(batch.examples) / len(rows))
            meter.add(step, len(rows), loss)
            if step % options.checkpoint_every_steps == 0 and index + 1 < steps_per_epoch:
                loss_sum = _merge(trainer, loss_sum)
                _save(trainer, checkpoints, step, loss_sum, records)
                loss_sum = loss_sum if trainer.engine.rank == 0 else 0.0
        loss_sum = _merge(trainer, loss_sum)
        record: EpochRecord = {
            "epoch": epoch + 1,
            "loss": loss_sum / steps_per_epoch,
            "validation": validate(),
        }
        records, loss_sum = [*records, record], 0.0
        _save(trainer, checkpoints, step, loss_sum, records)
        figure = record["validation"]
        validated = "" if math.isnan(figure) else f": validation {figure:.4f}"
        meter.tell(step, f"epoch {epoch + 1}{validated}")
    return records


def _draw_batch(
    data: LabelledExamples,
    rows: NDArray[np.int64],
    share: slice,
    config: RankerConfig,
    step: int,
) -> LabelledExamples:
    """The share of the rows with some of their ids replaced by OOV; see `TableConfig.id_dropout`.

    The whole batch is drawn for, so that an id's fate does not depend on who trains it.
    """
    batch = data.take(rows[share])
    examples = batch.examples
    rng = np.random.default_rng([config.seed, _ID_DROPOUT, step])
    for ids in (examples.viewer, examples.actor, examples.root_actor):
        ids[rng.random(len(rows))[share] < config.member.id_dropout] = 0
    offsets = data.examples.hashtags.offsets
    ends = np.cumsum(offsets[rows + 1] - offsets[rows])
    first = int(ends[share.start - 1]) if share.start else 0
    hashtags = examples.hashtags.values
    drawn = rng.random(int(ends[-1]))[first : first + len(hashtags)]
    hashtags[drawn < config.hashtag.id_dropout] = 0
    return batch


def _merge(trainer: Trainer, loss_sum: float) -> float:
    """What all ranks must agree on before a checkpoint or validation; the sum of their losses."""
    trainer.settle()
    total = np.array([loss_sum])
    trainer.engine.all_reduce(total, name="loss")
    return float(total[0])


def _save(
    trainer: Trainer, folder: Path, step: int, loss_sum: float, records: list[EpochRecord]
) -> None:
    def save() -> None:
        tensors = {f"{i:04d}": np.array(v.numpy()) for i, v in enumerate(trainer.variables)}
        # repr of a float and JSON both round-trip every bit.
        state = {"loss_sum": loss_sum, "records": records}
        save_checkpoint(folder, Checkpoint(step, tensors, state))

    replicas.on_rank_0(trainer.engine, save)


def _restore(trainer: Trainer, folder: Path) -> tuple[int, float, list[EpochRecord]]:
    """Steps done, loss so far in this process, records; the same weights in all processes."""
    engine = trainer.engine
    checkpoint = replicas.on_rank_0(engine, lambda: _load(trainer, folder))
    state = {"step": 0, "loss_sum": 0.0, "records": []}
    if checkpoint is not None:
        state = {"step": checkpoint.step, **checkpoint.state}
    state = replicas.broadcast_json(engine, state)
    trainer.align()
    return state["step"], state["loss_sum"] if engine.rank == 0 else 0.0, state["records"]


def _load(trainer: Trainer, folder: Path) -> Checkpoint | None:
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        return None
    variables = trainer.variables
    if len(checkpoint.tensors) != len(variables):
        raise ValueError(
            f"{folder}: the checkpoint has {len(checkpoint.tensors)} variables; "
            f"the model and its optimizer have {len(variables)}"
        )
    for index, variable in enumerate(variables):
        variable.assign(checkpoint.tensors[f"{index:04d}"])
    return checkpoint


class _Meter:
    """Turns steps into a report every half second."""

    def __init__(
        self, stage: str, num_steps: int, progress: ProgressCallback, engine: Engine
    ) -> None:
        self._stage, self._num_steps, self._progress = stage, num_steps, progress
        self._engine = engine
        self._clear()

    def _clear(self) -> None:
        self._since = time.monotonic()
        self._sent, self._exchanged = self._engine.traffic.bytes_sent, self._exchange_seconds()
        self._examples, self._steps, self._loss = 0, 0, 0.0

    def add(self, step: int, num_examples: int, loss: float) -> None:
        self._examples += num_examples
        self._steps += 1
        self._loss += loss
        if time.monotonic() - self._since >= _PROGRESS_INTERVAL_S:
            self.tell(step, "")

    def tell(self, step: int, message: str) -> None:
        elapsed = time.monotonic() - self._since
        alone = self._engine.size == 1 or not self._steps
        sent = self._engine.traffic.bytes_sent - self._sent
        exchanged = self._exchange_seconds() - self._exchanged
        self._progress(
            Progress(
                stage=self._stage,
                step=step,
                num_steps=self._num_steps,
                examples_per_second=self._examples / elapsed if self._examples else math.nan,
                loss=self._loss / self._steps if self._steps else math.nan,
                bytes_per_step=math.nan if alone else sent / self._steps,
                exchange_share=math.nan if alone else exchanged / elapsed,
                message=message,
            )
        )
        self._clear()

    def _exchange_seconds(self) -> float:
        return self._engine.seconds if isinstance(self._engine, TracedEngine) else math.nan
