"""Pruned rankers: smaller, and bit-equal for what remains."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedfast import Request, Scorer, Vocabulary
from feedfast.cli.main import main
from feedfast.ranker_artifact import RankerArtifact, publish_ranker
from feedfast.ranker_prune import prune_ranker
from feedfast.store import ModelStore, OpenedModel, encode_table
from synthetic_ranker import random_request, synthetic_ranker

NUM_MEMBERS = 2000
UNTRAINED = range(500, 1000)  # keys of members that were never trained
ZERO = range(1000, 1800)  # keys of members whose rows are zero
TINY = range(1800, 1900)  # below 1e-3


def rows_of(vocabulary: Vocabulary, keys: range, prefix: str = "member") -> Any:
    return vocabulary.lookup([f"{prefix}:{i}" for i in keys])


MIXED = {"tables": "int4", "hashtag_table": "fp16", "layers": "int8", "passive/0": "bf16"}


def sparse_ranker(**options: Any) -> RankerArtifact:
    artifact = synthetic_ranker(5, num_members=NUM_MEMBERS, calibrated=True, **options)
    members = artifact.member_vocabulary
    artifact.member_table[rows_of(members, ZERO)] = 0
    artifact.member_table[rows_of(members, TINY)] *= 1e-4
    return artifact


def updates(artifact: RankerArtifact) -> dict[str, Any]:
    counts = np.full(artifact.member_vocabulary.num_rows, 3)
    counts[rows_of(artifact.member_vocabulary, UNTRAINED)] = 0
    return {"member_table": counts}


def requests(artifact: RankerArtifact, count: int = 8) -> list[Request]:
    rng = np.random.default_rng(11)
    return [random_request(rng, artifact, 40) for _ in range(count)]


def unaffected(request: Request, excluded: range) -> Request:
    """The request with every excluded member replaced by one that stays."""

    def replaced(keys: Any) -> Any:
        return [
            "member:7"
            if isinstance(key, str)
            and key.startswith("member:")
            and int(key.split(":")[1]) in excluded
            else key
            for key in keys
        ]

    return dataclasses.replace(
        request,
        viewer=replaced([request.viewer])[0],
        history_members=replaced(request.history_members),
        actor=replaced(request.actor),
        root_actor=replaced(request.root_actor),
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_rows_of_zeros_are_shared_and_every_score_keeps_its_bits(
    tmp_path: Path, precision: Any
) -> None:
    store, artifact = ModelStore(tmp_path), sparse_ranker()
    publish_ranker(store, "feed", artifact, precision=precision)
    report = prune_ranker(store, "feed")
    assert (str(report.source), str(report.pruned)) == ("feed@000001", "feed@000002")
    members = report.tables[0]
    assert (members.rows, members.near_zero, members.untrained) == (2001, len(ZERO), 0)
    assert members.kept_rows == 2001 - len(ZERO) + 1
    assert report.kept_bytes < report.bytes
    old, new = (Scorer.open(tmp_path, version=version) for version in (1, 2))
    for request in requests(artifact):
        before, after = old.score(request), new.score(request)
        np.testing.assert_array_equal(before.probabilities, after.probabilities)
        np.testing.assert_array_equal(before.score, after.score)
    check_vocabulary(store.open("feed", 1), store.open("feed", 2))


def check_vocabulary(old: OpenedModel, new: OpenedModel) -> None:
    """Every key finds the row it had, but for those whose row went."""
    keys = [f"member:{i}" for i in range(NUM_MEMBERS)] + ["nobody"]
    tables = [opened.table("member_table") for opened in (old, new)]
    rows = [
        Vocabulary.open(opened.image_path("member_vocabulary", layout="vocabulary"), "full").lookup(
            keys
        )
        for opened in (old, new)
    ]
    np.testing.assert_array_equal(tables[0][rows[0]], tables[1][rows[1]])


def test_near_zero_rows_change_scores_by_little(tmp_path: Path) -> None:
    store, artifact = ModelStore(tmp_path), sparse_ranker()
    publish_ranker(store, "feed", artifact)
    (members, *_) = prune_ranker(store, "feed", zero_below=1e-3).tables
    assert members.near_zero == len(ZERO) + len(TINY)
    assert not store.open("feed").table("member_table")[1:].any(axis=1).all()
    old, new = (Scorer.open(tmp_path, version=version) for version in (1, 2))
    for request in requests(artifact):
        before, after = old.score(request), new.score(request)
        np.testing.assert_allclose(before.probabilities, after.probabilities, atol=2e-3)
        kept = unaffected(request, TINY)
        np.testing.assert_array_equal(old.score(kept).probabilities, new.score(kept).probabilities)
    assert prune_ranker(store, "feed", 1, zero_below=None).tables[0].near_zero == 0


def test_untrained_rows_become_unknown(tmp_path: Path) -> None:
    store, artifact = ModelStore(tmp_path), sparse_ranker()
    publish_ranker(store, "feed", artifact)
    report = prune_ranker(store, "feed", row_updates=updates(artifact), name="small")
    assert str(report.pruned) == "small@000001"
    assert report.tables[0].untrained == len(UNTRAINED)
    opened = store.open("small", verify="full")
    vocabulary = Vocabulary.open(
        opened.image_path("member_vocabulary", layout="vocabulary"), "full"
    )
    assert not rows_of(vocabulary, UNTRAINED).any()
    assert rows_of(vocabulary, range(500)).all()
    assert vocabulary.num_rows == opened.table("member_table").shape[0]
    old, new = Scorer.open(tmp_path), Scorer.open(tmp_path, model="small")
    for request in requests(artifact):
        kept = unaffected(request, UNTRAINED)
        np.testing.assert_array_equal(old.score(kept).probabilities, new.score(kept).probabilities)


@pytest.mark.parametrize("precision", ["fp32", MIXED])
def test_heads_and_random_effects_go_together(tmp_path: Path, precision: Any) -> None:
    store, artifact = ModelStore(tmp_path), sparse_ranker(with_effects=True)
    assert artifact.random_effects is not None
    artifact.random_effects.coefficients[5:35] = 0
    publish_ranker(store, "feed", artifact, precision=precision)
    names = [objective.name for objective in artifact.utility.objectives]
    for dropped in (["like"], ["click", "dwell"], ["like", "creator", "share"]):
        report = prune_ranker(store, "feed", 1, drop_objectives=dropped)
        assert report.objectives == tuple(dropped)
        kept = [index for index, name in enumerate(names) if name not in dropped]
        old, new = (Scorer.open(tmp_path, version=v) for v in (1, report.pruned.version))
        assert list(new.objectives) == [names[index] for index in kept]
        for request in requests(artifact, 3):
            np.testing.assert_array_equal(
                old.score(request).probabilities[:, kept], new.score(request).probabilities
            )
        sections = store.open("feed").manifest.sections
        assert (
            sections["towers"].num_bytes
            < store.open("feed", 1).manifest.sections["towers"].num_bytes
        )
    effects = store.open("feed").tensors("random_effects")["coefficients"]
    assert effects.shape[0] <= 41
    with pytest.raises(ValueError, match="'x' is not an objective; allowed: click"):
        prune_ranker(store, "feed", drop_objectives=["x"])
    with pytest.raises(ValueError, match="no objective would be left of click, dwell"):
        prune_ranker(store, "feed", drop_objectives=["click", "dwell"])


def test_what_scoring_does_not_read_is_left_out_and_what_stays_is_shared(tmp_path: Path) -> None:
    store, artifact = ModelStore(tmp_path), sparse_ranker()
    publish_ranker(store, "feed", artifact)
    source = store.open("feed")
    with store.writer("feed") as writer:
        for section in source.manifest.sections.values():
            writer.add_present(section)
        slots = np.ones_like(artifact.member_table)
        writer.add_table("member_table_slots", encode_table(slots, "float16"), layout="float16")
        writer.publish(source.description)
    report = prune_ranker(store, "feed", 2)
    assert set(report.sections) == {"member_table_slots"}
    pruned = store.open("feed", 3)
    assert "member_table_slots" not in pruned.manifest.sections
    assert pruned.manifest.format_version == 1
    changed = {"member_table", "member_vocabulary"}
    for name, section in source.manifest.sections.items():
        assert (pruned.manifest.sections[name].blobs == section.blobs) == (name not in changed)
    with pytest.raises(ValueError, match="is not in"):
        ModelStore(tmp_path / "other").writer("feed").add_present(
            source.manifest.sections["towers"]
        )


def test_nothing_to_prune_leaves_every_blob(tmp_path: Path) -> None:
    store, artifact = ModelStore(tmp_path), synthetic_ranker(3)
    artifact.member_table[4] = 0  # one row saves less than stored rows take
    publish_ranker(store, "feed", artifact)
    report = prune_ranker(store, "feed")
    assert report.bytes == report.kept_bytes
    assert all(table.rows == table.kept_rows for table in report.tables)
    assert store.open("feed", 1).manifest.sections == store.open("feed", 2).manifest.sections


def test_bad_arguments(tmp_path: Path) -> None:
    store, artifact = ModelStore(tmp_path), synthetic_ranker(3)
    publish_ranker(store, "feed", artifact)
    with pytest.raises(ValueError, match="'leaf_table' is no table with a vocabulary; allowed"):
        prune_ranker(store, "feed", row_updates={"leaf_table": np.ones(3)})
    for wrong in (np.ones(3, np.int64), np.ones(301)):
        with pytest.raises(ValueError, match=r"must be \[301\] integers or booleans; got"):
            prune_ranker(store, "feed", row_updates={"member_table": wrong})
    with pytest.raises(ValueError, match="zero_below must be >= 0 or None; got -1"):
        prune_ranker(store, "feed", zero_below=-1)
    assert len(store.list()) == 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "store"
    store, artifact = ModelStore(path), sparse_ranker()
    publish_ranker(store, "feed", artifact)
    np.savez(tmp_path / "updates.npz", **updates(artifact))
    arguments = ["store", "prune", str(path), "feed@1", "--unused-heads"]
    assert main([*arguments, "--row-updates", str(tmp_path / "updates.npz")]) == 0
    printed = capsys.readouterr().out
    assert "feed@000001 -> feed@000002: " in printed
    assert main([*arguments, "--drop-objective", "like", "--name", "b", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pruned"] == "b@000001"
    assert document["objectives"] == ["like"]
    assert document["kept_bytes"] < document["bytes"]
    for name, content in (("text", b"0"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        assert main([*arguments, "--row-updates", str(tmp_path / name)]) == 2
        assert f"{tmp_path / name}: not an npz file" in capsys.readouterr().err
    np.save(tmp_path / "one.npy", np.ones(3))
    assert main([*arguments, "--row-updates", str(tmp_path / "one.npy")]) == 2
    assert "an npz file with an array for each table is needed" in capsys.readouterr().err
    assert main([*arguments, "--zero-below", "nan"]) == 2
    assert "--zero-below is nan" in capsys.readouterr().err
    assert main(["store", "prune", str(path), "none"]) == 2


def test_map_rows() -> None:
    keys = [f"k{i}" for i in range(1000)]
    for rows in (None, np.arange(5, 1005)):
        vocabulary = Vocabulary.build(keys, rows=rows)
        rng = np.random.default_rng(0)
        row_map = rng.integers(0, 300, vocabulary.num_rows)
        row_map[0] = 0
        mapped = vocabulary.map_rows(row_map)
        np.testing.assert_array_equal(mapped.lookup(keys), row_map[vocabulary.lookup(keys)])
        assert mapped.lookup(["unknown"])[0] == 0
        assert mapped.num_rows == row_map.max() + 1
        nothing = vocabulary.map_rows(np.zeros(vocabulary.num_rows, np.int64))
        assert nothing.num_rows == 1
        assert not nothing.lookup(keys).any()
    with pytest.raises(ValueError, match="row_map has 3 elements; the vocabulary has 1005 rows"):
        vocabulary.map_rows([0, 1, 2])
    with pytest.raises(ValueError, match=r"row_map\[0\] = 1; row 0 of unknown keys stays 0"):
        vocabulary.map_rows(np.ones(1005, np.int64))
    with pytest.raises(IndexError, match=r"row_map\[4\] = -1 is not in 0"):
        vocabulary.map_rows(np.where(np.arange(1005) == 4, -1, 0))
    assert Vocabulary.build([]).map_rows([0]).num_rows == 1


def test_map_rows_of_the_first_image_version(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "data" / "vocabulary_v1.ffv"
    vocabulary = Vocabulary.open(golden)
    identity = vocabulary.map_rows(np.arange(vocabulary.num_rows))
    identity.save(tmp_path / "mapped")
    reopened = Vocabulary.open(tmp_path / "mapped", verify="full")
    keys = [f"{prefix}{i}" for prefix in ("key", "k", "member:") for i in range(2000)]
    np.testing.assert_array_equal(reopened.lookup(keys), vocabulary.lookup(keys))
    assert reopened.describe()["version"] == 1
