"""Divided tables of a training run in one process: checkpoints, plans, agreement of ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from thread_engines import on_ranks
from training_ranks import Taught, config, plan_of, require_same_state

from feedfast.comm import Engine
from feedfast.comm.traced import PeerLostError
from feedfast.config import DistributedConfig, RankerConfig
from feedfast.ranker.predict import predict_examples
from feedfast.ranker.run import RunFolder
from feedfast.ranker.tensor_store import RowsWriter, read_tensors, write_tensors
from feedfast.ranker.trained import TENSORS, FeedRanker
from feedfast.ranker_precision import TABLES
from feedfast.sharding import TableShape
from feedfast.store import files
from feedfast.training import replicas, saving, table_plan
from feedfast.training.saving import Place, restore, save
from feedfast.training.train import _save_ranker

PLACE = Place(step=3, loss_sum=0.5, records=[{"epoch": 1, "loss": 0.25, "validation": 0.9}])


@pytest.fixture(scope="module")
def whole() -> Taught:
    return Taught(None, 1)


@pytest.fixture(scope="module")
def divided() -> Taught:
    return Taught(None, 1, divided=True)


def test_first_values_do_not_depend_on_the_division(whole: Taught, divided: Taught) -> None:
    require_same_state([divided.state()], whole.state(), 0.0)


@pytest.mark.parametrize("source", ["whole", "divided"])
def test_a_checkpoint_is_read_whole_and_divided(
    source: str, whole: Taught, divided: Taught, tmp_path: Path
) -> None:
    writer = whole if source == "whole" else divided
    writer.take_steps(0, 3)
    save(writer.trainer, tmp_path, PLACE)
    want = writer.state()
    names = {"step-0000000003.safetensors"}
    assert {p.name for p in tmp_path.iterdir()} == names | (
        {"step-0000000003.tables"} if source == "divided" else set()
    )
    for reader in (whole, divided):
        reader.take_steps(3, 4)
        assert restore(reader.trainer, tmp_path) == PLACE
    assert writer.state().keys() == want.keys()
    for name, array in writer.state().items():
        np.testing.assert_array_equal(array, want[name], err_msg=name)
    require_same_state([divided.state()], whole.state(), 0.0)
    for reader in (whole, divided):
        reader.take_steps(3, 5)
    require_same_state([divided.state()], whole.state(), 1e-6)


def test_a_death_between_tables_and_layers_leaves_the_checkpoint_before(
    divided: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(divided.trainer, tmp_path, PLACE)
    want = divided.state()
    divided.take_steps(3, 5)

    def die(*arguments: Any) -> None:
        raise OSError("killed")

    later = dataclasses.replace(PLACE, step=5)
    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_checkpoint", die)
        with pytest.raises(OSError, match="killed"):
            save(divided.trainer, tmp_path, later)
    assert restore(divided.trainer, tmp_path) == PLACE
    for name, array in divided.state().items():
        np.testing.assert_array_equal(array, want[name], err_msg=name)
    save(divided.trainer, tmp_path, later)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"step-0000000005.safetensors", "step-0000000005.tables"}


def test_a_checkpoint_of_another_model_is_refused(
    whole: Taught, divided: Taught, tmp_path: Path
) -> None:
    save(divided.trainer, tmp_path, PLACE)
    specs = whole.trainer.model.table_specs
    with pytest.MonkeyPatch.context() as patch:
        smaller = (dataclasses.replace(specs[0], rows=7), *specs[1:])
        patch.setattr(whole.trainer.model, "table_specs", smaller)
        with pytest.raises(ValueError, match=r"the checkpoint has .*member_table"):
            restore(whole.trainer, tmp_path)
    (tmp_path / "step-0000000003.tables" / "tables.json").unlink()
    for reader in (whole, divided):
        with pytest.raises(ValueError, match=r"step-0000000003\.tables is not whole; remove"):
            restore(reader.trainer, tmp_path)


def test_a_lost_rank_is_no_error_of_tensorflow(
    divided: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    divided.take_steps(0, 1)
    tables = divided.trainer.sharded
    assert tables is not None

    def lose(*arguments: Any) -> None:
        raise PeerLostError("rank 1 of 2 has ended")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "lookup", lose)
        with pytest.raises(PeerLostError, match="rank 1 of 2"):
            divided.take_steps(1, 2)
        with pytest.raises(PeerLostError, match="rank 1 of 2"):
            predict_examples(divided.trainer.model, divided.examples.examples)
    divided.take_steps(1, 2)


def test_what_a_full_disk_left_makes_room_for_the_next_ranker(
    divided: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)

    def write(path: Path, *, absent: Mapping[str, tuple[int, int]]) -> Path:
        unfinished = files.temporary_sibling(path)
        unfinished.mkdir()
        write_tensors(unfinished / TENSORS, {}, absent=absent)
        return unfinished

    def fail(*arguments: Any) -> None:
        raise OSError("full")

    ranker: Any = SimpleNamespace(write_unfinished=write, publish=FeedRanker.publish)

    def save_ranker() -> None:
        _save_ranker(ranker, divided.trainer.model, folder, divided.trainer.engine)

    with monkeypatch.context() as patch:
        patch.setattr(RowsWriter, "write", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="full"):
                save_ranker()
            assert len(list(tmp_path.iterdir())) == 1
    save_ranker()
    assert list(tmp_path.iterdir()) == [folder.ranker]
    tables = divided.trainer.sharded
    assert tables is not None
    found = read_tensors(folder.ranker / TENSORS)
    assert {n: t.shape for n, t in found.items()} == {s.name: (s.rows, s.dim) for s in tables.specs}
    assert all(np.count_nonzero(table) for table in found.values())


def shapes(members: int = 1000, dim: int = 5) -> tuple[TableShape, ...]:
    sizes = zip(TABLES, (members, 60, 40), (dim, 3, 4), strict=True)
    return tuple(TableShape(name=n, rows=r, dim=d, optimizer="adam") for n, r, d in sizes)


def chosen(sharding: str) -> RankerConfig:
    return dataclasses.replace(config(), distributed=DistributedConfig(sharding=sharding))


def kinds(sharding: str, size: int, tables: Any = None) -> list[str]:
    """Of the tables; the same on all ranks."""

    def body(engine: Engine) -> list[str] | Exception:
        try:
            plan = table_plan.choose_plan(chosen(sharding), tables or shapes(), engine)
        except (OSError, ValueError, PeerLostError) as error:
            return error  # raised in a thread it would end the exchange in which others hear of it
        return [] if plan is None else [placement.kind for placement in plan.placements]

    first, *others = on_ranks(size, body)
    if isinstance(first, Exception):
        assert all(isinstance(other, PeerLostError) for other in others)
        raise first
    assert all(other == first for other in others)
    return first


def test_plans_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kinds("none", 2) == kinds("auto", 2) == kinds("row", 1) == []
    assert kinds("row", 3) == ["row", "row", "data_parallel"]
    large = shapes(members=20_000_000)
    member, hashtag, leaf = kinds("auto", 2, large)
    assert member != "data_parallel"
    assert hashtag == leaf == "data_parallel"
    assert "in each process (member_table" in table_plan.describe_plan(plan_of(large, 2), large)
    monkeypatch.setattr(table_plan, "_MEMORY_SHARE", 1e-9)
    with pytest.raises(ValueError, match="member_table"):
        kinds("auto", 2, large)
    with pytest.raises(ValueError, match=r"sharding must be none, auto, row or a plan file"):
        chosen("rows")


def test_plan_files(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan_of(shapes(), 2).to_json())
    assert kinds(str(path), 2) == ["row", "row_column", "data_parallel"]
    assert kinds(str(path), 2, shapes(members=901)) == ["row", "row_column", "data_parallel"]

    def problem(size: int, tables: Any) -> str:
        with pytest.raises(ValueError, match=r"plan\.json: ") as info:
            kinds(str(path), size, tables)
        return str(info.value)

    assert "is for 2 processes; 3 train" in problem(3, shapes())
    assert "'member_table' is planned for 1000 rows; the data need 1001" in problem(
        2, shapes(members=1001)
    )
    assert "'member_table' has 5 columns; the configuration says 6" in problem(2, shapes(dim=6))
    renamed = tuple(dataclasses.replace(s, name=s.name.removesuffix("_table")) for s in shapes())
    path.write_text(plan_of(renamed, 2).to_json())
    assert "is of tables member, hashtag, leaf; needs member_table" in problem(2, shapes())
    path.write_text("[]")
    assert "sharding plan" in problem(2, shapes())
    path.unlink()
    with pytest.raises(OSError, match=r"plan\.json"):
        kinds(str(path), 2)


def test_ranks_with_other_data_are_named_on_all_ranks() -> None:
    def body(engine: Engine) -> str:
        data = "b" if engine.rank == 2 else "a"
        with pytest.raises(ValueError, match="rank 2 has another dataset than rank 0") as info:
            replicas.require_equal(engine, {"configuration": "c", "dataset": data})
        return str(info.value)

    assert len(set(on_ranks(3, body))) == 1
    on_ranks(2, lambda engine: replicas.require_equal(engine, {"dataset": "a"}))
