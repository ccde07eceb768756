from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import feedfast as ff
from feedfast.vocab_sources import iter_lines, read_lines

CASES = {
    b"": [],
    b"\n": [b""],
    b"a": [b"a"],
    b"a\n": [b"a"],
    b"a\n\n": [b"a", b""],
    b"a\r\nb\rc\r\r\n\r\nd\r": [b"a", b"b\rc\r", b"", b"d"],
    b"\xff\x00\n\xc3\xa9": [b"\xff\x00", b"\xc3\xa9"],
    b"x" * 1000 + b"\ny": [b"x" * 1000, b"y"],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.txt"


@pytest.mark.parametrize("text", CASES)
def test_lines_are_keys(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    keys = read_lines(path)
    assert pa.array(keys).to_pylist() == CASES[text]
    assert len(keys) == len(CASES[text])
    assert keys.nbytes == sum(map(len, CASES[text])) + 8 * (len(keys) + 1)
    for batch_bytes in (1, 2, 3, 1 << 20):
        batches = [
            pa.array(batch).to_pylist() for batch in iter_lines(path, batch_bytes=batch_bytes)
        ]
        assert [key for batch in batches for key in batch] == CASES[text]
        assert all(batches)


def test_random_bytes_in_random_batches(path: Path) -> None:
    rng = np.random.default_rng(20_240_601)
    for size in rng.integers(0, 300, 100):
        text = rng.choice(np.frombuffer(b"\r\na\xff\x00", np.uint8), size).tobytes()
        path.write_bytes(text)
        want = [line.removesuffix(b"\r") for line in text.split(b"\n")]
        if text.endswith(b"\n") or not text:
            want.pop()
        assert pa.array(read_lines(path)).to_pylist() == want
        batches = iter_lines(path, batch_bytes=int(rng.integers(1, 50)))
        assert [key for batch in batches for key in pa.array(batch).to_pylist()] == want


def test_a_vocabulary_is_built_from_a_file(path: Path) -> None:
    names = [f"urn:li:member:{i}" for i in range(5000)]
    path.write_text("\n".join(names))
    rows = np.arange(1, 5001)
    vocabulary = ff.Vocabulary.build(read_lines(path), rows=rows)
    np.testing.assert_array_equal(vocabulary.lookup(names), rows)
    np.testing.assert_array_equal(vocabulary.lookup(read_lines(path)), rows)


def test_exported_arrays_outlive_the_keys(path: Path) -> None:
    path.write_bytes(b"a\nbc\n")
    keys = read_lines(path)
    schema, array = keys.__arrow_c_array__()
    del schema, array  # never taken
    taken = pa.array(keys)
    del keys
    assert taken.type == pa.large_binary()
    assert taken.to_pylist() == [b"a", b"bc"]


def test_errors(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="keys"):
        read_lines(path)
    with pytest.raises(IsADirectoryError):
        read_lines(path.parent)
    path.write_bytes(b"same\nother\nsame\n")
    with pytest.raises(ValueError, match="same"):
        ff.Vocabulary.build(read_lines(path))
    with pytest.raises(ValueError, match="batch_bytes must be at least 1; got 0"):
        next(iter_lines(path, batch_bytes=0))
