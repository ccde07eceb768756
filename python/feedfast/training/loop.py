"""The training loop: epochs, batches, checkpoints; repeatable to the bit.

Every random choice is drawn from (seed, epoch, step), and nothing else carries state than what a
checkpoint has, so a run that is resumed from one goes on exactly as it would have. On one machine
with one number of threads two runs give the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedfast.comm import Engine
from feedfast.comm.traced import TracedEngine
from feedfast.config import RankerConfig
from feedfast.training import replicas
from feedfast.training.progress import Progress, ProgressCallback
from feedfast.training.saving import EpochRecord, Place, restore, save
from feedfast.training.trainer import LabelledExamples, Trainer, learning_rate

_PROGRESS_INTERVAL_S = 0.5
# Streams of the generators derived from the seed.
_ORDER, _ID_DROPOUT = 1, 2


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

    Another number of processes may go on from a checkpoint, with tables divided in another way.

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
    place = restore(trainer, checkpoints)
    step, loss_sum, records = place.step, place.loss_sum, place.records
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
                save(trainer, checkpoints, Place(step=step, loss_sum=loss_sum, records=records))
                loss_sum = loss_sum if trainer.engine.rank == 0 else 0.0
        loss_sum = _merge(trainer, loss_sum)
        record: EpochRecord = {
            "epoch": epoch + 1,
            "loss": loss_sum / steps_per_epoch,
            "validation": validate(),
        }
        records, loss_sum = [*records, record], 0.0
        save(trainer, checkpoints, Place(step=step, loss_sum=loss_sum, records=records))
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
