from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import feedfast as ff
from feedfast.cli import main
from feedfast.hashing import METHODS, collision_rates

KEYS = [f"urn:li:member:{i}" for i in range(2000)]


def inspect(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main.main(["inspect", "--json", *map(str, arguments)]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_text_and_parquet_are_reported_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "keys.txt"
    text.write_text("\n".join([*KEYS, *KEYS[:100]]))
    parquet = tmp_path / "keys.parquet"
    pq.write_table(pa.table({"id": [*KEYS, None], "other": ["x"] * 2001}), parquet)
    report = inspect(capsys, "--hashing", text, "--rows", 500, 4000, "--dim", 8)
    vocabulary_bytes = ff.Vocabulary.build(KEYS).nbytes
    assert (report["num_keys"], report["num_keys_read"], report["dim"]) == (2000, 2100, 8)
    assert report["vocabulary"] == {
        "rows": 2001,
        "bytes": 2001 * 8 * 4 + vocabulary_bytes,
        "vocabulary_bytes": vocabulary_bytes,
    }
    methods = [(method["method"], method["rows"]) for method in report["methods"]]
    assert methods == [(method, rows) for method in METHODS for rows in (500, 4000)]
    want = {(r.method, r.num_rows): r for n in (500, 4000) for r in collision_rates(KEYS, n)}
    for method in report["methods"]:
        rate = want[method["method"], method["rows"]]
        assert (method["measured"], method["expected"]) == (rate.measured, rate.expected)
        assert method["bytes"] == method["rows"] * 8 * 4
        assert method["bytes_ratio"] == method["bytes"] / report["vocabulary"]["bytes"]
    again = inspect(capsys, "--hashing", parquet, "--column", "id", "--rows", 500, 4000, "--dim", 8)
    assert again["methods"] == report["methods"]


def test_a_number_stands_for_that_many_keys(capsys: pytest.CaptureFixture[str]) -> None:
    report = inspect(capsys, "--hashing", 70_000)
    assert report["num_keys"] == 70_000
    assert [m["rows"] for m in report["methods"][:5]] == [4375, 8750, 17500, 35000, 70001]
    assert main.main(["inspect", "--hashing", "1000"]) == 0
    assert "quotient_remainder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the folder of a model store, or keys with --hashing"),
        (["store", "--rows", "5"], "--rows, --dim and --column go with --hashing"),
        (["store", "--hashing", "5"], "--hashing takes keys, no store"),
        (["--hashing", "0"], "0: no keys"),
        (["--hashing", "5", "--rows", "1"], "num_rows = 1 is not in 2..2**31"),
        (["--hashing", "999999999999999"], "not enough memory: Unable to allocate"),
        (["--hashing", "5", "--column", "id"], "--column goes with Parquet; got 5, a number"),
        (["--hashing", "5", "--dim", "0"], "--dim must be at least 1; got 0"),
        (["--hashing", "/no/such/file"], "/no/such/file"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["inspect", *arguments]) == 2
    assert message in capsys.readouterr().err
