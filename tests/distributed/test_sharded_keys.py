"""Sharded tables looked up by string keys: the same tables as by rows, in as many exchanges."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from processes import run_ranks
from sharded_model import assembled, row_gradients
from test_horovod_engine import horovodrun, needs_horovod
from thread_engines import on_ranks

import feedfast as ff
from feedfast.bags import Bags
from feedfast.comm import Engine, NullEngine
from feedfast.row_optimizers import Rule
from feedfast.sharded_tables import (
    BadBagsError,
    KeyBags,
    Normal,
    RowOptimization,
    ShardedTables,
    ShardedVocabulary,
    TableSpec,
)
from feedfast.sharded_tables.checkpoint import load_tables, save_tables
from feedfast.sharded_tables.vocabulary_folder import open_vocabulary, save_vocabulary
from feedfast.sharding import ShardingPlan, TableShape, column_wise, row_wise

RANKS = [1, 2, 3, 4, 6]
WORLD, STEPS, MICRO = 12, 6, 2
PARTS = 12  # of every vocabulary, so that rows do not depend on the ranks
DIMS = {"members": 5, "plain": 4, "few": 3, "none": 2}
KEYS = {
    "members": [b"member %d" % i for i in range(200)],
    "few": [b"a", b"\xff\x00", b"x" * 10_000],
    "none": [],
}
PLAIN_ROWS = 40


def vocabularies_on(engine: Engine) -> dict[str, ShardedVocabulary]:
    return {
        name: ShardedVocabulary.build([keys], engine, num_parts=PARTS, fingerprint_bits=32)
        for name, keys in KEYS.items()
    }


def specs_of(rule: Rule) -> list[TableSpec]:
    optimizer = RowOptimization(
        rule=rule,
        learning_rate=0.05,
        initial_state=0.1 if "adagrad" in rule else 0.0,
        epsilon=1e-3 if "adam" in rule else 1e-7,
    )
    rows = {"plain": PLAIN_ROWS, **{name: len(keys) + 1 for name, keys in KEYS.items()}}
    return [
        TableSpec(name=name, rows=rows[name], dim=dim, optimizer=optimizer, initializer=Normal(0.5))
        for name, dim in DIMS.items()
    ]


def tables_on(
    engine: Engine,
    rule: Rule = "adagrad",
    vocabularies: dict[str, ShardedVocabulary] | None = None,
) -> ShardedTables:
    vocabularies = vocabularies_on(engine) if vocabularies is None else vocabularies
    specs = specs_of(rule)
    shapes = {spec.name: TableShape(name=spec.name, rows=spec.rows, dim=spec.dim) for spec in specs}
    columns = column_wise(shapes["plain"], range(min(engine.size, DIMS["plain"])))
    placements = [
        vocabularies[name].placement(shape) if name in vocabularies else columns
        for name, shape in shapes.items()
    ]
    plan = ShardingPlan(
        num_ranks=engine.size,
        ranks_per_host=1,
        tables=tuple(shapes.values()),
        placements=tuple(placements),
    )
    return ShardedTables(specs, plan, engine, vocabularies=vocabularies)


def keys_of(step: int, micro: int, share: int) -> tuple[dict[str, list[Any]], np.ndarray, Any]:
    """Keys of every table and rows of the plain one, lengths of their bags, targets."""
    rng = np.random.default_rng([step, micro, share])
    examples = 0 if (step + share) % 5 == 4 else 5
    lengths = rng.integers(0, 4, examples)
    count = int(lengths.sum())
    keys: dict[str, list[Any]] = {}
    for name, known in KEYS.items():
        words = [*known, *(b"unknown %d" % i for i in range(1 + len(known) // 4))]
        keys[name] = [words[i] for i in rng.integers(0, len(words), count)]
    keys["plain"] = rng.integers(0, PLAIN_ROWS, count).tolist()
    if step % 3 == 1:  # the same by rows, and only unknown keys
        keys["few"] = [b"unknown"] * count
    targets = {n: rng.standard_normal((examples, d)).astype(np.float32) for n, d in DIMS.items()}
    return keys, lengths, targets


def train(tables: ShardedTables, rows_of: dict[str, dict[bytes, int]] | None) -> None:
    """Trains by keys or, with `rows_of`, by rows."""
    engine = tables.engine
    for step in range(STEPS):
        for micro in range(MICRO):
            for share in range(engine.rank, WORLD, engine.size):
                keys, lengths, targets = keys_of(step, micro, share)
                bags: list[Bags | KeyBags] = []
                of_rows: list[Bags] = []
                for name in DIMS:
                    rows = keys[name]
                    if name in KEYS and rows_of is not None:
                        rows = [rows_of[name].get(key, 0) for key in rows]
                    plain = Bags.from_lengths(np.array([0] * len(rows)), lengths)
                    if rows is not keys[name] or name == "plain":
                        plain = Bags.from_lengths(np.array(rows, np.int64), lengths)
                        bags.append(plain)
                    else:
                        bags.append(KeyBags(rows, plain.offsets))
                    of_rows.append(plain)
                fetched = tables.lookup(bags)
                for found in fetched:
                    assert np.all(np.diff(found.ids) > 0)
                gradients = [
                    row_gradients(found.rows, found.positions, bag, targets[name])
                    for name, found, bag in zip(DIMS, fetched, of_rows, strict=True)
                ]
                tables.accumulate([found.ids for found in fetched], gradients)
        tables.exchange_window(1 / (MICRO * WORLD))
        tables.apply_window(1.0)


def whole(rule: Rule) -> list[np.ndarray]:
    """Trained by rows on one rank, the rows from a dict."""
    engine = NullEngine()
    tables = tables_on(engine, rule)
    rows_of = {
        name: dict(zip(KEYS[name], vocabulary.lookup(KEYS[name]).tolist(), strict=True))
        for name, vocabulary in vocabularies_on(engine).items()
    }
    train(tables, rows_of)
    return assembled([tables])


@pytest.mark.parametrize("rule", get_args(Rule))
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_keys_train_the_tables_that_rows_train(num_ranks: int, rule: Rule) -> None:
    check(num_ranks, rule)


@pytest.mark.parametrize("num_ranks", [4, 6])
def test_keys_train_the_same_on_more_ranks(num_ranks: int) -> None:
    check(num_ranks, "rowwise_adagrad")


def check(num_ranks: int, rule: Rule) -> None:
    def body(engine: Engine) -> ShardedTables:
        tables = tables_on(engine, rule)
        train(tables, None)
        return tables

    got = assembled(on_ranks(num_ranks, body))
    for spec, table, want in zip(specs_of(rule), got, whole(rule), strict=True):
        np.testing.assert_allclose(table, want, rtol=1e-5, atol=1e-6, err_msg=spec.name)
        first = spec.initializer(spec.name, 0, spec.rows, spec.dim)
        assert np.abs(table - first).max() > 1e-3, spec.name


@pytest.mark.parametrize("num_ranks", RANKS)
def test_exchanges_and_bytes_are_those_of_the_closed_form(num_ranks: int) -> None:
    def body(engine: Engine) -> tuple[dict[str, Any], dict[str, int], dict[str, int]]:
        tables = tables_on(engine)
        before = engine.exchanges_by_name
        train(tables, None)
        counts = {n: t for n, t in engine.exchanges_by_name.items() if n not in before}
        sent = {name: counted.bytes_sent for name, counted in counts.items()}

        # One lookup more, of which all ranks know what all ask.
        tables.lookup(bags_of(engine.rank))
        after = engine.exchanges_by_name
        got = {
            name: after[name].bytes_sent - sent[name] for name in ("sharded_ids", "sharded_rows")
        }
        return {n: t.exchanges for n, t in counts.items()}, got, closed_form(tables)

    def bags_of(rank: int) -> list[Bags | KeyBags]:
        keys, lengths, _ = keys_of(0, 0, rank)
        plain = Bags.from_lengths(np.array(keys["plain"]), lengths)
        return [
            plain if name == "plain" else KeyBags(keys[name], plain.offsets, None) for name in DIMS
        ]

    def closed_form(tables: ShardedTables) -> dict[str, int]:
        me = tables.engine.rank
        whole = {n: set(keys) for n, keys in KEYS.items()}
        ids = rows = 0
        for other in range(num_ranks):
            asked_here, _, _ = keys_of(0, 0, other)
            asked_there, _, _ = keys_of(0, 0, me)
            if other == me:
                continue
            pieces = tables.layout.pieces_of_rank[other]
            ids += 4 * (1 + len(pieces))
            for piece in pieces:
                name = tables.specs[piece.table].name
                if name == "plain":
                    ids += 4 * len(set(asked_there["plain"]))
                else:
                    ids += 8 * sum(owner(name, key) == other for key in set(asked_there[name]))
            for piece in tables.layout.pieces_of_rank[me]:
                name = tables.specs[piece.table].name
                keys = set(asked_here[name])
                if name == "plain":
                    rows += 4 * piece.columns * len(keys)
                else:
                    mine = {key for key in keys if owner(name, key) == me}
                    rows += 4 * len(mine) + 4 * piece.columns * len(mine & whole[name])
        return {"sharded_ids": ids, "sharded_rows": rows}

    def owner(name: str, key: bytes) -> int:
        vocabulary = vocabularies[name]
        _, offsets, _ = vocabulary.divide(vocabulary.hash_keys([key]), np.zeros(1, np.int64))
        return int(np.flatnonzero(np.diff(offsets))[0])  # num_ranks for keys of empty ranks

    vocabularies = on_ranks(num_ranks, vocabularies_on)[0]
    micro_batches = STEPS * MICRO * WORLD // num_ranks
    want = {
        "sharded_ids": micro_batches,
        "sharded_rows": micro_batches,
        "sharded_gradients": STEPS,
    }
    for exchanges, got, expected in on_ranks(num_ranks, body):
        assert exchanges == want
        assert got == expected


def test_codes_and_arrays_stand_for_keys_and_bad_ones_are_an_error_on_all() -> None:
    def body(engine: Engine) -> list[str]:
        tables = tables_on(engine)
        vocabulary = vocabularies_on(engine)["members"]
        keys = KEYS["members"][:20]
        offsets = np.array([0, 20])
        nothing = Bags.from_lists([[]])
        empty = KeyBags([], np.array([0]))

        def look_up(members: Bags | KeyBags, few: Bags | KeyBags = empty) -> Any:
            return tables.lookup([members, nothing, few, empty])[0]

        want = look_up(KeyBags(keys, offsets))
        rows = vocabulary.lookup(keys)
        for same in (
            KeyBags(vocabulary.hash_keys(keys), offsets),
            KeyBags(np.array(keys), offsets),
            Bags(rows, offsets) if engine.rank else KeyBags(keys, offsets),
        ):
            got = look_up(same)
            np.testing.assert_array_equal(got.ids[got.positions], rows)
            np.testing.assert_array_equal(got.rows[got.positions], want.rows[want.positions])
        messages = []
        bad: list[tuple[Any, Any]] = [
            (KeyBags(["a", 7], np.array([0, 2])), empty),
            (KeyBags(keys, np.array([0, 19])), empty),
            (KeyBags(keys, offsets, np.full(20, np.inf, np.float32)), empty),
            (KeyBags(["\udc80"], np.array([0, 1])), empty),
            (None, empty),
            (empty, Bags.from_lists([[4]])),
        ]
        for members, few in bad:
            with pytest.raises(BadBagsError) as caught:
                look_up(*((members, few) if engine.rank == 1 else (empty, empty)))
            messages.append(str(caught.value))
        with pytest.raises(BadBagsError, match="has no sharded vocabulary"):
            tables.lookup([empty, empty, empty, empty])
        look_up(KeyBags(keys, offsets))
        return messages

    for messages in on_ranks(3, body):
        tables = ["members"] * 5 + ["few"]
        for message, table in zip(messages, tables, strict=True):
            assert message.startswith(f"rank 1: table {table!r}: "), message


def test_other_divisions_than_that_of_the_vocabulary_are_refused() -> None:
    def body(engine: Engine) -> None:
        vocabulary = vocabularies_on(engine)["members"]
        shape = TableShape(name="members", rows=201, dim=4)
        spec = TableSpec(name="members", rows=201, dim=4)

        def make(placement: Any, of: Any) -> None:
            plan = ShardingPlan(
                num_ranks=2, ranks_per_host=1, tables=(shape,), placements=(placement,)
            )
            ShardedTables([spec], plan, engine, vocabularies=of)

        make(vocabulary.placement(shape), {"members": vocabulary})
        for placement in (
            row_wise(shape, [0, 1]),
            row_wise(shape, [0, 1], hot_rows=1, boundaries=[1, 2, 201]),
            column_wise(shape, [0, 1], hot_rows=1),
        ):
            with pytest.raises(ValueError, match="'members' is not divided as its vocabulary"):
                make(placement, {"members": vocabulary})
        with pytest.raises(ValueError, match="unknown tables: x"):
            make(vocabulary.placement(shape), {"x": vocabulary})
        seed = ShardedVocabulary.build(
            [KEYS["members"]], engine, num_parts=PARTS, fingerprint_bits=32
        )
        seed.seed = engine.rank
        with pytest.raises(ValueError, match="the vocabulary of 'members'"):
            make(seed.placement(shape), {"members": seed})

    on_ranks(2, body)


def test_answers_of_a_wrong_size_are_errors() -> None:
    def body(engine: Engine) -> None:
        tables = tables_on(engine)
        bags = [
            KeyBags(KEYS["members"], np.array([0, 200])),
            Bags.from_lists([]),
            *([KeyBags([], np.array([0]))] * 2),
        ]
        if engine.rank == 0:
            with pytest.raises(RuntimeError, match="rank 1 has 7 words where there should be"):
                tables.lookup(bags)
            return
        nothing = np.zeros(1 + len(tables.layout.pieces_of_rank[0]), np.int32)
        engine.all_to_all([nothing] * 2, name="sharded_ids")
        engine.all_to_all([np.zeros(7, np.float32)] * 2, name="sharded_rows")

    on_ranks(2, body)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_share_a_vocabulary_and_its_table(size: int, tmp_path: Path) -> None:
    run_ranks("sharded_keys_worker.py", size, str(tmp_path), timeout=300)
    check_processes(tmp_path, size)


@pytest.mark.slow
@needs_horovod
def test_the_same_over_horovod(tmp_path: Path) -> None:
    script = Path(__file__).with_name("sharded_keys_worker.py")
    done = horovodrun([sys.executable, str(script), str(tmp_path)], timeout=300)
    assert done.returncode == 0, done.stdout[-8000:]
    check_processes(tmp_path, 2)


def check_processes(folder: Path, size: int) -> None:
    """Reads what the worker found."""
    whole = ff.Vocabulary.build([b"member %d" % i for i in range(20_000)]).nbytes
    for found in json.loads((folder / "found.json").read_text()):
        assert found["rows"]
        assert found["error"] <= 1e-6
        assert found["nbytes"] <= 1.1 * whole / size + 4096
        assert [found["exchanges"][f"sharded_{n}"] for n in ("ids", "rows", "gradients")] == [3] * 3


def test_other_numbers_of_ranks_go_on_with_a_saved_vocabulary_and_its_table(tmp_path: Path) -> None:
    def rows_of_keys(tables: ShardedTables) -> np.ndarray:
        bags: list[Bags | KeyBags] = [
            KeyBags(KEYS.get(name, []), np.array([0, len(KEYS.get(name, []))]))
            if name in KEYS
            else Bags.from_lists([])
            for name in DIMS
        ]
        members = tables.lookup(bags)[0]
        return members.rows[members.positions]

    def save(engine: Engine) -> np.ndarray:
        tables = tables_on(engine)
        train(tables, None)
        save_tables(tables, tmp_path / "tables")
        for name, vocabulary in tables.vocabularies.items():
            save_vocabulary(vocabulary, tmp_path / name)
        return rows_of_keys(tables)

    def load(engine: Engine) -> np.ndarray:
        opened = {name: open_vocabulary(tmp_path / name, engine) for name in KEYS}
        tables = tables_on(engine, vocabularies=opened)
        load_tables(tables, tmp_path / "tables")
        return rows_of_keys(tables)

    want = on_ranks(3, save)[0]
    for num_ranks in (1, 2, 4, 6):
        for got in on_ranks(num_ranks, load):
            np.testing.assert_array_equal(got, want)
