"""`feedfast vocab`: build, lookup, inspect and convert, as people call them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import feedfast as ff
from feedfast.cli import main

MEMBERS = [f"urn:li:member:{i}" for i in range(500)]


def text_file(folder: Path, lines: list[bytes], end: bytes = b"\n") -> Path:
    path = folder / "keys.txt"
    path.write_bytes(b"".join(line + end for line in lines))
    return path


def parquet_file(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """The JSON result of a command that succeeds."""
    code = main.main(["vocab", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    document: dict[str, Any] = json.loads(captured.out)
    return document


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on stderr of a command that must fail."""
    assert main.main(["vocab", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *progress, line = captured.err.splitlines()
    assert all(shown.startswith(("read keys", "build", "look up")) for shown in progress)
    assert line.startswith("feedfast vocab: ")
    return line.removeprefix("feedfast vocab: ")


def test_text_is_built_looked_up_and_inspected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [m.encode() for m in MEMBERS] + [b"not \xff utf-8", b"", b"tab\tinside"]
    out = tmp_path / "members.ffv"
    built = call(capsys, "build", text_file(tmp_path, lines), "--out", out)
    vocabulary = ff.Vocabulary.open(out, verify="full")
    assert sorted(vocabulary.lookup(lines)) == list(range(1, len(lines) + 1))
    assert (built["keys"], built["bytes"]) == (len(lines), out.stat().st_size)
    assert built["bytes_per_key"] == out.stat().st_size / len(lines)
    assert built["bits_per_key"] == vocabulary.bits_per_key
    assert built["build_ns_per_key"] > 0
    assert built["peak_memory_bytes"] > 0

    found = call(capsys, "lookup", out, MEMBERS[7], "nobody")
    assert found["rows"] == [
        {"key": MEMBERS[7], "row": int(vocabulary.lookup([MEMBERS[7]])[0])},
        {"key": "nobody", "row": 0},
    ]
    assert (found["keys"], found["unknown"], found["unknown_share"]) == (2, 1, 0.5)

    inspected = call(capsys, "inspect", out, "--verify", "full")
    assert sum(s["bytes"] for s in inspected["sections"]) == out.stat().st_size
    assert inspected["expected_false_accept_rate"] == 2.0**-16
    assert (inspected["hash_seed"], inspected["verified"]) == (0, "full")


def test_tables_for_people_name_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "v.ffv"
    source = text_file(tmp_path, [b"a", b"b"])
    assert main.main(["vocab", "build", str(source), "--out", str(out)]) == 0
    assert "build ns/key" in capsys.readouterr().out
    assert main.main(["vocab", "lookup", str(out), "a", "c"]) == 0
    assert "2 keys, 1 unknown (50%)" in capsys.readouterr().out
    assert main.main(["vocab", "inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "fingerprints of 16 bits: 1.53e-05 of unknown keys" in shown
    assert "sections not read (--verify full)" in shown


def test_standard_input_is_built_and_looked_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "feedfast.cli", "vocab"]
    out = tmp_path / "v.ffv"
    lines = b"a\nb\xff\n"
    subprocess.run([*command, "build", "-", "--out", out], input=lines, check=True)
    rows = ff.Vocabulary.open(out).lookup([b"a", b"b\xff", b"c"]).tolist()
    done = subprocess.run(
        [*command, "lookup", out], input=lines + b"c", capture_output=True, check=True
    )
    assert done.stdout == b"%d\n%d\n%d\n" % tuple(rows)
    assert done.stderr.endswith(b"3 keys, 1 unknown (33.33%)\n")


def test_parquet_columns_and_folders_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    out = tmp_path / "v.ffv"
    for part in range(2):
        keys = pa.array(MEMBERS[part * 250 : part * 250 + 250])
        columns = {"viewer": keys.dictionary_encode() if part else keys, "n": list(range(250))}
        parquet_file(folder / f"{part}.parquet", columns)
    assert call(capsys, "build", folder, "--out", out)["keys"] == 500
    both = tmp_path / "rows.parquet"
    found = call(
        capsys,
        "lookup",
        out,
        "--input",
        folder / "1.parquet",
        "--column",
        "viewer",
        "--output",
        both,
    )
    assert (found["keys"], found["unknown"]) == (250, 0)
    written = pq.read_table(both)
    assert written["key"].to_pylist() == MEMBERS[250:]
    np.testing.assert_array_equal(written["row"], ff.Vocabulary.open(out).lookup(MEMBERS[250:]))


def test_lookup_writes_text_keys_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, rows = tmp_path / "v.ffv", tmp_path / "rows.parquet"
    ff.Vocabulary.build(["a", "b"], rows=[5, 7]).save(out)
    source = text_file(tmp_path, [b"b", b"\xff", b"a"])
    assert call(capsys, "lookup", out, "--input", source, "--output", rows)["unknown"] == 1
    assert pq.read_table(rows).to_pylist() == [
        {"key": b"b", "row": 7},
        {"key": b"\xff", "row": 0},
        {"key": b"a", "row": 5},
    ]


def test_repeats_and_missing_keys_of_a_log_are_dropped_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = [["#a", "#b"], None, [], ["#b", None, "#c"]]
    log = parquet_file(
        tmp_path / "log.parquet", {"viewer": ["m1", "m2", "m1", None], "hashtags": tags}
    )
    out = tmp_path / "v.ffv"
    arguments = ("build", log, "--column", "viewer", "--column", "hashtags", "--out", out)
    assert "column 'viewer' is null at value 3" in refusal(capsys, *arguments)
    built = call(capsys, *arguments, "--unique")
    assert (built["keys"], built["repeats_dropped"]) == (5, 2)
    assert sorted(ff.Vocabulary.open(out).lookup(["m1", "m2", "#a", "#b", "#c"])) == [1, 2, 3, 4, 5]


def test_repeats_of_many_batches_are_dropped() -> None:
    from feedfast.data import distinct_keys

    rng = np.random.default_rng(20_240_601)
    batches = [pa.array([f"k{i}" for i in rng.integers(0, 40_000, 9_000)]) for _ in range(30)]
    distinct = distinct_keys(iter(batches))
    keys = [key for batch in batches for key in batch.to_pylist()]
    assert distinct.num_read == len(keys)
    assert [k.decode() for k in distinct.keys.to_pylist()] == list(dict.fromkeys(keys))
    assert len(distinct_keys([]).keys) == 0


def test_rows_come_from_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(1).permutation(5000)[:500] + 1
    source = parquet_file(tmp_path / "k.parquet", {"key": MEMBERS, "row": rows.astype(np.int32)})
    out = tmp_path / "v.ffv"
    call(capsys, "build", source, "--column", "key", "--rows", "row", "--out", out)
    np.testing.assert_array_equal(ff.Vocabulary.open(out).lookup(MEMBERS), rows)


def test_options_reach_the_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = text_file(tmp_path, [m.encode() for m in MEMBERS])
    out = tmp_path / "v.ffv"
    options = ("--fingerprint-bits", 32, "--preset", "fast", "--threads", 2)
    call(capsys, "build", source, "--out", out, *options, "--seed", 9)
    expected = ff.Vocabulary.build(MEMBERS, fingerprint_bits=32, preset="fast", seed=9)
    expected.save(tmp_path / "expected")
    assert out.read_bytes() == (tmp_path / "expected").read_bytes()
    seeds = {call(capsys, "build", source, "--out", out, "--seed", "random")["seed"] for _ in "ab"}
    assert len(seeds) == 2


def test_keys_that_do_not_fit_memory_make_the_same_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = text_file(tmp_path, [m.encode() for m in MEMBERS])
    table = parquet_file(tmp_path / "k.parquet", {"k": MEMBERS, "r": list(range(3, 503))})
    for arguments in ((source,), (table, "--rows", "r")):
        inside, outside = tmp_path / "inside.ffv", tmp_path / "outside.ffv"
        call(capsys, "build", *arguments, "--out", inside)
        built = call(capsys, "build", *arguments, "--out", outside, "--buffer", "16M")
        assert built["keys"] == 500
        assert inside.read_bytes() == outside.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["inside.ffv", "k.parquet", "keys.txt", "outside.ffv"]


@pytest.mark.parametrize("size", ["12X", "", "M", "1.5G"])
def test_sizes_are_checked(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(["vocab", "build", "-", "--out", "v", "--buffer", size])
    assert stop.value.code == 2
    assert "is not a size such as 512M or 4G" in capsys.readouterr().err


def test_text_vocabulary_keeps_its_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = text_file(tmp_path, [m.encode() for m in MEMBERS])
    out = tmp_path / "v.ffv"
    call(capsys, "convert", source, "--out", out)
    np.testing.assert_array_equal(ff.Vocabulary.open(out).lookup(MEMBERS), np.arange(1, 501))
    call(capsys, "convert", source, "--out", out, "--first-row", 3)
    np.testing.assert_array_equal(ff.Vocabulary.open(out).lookup(MEMBERS), np.arange(3, 503))


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "v.ffv"
    lines = text_file(tmp_path, [b"a", b"b", b"a"])
    table = parquet_file(tmp_path / "t.parquet", {"k": ["a"], "l": ["b"], "n": [1], "f": [0.5]})
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "cut.parquet").write_bytes(table.read_bytes()[:-9])
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    ff.Vocabulary.build(["a"]).save(tmp_path / "other.ffv")
    build = ("build", "--out", out)
    for arguments, message in [
        ((*build, lines), "keys[0] and keys[2] are both 'a'; keys must be distinct"),
        ((*build, tmp_path / "none.txt"), "No such file"),
        ((*build, tmp_path / "empty.txt"), "empty.txt: no keys"),
        ((*build, tmp_path / "folder"), "holds no *.parquet file"),
        ((*build, tmp_path / "empty.parquet"), "is empty (0 bytes), not a Parquet file"),
        ((*build, tmp_path / "cut.parquet"), "cut.parquet: cannot be read as Parquet"),
        ((*build, tmp_path / "other.ffv"), "is a vocabulary, which does not hold its keys"),
        ((*build, table), "name the column of the keys; the file has 2 columns of strings: k, l"),
        ((*build, table, "--column", "x"), "has no column 'x'; there are: k, l, n, f"),
        ((*build, table, "--column", "n"), "column 'n' has type int64; it must be string"),
        ((*build, table, "--column", "k", "--rows", "f"), "type double; rows must be integers"),
        ((*build, table, "--rows", "n", "--unique"), "--rows goes with one --column"),
        ((*build, lines, "--rows", "n"), "--rows n goes with Parquet"),
        ((*build, lines, "--column", "n"), "--column n goes with Parquet"),
        ((*build, lines, "--threads", "0", "--unique"), "threads = 0 is below 1"),
        ((*build, lines, "--buffer", "16M"), "keys[0] and keys[2] are both 'a'"),
        ((*build, lines, "--buffer", "1M"), "buffer_bytes"),
        ((*build, tmp_path / "empty.txt", "--buffer", "16M"), "empty.txt: no keys"),
        ((*build, lines, "--buffer", "16M", "--unique"), "does not go with --buffer"),
        (("build", lines, "--out", tmp_path / "folder"), "is a folder; name the file to write"),
        (("build", lines, "--out", tmp_path / "no" / "v"), "does not exist; cannot write v"),
        (("lookup", lines, "a"), "keys.txt': vocabulary image: truncated"),
        (("lookup", tmp_path / "other.ffv", "a", "--column", "k"), "do not go with keys"),
        (("inspect", tmp_path / "none.ffv"), "does not exist"),
        (("convert", lines, "--out", out, "--first-row", "0"), "--first-row 0 is below 1"),
        (("convert", table, "--out", out), "is Parquet; use vocab build with --rows"),
    ]:
        assert message in refusal(capsys, *arguments), arguments
        assert not out.exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".tmp")]


def test_altered_files_are_named_by_full_verification(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "v.ffv"
    ff.Vocabulary.build(MEMBERS).save(path)
    content = bytearray(path.read_bytes())
    content[-70] ^= 1
    path.write_bytes(content)
    call(capsys, "inspect", path)
    assert "does not match its checksum" in refusal(capsys, "inspect", path, "--verify", "full")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [[], ["--buffer", "16M"]], ids=["inside", "external"])
def test_interrupted_build_leaves_nothing(
    tmp_path: Path, number: signal.Signals, options: list[str]
) -> None:
    out = tmp_path / "v.ffv"
    command = [sys.executable, "-m", "feedfast.cli", "vocab", "build", "-", "--out", str(out)]
    command += options
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"a\nb\n")
        process.stdin.flush()
        while b"keys" not in process.stderr.readline():  # it reads: progress of the first batch
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read().endswith(b"feedfast vocab: interrupted\n")
    assert os.listdir(tmp_path) == []
