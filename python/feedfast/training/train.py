"""Training: from a dataset to a run folder with a trained ranker."""

from __future__ import annotations

import gc
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedfast import metrics, weighting
from feedfast.comm import Engine, NullEngine
from feedfast.config import RankerConfig
from feedfast.data import Dataset, History, ImpressionLog
from feedfast.data.fingerprint import fingerprint
from feedfast.objectives import inverse_base_rates
from feedfast.ranker.features import FeatureSpace
from feedfast.ranker.model import DividedTables, RankerModel
from feedfast.ranker.predict import predict_examples
from feedfast.ranker.rows import history_of, split_log, split_rows
from feedfast.ranker.run import RunFolder, TrainedRun
from feedfast.ranker.trained import TENSORS, FeedRanker
from feedfast.store import files
from feedfast.training import replicas
from feedfast.training.loop import train_epochs
from feedfast.training.progress import Progress, ProgressCallback, silent
from feedfast.training.saving import EpochRecord, save_rows
from feedfast.training.table_plan import choose_plan, describe_plan, table_shapes
from feedfast.training.trainer import LabelledExamples, Trainer, table_optimizer

_logger = logging.getLogger(__name__)


def train(
    dataset: Dataset,
    config: RankerConfig,
    run_dir: str | os.PathLike[str],
    *,
    progress: ProgressCallback | None = None,
    engine: Engine | None = None,
) -> TrainedRun:
    """Trains a ranker in two stages and leaves it in a run folder.

    The first stage learns on the training rows without the validation rows and stops when these
    no longer get better; it gives the number of epochs. The second stage starts anew on all
    training rows and takes that many. Test rows are never touched. Vocabularies, forest, scaling
    and loss weights are learned anew in each stage, on its own rows.

    A folder that holds an unfinished run of the same config and dataset is continued, with the
    result of an uninterrupted run; a complete one is returned as it is. The same config, dataset,
    machine and number of threads give the same bits.

    Args:
        dataset: Any log with labels.
        config: Sizes, schedule, split, seed.
        run_dir: Folder of the run, made if needed.
        progress: Told where training is, a few times a second.
        engine: Between the processes that train together, each of which calls this with the same
            arguments and a folder that all of them see; default: this process alone. Rank 0 writes.
            Their number and `config.distributed` change the result by rounding alone, but for
            dropout masks and batch norms, and may change when a run is continued.

    Raises:
        ValueError: The folder holds another run or a damaged part; or the dataset has too few rows,
            an objective without a defined label, no numeric feature, or no propensities for IPS;
            a plan file does not fit; processes have other configurations or datasets.
        PeerLostError: Another process has ended or failed.
    """
    tell = progress or silent
    engine = engine or NullEngine()
    folder = RunFolder(Path(run_dir))
    replicas.require_equal(
        engine, {"configuration": config.to_json(), "dataset": fingerprint(dataset)}
    )
    replicas.on_rank_0(engine, lambda: folder.prepare(config, dataset))
    # Asked of rank 0: on a network file system others may see less.
    if replicas.broadcast_json(engine, folder.is_complete):
        replicas.on_rank_0(engine, folder.remove_work)
        return TrainedRun.open(folder.path)

    history = history_of(dataset, config)
    rows = split_rows(dataset.log, config)
    validation = split_log(
        dataset.log.take(rows.train), config, fraction=config.split.validation_fraction
    )
    select = _Stage(
        "select", dataset, history, rows.train[validation.train], config, folder, tell, engine
    )
    records = select.train(
        num_epochs=config.training.max_epochs, validation_rows=rows.train[validation.test]
    )
    num_epochs = _best_epoch(records)
    # Its model is in cycles of Keras, and would lie beside the next one.
    del select
    gc.collect()
    _logger.info("%s: %d epochs", dataset.name, num_epochs)
    final = _Stage("final", dataset, history, rows.train, config, folder, tell, engine)
    final_records = final.train(num_epochs=num_epochs, validation_rows=None)

    weights = inverse_base_rates(dataset.log.labels[rows.train], dataset.objectives).tolist()
    ranker = FeedRanker(
        config=config,
        objectives=dataset.objectives,
        utility_weights=tuple(weights),
        features=final.features,
        tensors=final.model.tensors(),
    )
    _save_ranker(ranker, final.model, folder, engine)
    replicas.on_rank_0(
        engine,
        lambda: folder.finish(
            num_epochs=num_epochs,
            utility_weights=weights,
            history=[{"stage": "select", **r} for r in records]
            + [{"stage": "final", **r} for r in final_records],
            effective_rows={
                objective.name: weighting.effective_sample_size(column)
                for objective, column in zip(dataset.objectives, final.data.weights.T, strict=True)
            },
        ),
    )
    return TrainedRun.open(folder.path)


def loss_weights(log: ImpressionLog, config: RankerConfig) -> NDArray[np.float32]:
    """[n, objectives] float32: what each row counts in the loss of each objective.

    Raises:
        ValueError: The log lacks what the kind of weight needs: rows of both policies for rate
            ratios, propensities for IPS.
    """
    options = config.weighting
    if options.kind == "rate_ratio":
        table = weighting.RateRatioTable.fit(
            log.position,
            log.policy_random,
            log.labels,
            smoothing=options.smoothing,
            clip=options.clip,
        )
        return table.row_weights(log.position, log.policy_random, log.labels)
    weights = np.where(np.isnan(log.labels), 0.0, 1.0).astype(np.float32)
    if options.kind == "ips":
        weights *= weighting.ips_weights(log.propensity, floor=options.floor)[:, None]
    return weights


def _save_ranker(ranker: FeedRanker, model: RankerModel, folder: RunFolder, engine: Engine) -> None:
    """Writes the ranker unless it is there; of divided tables each process writes rows. Collective.

    Args:
        ranker: Without the tables that processes divide.
        model: Has these.
        folder: Of the run.
        engine: Of the processes.
    """
    sharded = None if model.sharded is None else model.sharded.sharded
    absent = {} if sharded is None else {spec.name: (spec.rows, spec.dim) for spec in sharded.specs}

    def begin() -> str:
        if folder.ranker.exists():
            return ""
        # As large as the tables: where a full disk ended the run, a second one has no room.
        folder.remove_unfinished()
        return ranker.write_unfinished(folder.ranker, absent=absent).name

    name = replicas.broadcast_json(engine, replicas.on_rank_0(engine, begin))
    if not name:
        return
    unfinished = folder.path / name
    if sharded is not None:
        save_rows(sharded, unfinished / TENSORS)
    replicas.on_rank_0(engine, lambda: ranker.publish(unfinished, folder.ranker))


class _Stage:
    """Features, model and checkpoints of one pass of training over one set of rows."""

    def __init__(
        self,
        name: str,
        dataset: Dataset,
        history: History,
        rows: NDArray[np.int64],
        config: RankerConfig,
        folder: RunFolder,
        progress: ProgressCallback,
        engine: Engine,
    ) -> None:
        self._name = name
        self._dataset = dataset
        self._history = history
        self._config = config
        self._progress = progress
        self._engine = engine
        self._folder = folder.make_stage(name)
        progress(Progress(stage="features", message=f"{name}: {len(rows):,} rows"))
        log = dataset.log.take(rows)
        weights = loss_weights(log, config)
        replicas.on_rank_0(engine, lambda: self._fit_features(rows))
        self.features = FeatureSpace.open(self._folder / "features")
        self.data = LabelledExamples(
            self.features.encode(log, history.take(rows)), log.labels, weights
        )
        base_rates = 1.0 / inverse_base_rates(log.labels, dataset.objectives).astype(np.float64)
        sizes = self.features.sizes
        tables = table_shapes(config, sizes, self.data.examples)
        plan = choose_plan(config, tables, engine)
        if engine.size > 1:
            progress(Progress(stage=name, message=describe_plan(plan, tables)))
        divided = None if plan is None else DividedTables(plan, engine, table_optimizer())
        self.model = RankerModel(config, sizes, dataset.objectives, base_rates, divided)

    def train(
        self, *, num_epochs: int, validation_rows: NDArray[np.int64] | None
    ) -> list[EpochRecord]:
        """Runs the stage; without validation rows it takes all its epochs."""
        validate: _Validation | None = None
        if validation_rows is not None:
            log = self._dataset.log.take(validation_rows)
            examples = self.features.encode(log, self._history.take(validation_rows))
            validate = _Validation(
                self.model,
                LabelledExamples(examples, log.labels, np.ones_like(log.labels)),
                self._engine,
            )
        patience = self._config.training.patience
        return train_epochs(
            Trainer(self.model, self._config, self._engine),
            self.data,
            config=self._config,
            num_epochs=num_epochs,
            stop=lambda records: (
                validate is not None and len(records) - _best_epoch(records) >= patience
            ),
            validate=validate or (lambda: math.nan),
            checkpoints=self._folder / "checkpoints",
            stage=self._name,
            progress=self._progress,
        )

    def _fit_features(self, rows: NDArray[np.int64]) -> None:
        target = self._folder / "features"
        if not target.exists():
            unfinished = files.temporary_sibling(target)
            unfinished.mkdir()
            FeatureSpace.fit(self._dataset, rows, self._config).save(unfinished)
            files.sync_folder(unfinished)
            unfinished.rename(target)
            files.sync_folder(self._folder)


@dataclass(frozen=True, eq=False, slots=True)
class _Validation:
    """Mean normalised entropy over the objectives that have one; NaN when none has. Collective."""

    model: RankerModel
    data: LabelledExamples
    engine: Engine

    def __call__(self) -> float:
        share = replicas.share_of(len(self.data.examples), self.engine)
        mine = self.data.examples.take(np.arange(share.start, share.stop))
        most = -(-len(self.data.examples) // self.engine.size)
        predicted = np.concatenate(
            self.engine.all_gather(
                predict_examples(self.model, mine, most_rows=most), name="validation"
            )
        )
        figures = [
            metrics.normalized_entropy(labels, p)
            for labels, p in zip(self.data.labels.T, predicted.T, strict=True)
        ]
        defined = [figure for figure in figures if not math.isnan(figure)]
        return sum(defined) / len(defined) if defined else math.nan


def _best_epoch(records: list[EpochRecord]) -> int:
    """Number of epochs with the lowest validation figure; the last if there is no figure."""
    figures = [r["validation"] for r in records]
    if not figures or all(math.isnan(f) for f in figures):
        return len(records)
    return int(np.nanargmin(figures)) + 1
