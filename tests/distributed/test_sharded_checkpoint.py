from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sharded_model import WORLD, plan_of, specs_of, train
from thread_engines import on_ranks

from feedfast.bags import Bags
from feedfast.comm import Engine, NullEngine
from feedfast.row_optimizers import Rule
from feedfast.sharded_tables import ShardedTables, TableSpec
from feedfast.sharded_tables.checkpoint import MANIFEST, Manifest, load_tables, save_tables
from feedfast.sharding import ShardingPlan, TableShape, data_parallel
from feedfast.store import files


def cells(shards: list[ShardedTables]) -> dict[str, np.ndarray]:
    """All weights and states of all ranks by table, name and place; NaN where nothing is."""
    found: dict[str, np.ndarray] = {}
    for rank in shards:
        for piece, part in [*rank.parts.items(), *rank.replicas.items()]:
            spec = rank.specs[piece.table]
            for i, array in enumerate([part.weights, *part.states]):
                rows = slice(piece.row_begin, piece.row_end)
                shape = (spec.rows, spec.dim) if array.ndim == 2 else (spec.rows,)
                whole = found.setdefault(f"{spec.name}/{i}", np.full(shape, np.nan, np.float32))
                if array.ndim == 2:
                    whole[rows, piece.column_begin : piece.column_end] = array
                else:
                    whole[rows] = array
    return found


def save_from(num_ranks: int, rule: Rule, folder: Path, steps: int = 3) -> dict[str, np.ndarray]:
    def body(engine: Engine) -> ShardedTables:
        tables = ShardedTables(specs_of(rule), plan_of(num_ranks), engine)
        train(tables, engine, range(steps), 1, WORLD)
        save_tables(tables, folder)
        return tables

    return cells(on_ranks(num_ranks, body))


def load_on(num_ranks: int, rule: Rule, folder: Path, *, shift: int = 0) -> list[ShardedTables]:
    def body(engine: Engine) -> ShardedTables:
        plan = plan_of(num_ranks, shift=shift)
        tables = ShardedTables(specs_of(rule), plan, engine, initialize=False)
        load_tables(tables, folder)
        return tables

    return on_ranks(num_ranks, body)


@pytest.mark.parametrize("rule", ["sgd", "adagrad", "rowwise_adagrad", "adam", "rowwise_adam"])
def test_six_ranks_save_and_any_other_division_loads_the_same_bits(
    rule: Rule, tmp_path: Path
) -> None:
    want = save_from(6, rule, tmp_path)
    assert len(list(tmp_path.iterdir())) == 7
    for num_ranks in (1, 2, 3, 4, 6):
        loaded = load_on(num_ranks, rule, tmp_path, shift=1)
        assert {tables.updates for tables in loaded} == {3}
        got = cells(loaded)
        assert got.keys() == want.keys()
        for name, array in got.items():
            np.testing.assert_array_equal(array, want[name], err_msg=name)


def test_training_goes_on_where_it_was(tmp_path: Path) -> None:
    def straight(engine: Engine) -> ShardedTables:
        tables = ShardedTables(specs_of("adam"), plan_of(1), engine)
        train(tables, engine, range(6), 1, WORLD)
        return tables

    def resumed(engine: Engine) -> ShardedTables:
        tables = ShardedTables(specs_of("adam"), plan_of(3), engine, initialize=False)
        load_tables(tables, tmp_path)
        train(tables, engine, range(3, 6), 1, WORLD)
        return tables

    save_from(2, "adam", tmp_path)
    want, got = cells(on_ranks(1, straight)), cells(on_ranks(3, resumed))
    for name, array in got.items():
        difference = np.abs(array - want[name]).max()
        assert difference <= 1e-5 * np.abs(want[name]).max(), name  # sums in another order


def test_a_resumed_run_makes_the_exchanges_of_one_that_was_not_cut_off(tmp_path: Path) -> None:
    shape = TableShape(name="hot", rows=3, dim=2)
    plan = ShardingPlan(
        num_ranks=2, ranks_per_host=1, tables=(shape,), placements=(data_parallel(shape, 2),)
    )
    specs = [TableSpec(name="hot", rows=3, dim=2)]

    def train_windows(tables: ShardedTables, count: int) -> int:
        """How many of them sent the table as one sum."""
        before = tables.engine.traffic.exchanges
        for _ in range(count):
            (found,) = tables.lookup([Bags.from_lists([[0, 1, 2]])])
            tables.accumulate([found.ids], [found.rows])
            tables.exchange_window(1.0)
            tables.apply_window(1.0)
        return tables.engine.traffic.exchanges - before - 3 * count

    def body(engine: Engine) -> list[int]:
        tables = ShardedTables(specs, plan, engine)
        sums = [train_windows(tables, 3)]
        save_tables(tables, tmp_path)
        sums.append(train_windows(tables, 2))
        resumed = ShardedTables(specs, plan, engine, initialize=False)
        load_tables(resumed, tmp_path)
        return [*sums, train_windows(resumed, 2)]

    assert on_ranks(2, body) == [[2, 1, 1]] * 2


def test_the_next_save_replaces_the_checkpoint_and_removes_what_is_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_from(4, "sgd", tmp_path, steps=1)
    left_over = tmp_path / f"part-{'0' * 16}-00000.safetensors"
    left_over.write_bytes(b"of a save that was killed")
    with monkeypatch.context() as patched:  # killed while it wrote, on another machine
        patched.setattr(files, "_pid_space", lambda: "elsewhere")
        files.temporary_sibling(left_over).write_bytes(b"half")
    other = tmp_path / "notes.txt"
    other.write_text("not ours")
    want = save_from(2, "sgd", tmp_path, steps=2)
    assert len(list(tmp_path.iterdir())) == 2 + 2
    assert other.exists()
    for name, array in cells(load_on(1, "sgd", tmp_path)).items():
        np.testing.assert_array_equal(array, want[name])


def test_one_rank_that_cannot_write_fails_all_and_the_old_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = save_from(2, "sgd", tmp_path)
    from feedfast.sharded_tables import checkpoint

    write = checkpoint.files.replace_durably

    def full(path: Path, pieces: Any) -> None:
        if path.name.endswith("00001.safetensors"):
            raise OSError(28, "No space left on device")
        write(path, pieces)

    monkeypatch.setattr(checkpoint.files, "replace_durably", full)

    def body(engine: Engine) -> str:
        tables = ShardedTables(specs_of("sgd"), plan_of(2), engine)
        with pytest.raises(OSError if engine.rank == 1 else RuntimeError) as caught:
            save_tables(tables, tmp_path)
        return str(caught.value)

    for message in on_ranks(2, body):
        assert "No space left on device" in message
    for name, array in cells(load_on(1, "sgd", tmp_path)).items():
        np.testing.assert_array_equal(array, want[name])


def refused(tmp_path: Path, rule: Rule = "sgd") -> str:
    tables = ShardedTables(specs_of(rule), plan_of(1), NullEngine(), initialize=False)
    with pytest.raises((OSError, ValueError)) as caught:
        load_tables(tables, tmp_path)
    return str(caught.value)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    assert MANIFEST in refused(tmp_path)
    save_from(2, "sgd", tmp_path)
    assert "rule='sgd', dtype='float32'); needs StoredTable" in refused(tmp_path, "adam")
    part = next(tmp_path.glob("part-*-00001*"))
    content = part.read_bytes()
    part.write_bytes(content[:-1])
    assert part.name in refused(tmp_path)
    part.unlink()
    assert part.name in refused(tmp_path)
    part.write_bytes(content)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    dropped = {**manifest, "parts": manifest["parts"][1:]}
    (tmp_path / MANIFEST).write_text(json.dumps(dropped))
    assert "on are in no part" in refused(tmp_path)
    for wrong, changes in (
        ("on are in two parts", {"row_begin": 0, "row_end": 67}),
        # As many weights as the table has, some of them twice and others not at all.
        ("weights of rows [0, 1) from column 0 on are in no part", {"row_begin": 1, "row_end": 35}),
    ):
        parts = [
            {**part, **changes} if part["table"] == "rows" and not part["row_begin"] else part
            for part in manifest["parts"]
        ]
        (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "parts": parts}))
        assert wrong in refused(tmp_path)
    outside = json.dumps(manifest).replace(part.name, "../" + part.name)
    (tmp_path / MANIFEST).write_text(outside)
    assert "is no name of a file here" in refused(tmp_path)


def test_manifests_of_any_content_are_read_or_refused(tmp_path: Path) -> None:
    save_from(2, "sgd", tmp_path, steps=1)
    text = (tmp_path / MANIFEST).read_bytes()
    chosen = random.Random(7)
    for _ in range(2000):
        damaged = bytearray(text)
        for _ in range(chosen.randint(1, 4)):
            at = chosen.randrange(len(damaged))
            damaged[at : at + chosen.randint(0, 3)] = chosen.choice(
                [b"", b"-1", b"9" * 20, b"null", b"[", b'"', b"1e9", b"true"]
            )
        try:
            Manifest.from_json(bytes(damaged))
        except ValueError:
            continue


SAVER = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from feedfast.comm import NullEngine
from feedfast.sharded_tables import ShardedTables, TableSpec
from feedfast.sharded_tables.checkpoint import save_tables
from sharded_model import plan_of, specs_of
tables = ShardedTables(specs_of("sgd"), plan_of(1), NullEngine())
while True:
    tables.updates += 1
    for part in [*tables.parts.values(), *tables.replicas.values()]:
        part.weights[...] = tables.updates
    save_tables(tables, Path(sys.argv[1]))
    print(tables.updates, flush=True)
"""


def test_a_killed_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    folder, chosen = tmp_path / "saved", random.Random(3)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(folder), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            time.sleep(chosen.uniform(0.0, 0.05))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=30)
            process.stdout.close()
        (tables,) = load_on(1, "sgd", folder)
        for array in cells([tables]).values():
            np.testing.assert_array_equal(array, np.full_like(array, tables.updates))
