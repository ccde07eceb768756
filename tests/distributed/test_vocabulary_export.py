"""Whole vocabularies out of divided ones, alone and in the model store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from thread_engines import on_ranks

import feedfast as ff
from feedfast.comm import Engine
from feedfast.ranker_artifact import publish_ranker
from feedfast.scorer import Scorer
from feedfast.sharded_tables import ShardedTables, ShardedVocabulary, TableSpec
from feedfast.sharded_tables.store_export import export_tables
from feedfast.sharded_tables.vocabulary_export import export_vocabulary
from feedfast.sharded_tables.vocabulary_folder import open_vocabulary, save_vocabulary
from feedfast.sharding import ShardingPlan, TableShape
from feedfast.store import ModelStore, ModelWriter
from synthetic_ranker import random_request, synthetic_ranker

KEYS = [b"", b"\xff\x00", b"x" * 10_000, *(b"key %d" % i for i in range(2000))]
BUFFER = 16 << 20


def export(engine: Engine, folder: Path, *, num_keys: int = len(KEYS), saved: bool) -> bytes:
    keys = KEYS[:num_keys]
    vocabulary = ShardedVocabulary.build([keys[engine.rank :: engine.size]], engine, seed=3)
    rows = vocabulary.lookup(keys)
    if saved:
        save_vocabulary(vocabulary, folder / "parts")
        vocabulary = open_vocabulary(folder / "parts", engine)
    path = folder / "whole.ffv"
    export_vocabulary(vocabulary, path, fingerprint_bits=32, buffer_bytes=BUFFER, chunk_keys=100)
    engine.barrier()
    want = ff.Vocabulary.build(keys, rows=rows, seed=3, fingerprint_bits=32)
    assert path.read_bytes() == bytes(memoryview(want._native))
    return path.read_bytes()


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("num_ranks", [1, 3, 6])
def test_the_file_is_that_of_a_build_of_the_keys_with_their_rows(
    num_ranks: int, saved: bool, tmp_path: Path
) -> None:
    on_ranks(num_ranks, lambda engine: export(engine, tmp_path, saved=saved))
    assert {path.name for path in tmp_path.iterdir()} <= {"whole.ffv", "parts"}
    for num_keys in (0, 1, 2):
        on_ranks(
            num_ranks, lambda engine, n=num_keys: export(engine, tmp_path, num_keys=n, saved=saved)
        )  # type: ignore[misc]


def test_damaged_codes_are_refused_by_name_and_leave_no_file(tmp_path: Path) -> None:
    def save(engine: Engine) -> None:
        save_vocabulary(ShardedVocabulary.build([KEYS], engine), tmp_path / "parts")

    on_ranks(3, save)
    codes = sorted((tmp_path / "parts").glob("*.codes"))[1]
    content = bytearray(codes.read_bytes())
    content[8 * 30 + 7] ^= 64
    codes.write_bytes(content)

    def refused(engine: Engine) -> None:
        vocabulary = open_vocabulary(tmp_path / "parts", engine)
        with pytest.raises((ValueError, RuntimeError), match=f"{codes.name}: code 30 is not in"):
            export_vocabulary(vocabulary, tmp_path / "whole.ffv", buffer_bytes=BUFFER)

    on_ranks(3, refused)
    assert not [path for path in tmp_path.iterdir() if path.name != "parts"]


def test_a_disk_error_of_rank_0_reaches_all(tmp_path: Path) -> None:
    def refused(engine: Engine) -> None:
        vocabulary = ShardedVocabulary.build([KEYS], engine)
        error = FileNotFoundError if engine.rank == 0 else RuntimeError
        with pytest.raises(error, match="missing"):
            export_vocabulary(vocabulary, tmp_path / "missing" / "whole.ffv", buffer_bytes=BUFFER)

    on_ranks(2, refused)


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_scorer_of_a_divided_table_and_vocabulary_gives_the_scores_of_whole_ones(
    num_ranks: int, tmp_path: Path
) -> None:
    artifact = synthetic_ranker()
    store = ModelStore(tmp_path)
    publish_ranker(store, "whole", artifact)
    whole = store.open("whole").manifest
    keys = [f"member:{i}" for i in range(len(artifact.member_vocabulary))]
    dim = artifact.member_table.shape[1]

    def add_rest(writer: ModelWriter) -> None:
        for name, section in whole.sections.items():
            if name not in ("member_table", "member_vocabulary"):
                writer.add_present(section)

    def body(engine: Engine) -> None:
        vocabulary = ShardedVocabulary.build([keys], engine, num_parts=4)
        weights = artifact.member_table.copy()
        weights[vocabulary.lookup(keys)] = weights[artifact.member_vocabulary.lookup(keys)]
        shape = TableShape(name="member_table", rows=vocabulary.num_rows, dim=dim)
        plan = ShardingPlan(
            num_ranks=engine.size,
            ranks_per_host=1,
            tables=(shape,),
            placements=(vocabulary.placement(shape),),
        )
        spec = TableSpec(name="member_table", rows=shape.rows, dim=dim)
        tables = ShardedTables([spec], plan, engine, vocabularies={"member_table": vocabulary})
        for piece, part in (*tables.parts.items(), *tables.replicas.items()):
            part.weights[...] = weights[piece.row_begin : piece.row_end]
        with pytest.raises((ValueError, RuntimeError), match="no sharded vocabulary: other"):
            export_tables(tables, tmp_path, "feed", vocabulary_sections={"other": "words"})
        export_tables(
            tables,
            tmp_path,
            "feed",
            vocabulary_sections={"member_table": "member_vocabulary"},
            add_rest=add_rest,
            description=whole.description,
        )

    on_ranks(num_ranks, body)
    got, want = (Scorer.open(tmp_path, model, verify="full") for model in ("feed", "whole"))
    rng = np.random.default_rng(1)
    for candidates in (1, 40):
        request = random_request(rng, artifact, candidates)
        np.testing.assert_array_equal(
            got.score(request).probabilities, want.score(request).probabilities
        )
