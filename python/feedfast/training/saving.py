"""A training run's state to and from checkpoints, with tables whole or divided.

A checkpoint is a file with everything that all processes have alike. Tables that processes divide
lie beside it in a folder (`sharded_tables.checkpoint`), which is written first: the file makes
both a checkpoint. Whole tables are in the file. Either is read back whole or divided, by any number
of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.comm import NullEngine
from feedfast.ranker.tensor_store import RowsWriter
from feedfast.sharded_tables import ShardedTables
from feedfast.sharded_tables.agreement import all_or_none
from feedfast.sharded_tables.checkpoint import MANIFEST, arrays_of, load_tables, save_tables
from feedfast.sharded_tables.store_export import Block, visit_blocks
from feedfast.sharding import ShardingPlan, TableShape, data_parallel
from feedfast.training import replicas
from feedfast.training.checkpoints import (
    Checkpoint,
    latest_checkpoint,
    read_part,
    save_checkpoint,
    tables_folder,
)
from feedfast.training.trainer import UPDATES, Trainer

EpochRecord = dict[str, Any]
"""One line of a run's history: epoch from 1, mean training loss, validation figure (may be NaN)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a stage stands.

    Attributes:
        step: Steps done.
        loss_sum: Of the steps of this epoch so far; where processes train, of those of all ranks on
            rank 0 and 0 on the others.
        records: Epochs done.
    """

    step: int
    loss_sum: float
    records: list[EpochRecord]


def save(trainer: Trainer, folder: Path, place: Place) -> None:
    """Writes a checkpoint and removes what was there; collective.

    Whenever a process dies, the folder holds this checkpoint or the one before.
    """
    if trainer.sharded is not None:
        save_tables(trainer.sharded, tables_folder(folder, place.step))

    def write() -> None:
        tensors = {name: np.array(v.numpy()) for name, v in trainer.variables.items()}
        # repr of a float and JSON both round-trip every bit.
        state = {"loss_sum": place.loss_sum, "records": place.records}
        save_checkpoint(folder, Checkpoint(place.step, tensors, state))

    replicas.on_rank_0(trainer.engine, write)


def restore(trainer: Trainer, folder: Path) -> Place:
    """Goes on from the newest checkpoint, or from the first weights; collective.

    Raises:
        OSError: A file cannot be read.
        ValueError: The checkpoint is damaged or of another model.
        PeerLostError, RuntimeError: One of these in another process.
    """
    engine = trainer.engine
    found = replicas.on_rank_0(engine, lambda: _load(trainer, folder))
    place, divided = found or (Place(step=0, loss_sum=0.0, records=[]), False)
    # Asked of rank 0: on a network file system others may see less.
    said = replicas.broadcast_json(engine, {**asdict(place), "divided": divided})
    divided = said.pop("divided")
    place = Place(**said)
    trainer.align()
    if trainer.sharded is not None and place.step:
        if divided:
            load_tables(trainer.sharded, tables_folder(folder, place.step))
        else:
            _divide(trainer.sharded, folder, place.step)
            trainer.sharded.updates = trainer.num_steps
    if engine.rank != 0:
        place = Place(step=place.step, loss_sum=0.0, records=place.records)
    return place


def save_rows(tables: ShardedTables, path: Path) -> None:
    """Fills the tables in a file of `tensor_store`; collective.

    Each process writes blocks of whole rows, most of which it holds; none has a table whole.

    Raises:
        OSError: The file cannot be written.
        RuntimeError: On another rank.
    """
    writer, _ = all_or_none(
        tables.engine, "save_rows_begin", lambda: RowsWriter(path), share=lambda _: ""
    )

    def write(block: Block, rows: NDArray[np.float32]) -> str:
        writer.write(tables.specs[block.table].name, block.begin, rows)
        return ""

    try:
        visit_blocks(tables, ["float32"] * len(tables.specs), write)
    finally:
        writer.close()
    # Behind it the rows of all are on their devices.
    tables.engine.barrier(name="save_rows_end")


def _load(trainer: Trainer, folder: Path) -> tuple[Place, bool] | None:
    """Sets the variables from the newest checkpoint; whether its tables lie beside it."""
    variables = trainer.variables
    checkpoint = latest_checkpoint(folder, with_tables=trainer.sharded is None)
    if checkpoint is None:
        return None
    tensors = dict(checkpoint.tensors)
    divided = not checkpoint.has_tables
    tables = tables_folder(folder, checkpoint.step)
    if divided and not (tables / MANIFEST).is_file():
        raise ValueError(
            f"{folder}: the checkpoint of step {checkpoint.step} has no tables: {tables.name} is "
            "not whole; remove the checkpoint to train from the start"
        )
    if divided and trainer.sharded is None:
        tensors |= _whole(trainer, tables)
    if tensors.keys() != variables.keys():
        odd = min(tensors.keys() ^ variables.keys())
        has = "has" if odd in tensors else "lacks"
        raise ValueError(f"{folder}: the checkpoint is of another model: it {has} {odd!r}")
    for name, variable in variables.items():
        if tensors[name].shape != tuple(variable.shape):
            raise ValueError(
                f"{folder}: {name!r} is {tensors[name].shape} in the checkpoint; the model has "
                f"{tuple(variable.shape)}"
            )
        variable.assign(tensors[name])
    state = checkpoint.state
    place = Place(step=checkpoint.step, loss_sum=state["loss_sum"], records=state["records"])
    return place, divided


def _whole(trainer: Trainer, folder: Path) -> Mapping[str, NDArray[Any]]:
    """Divided tables as one process holds them, by the names of `Trainer.variables`."""
    specs = trainer.model.table_specs
    shapes = tuple(
        TableShape(name=spec.name, rows=spec.rows, dim=spec.dim, optimizer=spec.optimizer.rule)
        for spec in specs
    )
    plan = ShardingPlan(
        num_ranks=1,
        ranks_per_host=1,
        tables=shapes,
        placements=tuple(data_parallel(shape, 1) for shape in shapes),
    )
    tables = ShardedTables(specs, plan, NullEngine(), initialize=False)
    load_tables(tables, folder)
    whole: dict[str, NDArray[Any]] = {UPDATES: np.array(tables.updates)}
    for spec, part in zip(specs, tables.replicas.values(), strict=True):
        whole |= {f"tables/{spec.name}/{name}": array for name, array in arrays_of(part).items()}
    return whole


def _divide(tables: ShardedTables, folder: Path, step: int) -> None:
    """Takes this process's parts from the whole tables of a checkpoint; collective."""

    def read() -> None:
        for part in [*tables.parts.values(), *tables.replicas.values()]:
            piece = part.piece
            rows = slice(piece.row_begin, piece.row_end)
            columns = slice(piece.column_begin, piece.column_end)
            for name, array in arrays_of(part).items():
                table = tables.specs[piece.table].name
                found = read_part(folder, step, f"tables/{table}/{name}", rows, columns)
                if found.shape != array.shape:
                    raise ValueError(f"{folder}: the checkpoint is of a smaller {table!r}")
                array[...] = found

    all_or_none(tables.engine, "divide_tables", read, share=lambda _: "")
