from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sharded_model import plan_of, specs_of
from thread_engines import on_ranks

from feedfast.comm import Engine
from feedfast.sharded_tables import ShardedTables
from feedfast.sharded_tables.store_export import export_tables
from feedfast.store import ModelStore, ModelWriter, encode_table
from feedfast.store import writer as store_writer

LAYOUTS: dict[str, Any] = {"columns": "int8_rowwise", "grid": "float16", "hot_rows": "int4_rowwise"}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that the tables have many."""
    from feedfast.sharded_tables import store_export

    for module in (store_writer, store_export):
        monkeypatch.setattr(module, "rows_per_block", lambda row_bytes: 8)


def export_from(num_ranks: int, store: Path) -> list[str]:
    def body(engine: Engine) -> str:
        tables = ShardedTables(specs_of("rowwise_adagrad"), plan_of(num_ranks, shift=1), engine)
        return export_tables(
            tables,
            store,
            "feed",
            layouts=LAYOUTS,
            add_rest=lambda writer: writer.add_tensors("towers", {"bias": np.ones(3, np.float32)}),
            description={"of": "a test"},
        )

    return on_ranks(num_ranks, body)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 6])
def test_the_blobs_are_those_of_whole_tables_under_any_plan(num_ranks: int, tmp_path: Path) -> None:
    assert export_from(num_ranks, tmp_path) == ["000001"] * num_ranks
    got = ModelStore(tmp_path).open("feed").manifest
    with ModelWriter(tmp_path, "feed") as writer:
        for spec in specs_of("rowwise_adagrad"):
            layout = LAYOUTS.get(spec.name, "float32")
            table = spec.initializer(spec.name, 0, spec.rows, spec.dim)
            writer.add_table(spec.name, encode_table(table, layout), layout=layout, dim=spec.dim)
        want = writer.manifest().sections
    assert {name: got.sections[name] for name in want} == want
    assert got.sections.keys() - want.keys() == {"towers"}
    assert got.description == {"of": "a test"}
    assert len(want["grid"].blobs) == 9


def test_weights_that_a_layout_cannot_hold_publish_nothing(tmp_path: Path) -> None:
    def body(engine: Engine) -> str:
        tables = ShardedTables(specs_of("sgd"), plan_of(3), engine)
        if engine.rank == 2:
            next(iter(tables.parts.values())).weights[...] = np.nan
        error = ValueError if engine.rank == 2 else RuntimeError
        with pytest.raises(error, match="nan") as caught:
            export_tables(tables, tmp_path, "feed", layouts={"whole": "int8_rowwise"})
        return str(caught.value)

    messages = on_ranks(3, body)
    assert messages[0].startswith("rank 2: ValueError: ")
    assert messages[0] == messages[1]
    assert not ModelStore(tmp_path).list()


def test_unknown_tables_are_refused(tmp_path: Path) -> None:
    def body(engine: Engine) -> str:
        tables = ShardedTables(specs_of("sgd"), plan_of(2), engine)
        with pytest.raises(ValueError, match="unknown tables: nothing") as caught:
            export_tables(tables, tmp_path, "feed", layouts={"nothing": "int8_rowwise"})
        return str(caught.value)

    on_ranks(2, body)


def test_whatever_add_rest_raises_ends_all(tmp_path: Path) -> None:
    def fail(writer: ModelWriter) -> None:
        raise KeyError("towers\udcff")  # as names of files that are no UTF-8 come

    def body(engine: Engine) -> str:
        tables = ShardedTables(specs_of("sgd"), plan_of(2), engine)
        with pytest.raises(KeyError if engine.rank == 0 else RuntimeError) as caught:
            export_tables(tables, tmp_path, "feed", add_rest=fail)
        return str(caught.value)

    assert "rank 0: KeyError: 'towers" in on_ranks(2, body)[1]
    assert not ModelStore(tmp_path).list()
