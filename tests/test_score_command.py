"""`feedfast score` and a server give the same bits."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedfast import Scorer, SegmentTradeoffs
from feedfast.cli import main, score
from feedfast.data import derive_history, load_engagement, request_of_rows
from feedfast.ranker_artifact import RankerArtifact, publish_ranker
from feedfast.store import ModelStore
from synthetic_ranker import synthetic_ranker

sys.path.insert(0, str(Path(__file__).parent / "data"))
from impression_tables import impression_table

NUM_ROWS = 200


@pytest.fixture(scope="module")
def artifact() -> RankerArtifact:
    artifact = synthetic_ranker(
        3, num_members=4, num_hashtags=5, num_shared=1, num_dense=2, with_effects=True
    )
    # In another order than the log's.
    return dataclasses.replace(artifact, shared_names=("age",), dense_names=("age", "likes"))


@pytest.fixture
def folder(artifact: RankerArtifact, tmp_path: Path) -> Path:
    publish_ranker(ModelStore(tmp_path / "store"), "feed", artifact)
    rng = np.random.default_rng(1)
    request = rng.permutation(NUM_ROWS) // 9
    table = impression_table(
        NUM_ROWS,
        request_id=pa.array([f"request:{r}" for r in request]),
        viewer=pa.array([f"member:{r % 6}" for r in request]),
        hashtags=pa.array([[f"tag:{t}" for t in rng.integers(0, 8, 2)] for _ in request]),
    )
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=64)
    return tmp_path


def score_log(folder: Path, *more: str) -> pa.Table:
    code = main.main(
        [
            *("score", "--store", str(folder / "store"), "--input", str(folder / "log.parquet")),
            *("--output", str(folder / "scores.parquet"), "--json", *more),
        ]
    )
    assert code == 0
    return pq.read_table(folder / "scores.parquet")


@pytest.mark.parametrize("batch", [1, 20, 65_536])
def test_every_row_has_the_bits_of_a_server(
    folder: Path,
    batch: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(score, "_BATCH", batch)
    table = score_log(folder, "--threads", "2", "--alpha", "0.25")
    report = json.loads(capsys.readouterr().out)
    assert report["candidates"] == NUM_ROWS
    assert report["requests"] == len(set(table["request_id"].to_pylist()))

    server = Scorer.open(folder / "store")
    log, engaged = load_engagement(folder / "log.parquet", server.utility.objectives)
    history = derive_history(log, engaged=engaged)
    ids = np.array(log.request_id.to_pylist())
    checked = 0
    for request_id in dict.fromkeys(ids):
        rows = np.flatnonzero(ids == request_id)
        by_time = rows[np.argsort(log.timestamp[rows], kind="stable")]
        request = request_of_rows(log, history, by_time)
        request = dataclasses.replace(
            request, dense={"likes": np.asarray(request.dense)[:, 0], "age": log.dense[by_time, 1]}
        )
        online = server.score(request, alpha=0.25)
        offline = table.filter(pa.compute.equal(table["request_id"], request_id))
        assert offline["item"].to_pylist() == log.item.take(pa.array(rows)).to_pylist()
        place = np.argsort(by_time)  # of each row in the request as asked online
        for k, objective in enumerate(online.objectives):
            got = offline[f"p.{objective}"].to_numpy()
            assert got.tobytes() == online.probabilities[place, k].tobytes()
        assert offline["score"].to_numpy().tobytes() == online.score[place].tobytes()
        rank = offline["rank"].to_numpy()
        np.testing.assert_array_equal(np.sort(rank), np.arange(len(rows)))
        assert np.all(np.diff(offline["score"].to_numpy()[np.argsort(rank)]) <= 0)
        checked += len(rows)
    assert checked == NUM_ROWS


def test_features_that_the_log_lacks_are_missing_and_said_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(folder / "log.parquet").drop_columns(["dense.likes"])
    pq.write_table(table, folder / "log.parquet")
    score_log(folder)
    assert json.loads(capsys.readouterr().out)["missing_features"] == ["dense.likes"]


def test_a_failed_run_leaves_the_old_scores(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = score_log(folder)

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no more scores")

    monkeypatch.setattr(Scorer, "score_batch", fail)
    arguments = ["score", "--store", str(folder / "store"), "--input", str(folder / "log.parquet")]
    assert main.main([*arguments, "--output", str(folder / "scores.parquet")]) == 2
    assert "no more scores" in capsys.readouterr().err
    assert pq.read_table(folder / "scores.parquet").equals(before)
    assert sorted(path.name for path in folder.iterdir()) == [
        "log.parquet",
        "scores.parquet",
        "store",
    ]


def test_a_log_without_rows_gives_a_file_without_rows(folder: Path) -> None:
    pq.write_table(pq.read_table(folder / "log.parquet").slice(0, 0), folder / "log.parquet")
    table = score_log(folder)
    assert table.num_rows == 0
    assert table.column_names[:3] == ["request_id", "item", "p.click"]


def with_segments(folder: Path, segments: pa.Array | None = None) -> Path:
    """Adds a column to the log, and a file of trade-offs."""
    table = pq.read_table(folder / "log.parquet")
    if segments is None:
        names = [None, "creators", "consumers", "new"]
        numbers = [int(r.split(":")[1]) for r in table["request_id"].to_pylist()]
        segments = pa.array([names[n % 4] for n in numbers])
    pq.write_table(table.append_column("segment", segments), folder / "log.parquet")
    file = folder / "tradeoffs.json"
    tradeoffs = {
        "segments": {
            "creators": {"alpha": 0.1, "lambda": 3},
            "consumers": {"weights": {"like": 9}},
        },
        "default": {"alpha": 0.75},
    }
    file.write_text(json.dumps(tradeoffs))
    return file


@pytest.mark.parametrize("batch", [1, 65_536])
def test_segments_have_their_own_tradeoffs(
    folder: Path,
    batch: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(score, "_BATCH", batch)
    file = with_segments(folder)
    got = score_log(folder, "--tradeoffs", str(file), "--segment-column", "segment")
    assert json.loads(capsys.readouterr().out)["segments_with_default"] == ["new"]
    utility = Scorer.open(folder / "store").utility
    tradeoffs = SegmentTradeoffs.from_json(file.read_text())
    log = pq.read_table(folder / "log.parquet")
    segment_of = dict(zip(log["request_id"].to_pylist(), log["segment"].to_pylist(), strict=True))
    segments = np.array([segment_of[r] or "" for r in got["request_id"].to_pylist()])
    probabilities = np.stack([got[f"p.{o.name}"].to_numpy() for o in utility.objectives], axis=1)
    for name in ("", "creators", "consumers", "new"):
        alpha, other_weight, weights = tradeoffs.of(name or None).of(utility)
        other = dataclasses.replace(
            utility, alpha=alpha, other_weight=other_weight, weights=tuple(weights)
        )
        rows = segments == name
        assert rows.any()
        np.testing.assert_array_equal(
            got["score"].to_numpy()[rows], other.score(probabilities[rows])
        )


def test_what_is_wrong_with_segments_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = with_segments(folder)

    def message(*more: str) -> str:
        arguments = ["--store", str(folder / "store"), "--input", str(folder / "log.parquet")]
        output = ["--output", str(folder / "scores.parquet")]
        assert main.main(["score", *arguments, *output, *more]) == 2
        return capsys.readouterr().err

    assert "go together" in message("--tradeoffs", str(file))
    both = ("--tradeoffs", str(file), "--segment-column")
    assert "give one of both" in message(*both, "segment", "--alpha", "0.5")
    assert "no column 'age'; it has request_id" in message(*both, "age")
    assert "has several values of 'item'" in message(*both, "item")
    for text, error in (
        ("{", "tradeoffs.json: trade-offs: not JSON"),
        ("[]", "the document must be an object"),
        ('{"segment": {}}', "'segment' is unknown; allowed: segments, default"),
        ('{"segments": {"a": {"beta": 1}}}', "segment 'a': 'beta' is unknown"),
        ('{"default": {"alpha": "1"}}', "default: alpha must be a number; got '1'"),
        ('{"default": {"weights": {"like": true}}}', "weights.like must be a number; got True"),
        ('{"default": {"weights": "9"}}', "weights must be a list or an object"),
        ('{"default": {"weights": {"likes": 1}}}', "'likes' is not an objective"),
    ):
        file.write_text(text)
        assert error in message(*both, "segment")
    assert not (folder / "scores.parquet").exists()
