from __future__ import annotations

import copy
import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import feedfast as ff
from feedfast.vocab import BuildProgress

DATA = Path(__file__).parent / "data"
AWKWARD = ["", "a", "A", b"\xff\xfe", b"\x00", b"\x00\x00", "membre:é", "x" * 10_000, "x" * 10_001]


def member_keys(size: int, prefix: str = "urn:li:member:") -> list[str]:
    return [f"{prefix}{i}" for i in range(size)]


def image(vocabulary: ff.Vocabulary, folder: Path) -> bytes:
    vocabulary.save(folder / "image")
    return (folder / "image").read_bytes()


@pytest.mark.parametrize("size", [0, 1, 2, 1000, 20_000])
@pytest.mark.parametrize("preset", ["compact", "fast"])
@pytest.mark.parametrize("fingerprint_bits", [0, 8, 16, 32])
def test_known_keys_are_a_permutation(
    size: int, preset: Literal["compact", "fast"], fingerprint_bits: Literal[0, 8, 16, 32]
) -> None:
    keys = member_keys(size)
    vocabulary = ff.Vocabulary.build(keys, fingerprint_bits=fingerprint_bits, preset=preset)
    rows = vocabulary.lookup(keys)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(np.sort(rows), np.arange(1, size + 1))
    assert (len(vocabulary), vocabulary.num_rows) == (size, size + 1)


@pytest.mark.parametrize("fingerprint_bits", [8, 16, 32])
def test_unknown_keys_are_accepted_no_more_often_than_fingerprints_allow(
    fingerprint_bits: Literal[8, 16, 32],
) -> None:
    vocabulary = ff.Vocabulary.build(member_keys(50_000), fingerprint_bits=fingerprint_bits)
    asked = 500_000
    accepted = np.count_nonzero(vocabulary.lookup(member_keys(asked, "urn:li:post:")))
    mean = asked * 2.0**-fingerprint_bits
    assert accepted <= mean + 6 * mean**0.5 + 1  # six standard deviations of the count


def test_given_rows_are_returned() -> None:
    keys = member_keys(1000, "#")
    rows = np.random.default_rng(20_240_601).permutation(5000)[:1000] + 3
    vocabulary = ff.Vocabulary.build(keys, rows=rows.astype(np.int32), fingerprint_bits=32)
    np.testing.assert_array_equal(vocabulary.lookup(keys), rows)
    assert vocabulary.num_rows == rows.max() + 1
    np.testing.assert_array_equal(vocabulary.lookup(member_keys(1000, "@")), np.zeros(1000))


def test_any_bytes_are_a_key_and_str_is_its_utf8() -> None:
    vocabulary = ff.Vocabulary.build(AWKWARD)
    assert sorted(vocabulary.lookup(AWKWARD)) == list(range(1, len(AWKWARD) + 1))
    np.testing.assert_array_equal(
        vocabulary.lookup([b"a", "membre:é".encode()]), vocabulary.lookup(["a", "membre:é"])
    )


def test_empty_batch_and_repeated_keys() -> None:
    vocabulary = ff.Vocabulary.build(["a", "b"])
    assert vocabulary.lookup([]).shape == (0,)
    assert len(set(vocabulary.lookup(["b"] * 1000))) == 1


def test_bytes_do_not_depend_on_order_or_threads(tmp_path: Path) -> None:
    keys = member_keys(30_000)
    rows = np.arange(1, 30_001)
    order = np.random.default_rng(1).permutation(30_000)
    shuffled = [keys[i] for i in order]
    for ours, others in ((None, None), (rows, rows[order])):
        one = ff.Vocabulary.build(keys, rows=ours, threads=1)
        other = ff.Vocabulary.build(shuffled, rows=others, threads=3)
        assert image(one, tmp_path) == image(other, tmp_path)


@pytest.mark.parametrize("preset", ["compact", "fast"])
@pytest.mark.parametrize("fingerprint_bits", [0, 32])
@pytest.mark.parametrize("with_rows", [False, True])
def test_builds_of_many_chunks_do_not_depend_on_threads(
    preset: Literal["compact", "fast"], fingerprint_bits: Literal[0, 32], with_rows: bool
) -> None:
    keys = np.arange(900_000).astype("S")
    rows = np.random.default_rng(2).permutation(len(keys)) + 1 if with_rows else None
    one, other = (
        ff.Vocabulary.build(keys, fingerprint_bits, preset, rows, threads=threads)
        for threads in (1, 3)
    )
    assert memoryview(one._native) == memoryview(other._native)
    found = one.lookup(keys)
    np.testing.assert_array_equal(
        found if with_rows else np.sort(found), np.arange(1, 900_001) if rows is None else rows
    )


def test_progress_counts_the_keys_of_each_phase() -> None:
    seen: list[BuildProgress] = []
    ff.Vocabulary.build(member_keys(50_000), progress=seen.append)
    assert list(dict.fromkeys(call.phase for call in seen)) == ["hash", "sort", "place", "write"]
    assert all(0 <= call.done <= 50_000 and call.total == 50_000 for call in seen)


@pytest.mark.parametrize("phase", ["hash", "sort", "place", "write"])
def test_raising_in_progress_cancels(phase: str) -> None:
    def stop(progress: BuildProgress) -> None:
        if progress.phase == phase:
            raise LookupError(f"stop at {progress.phase}")

    with pytest.raises(LookupError, match=f"stop at {phase}"):
        ff.Vocabulary.build(member_keys(50_000), threads=2, progress=stop)


def test_ctrl_c_cancels() -> None:
    with pytest.raises(KeyboardInterrupt):
        ff.Vocabulary.build(
            member_keys(50_000), progress=lambda _: signal.raise_signal(signal.SIGINT)
        )


def test_seeds_are_stored_and_random_ones_differ(tmp_path: Path) -> None:
    images = {
        image(ff.Vocabulary.build(member_keys(100), seed=seed), tmp_path)
        for seed in (0, 1, 2**64 - 1, None, None)
    }
    assert len(images) == 5
    for content in images:
        (tmp_path / "v").write_bytes(content)
        rows = ff.Vocabulary.open(tmp_path / "v").lookup(member_keys(100))
        assert sorted(rows) == list(range(1, 101))


def test_sizes_are_those_of_the_file(tmp_path: Path) -> None:
    vocabulary = ff.Vocabulary.build(member_keys(100_000))
    assert vocabulary.nbytes == len(image(vocabulary, tmp_path))
    assert 1.44 < vocabulary.bits_per_key < 1.95
    assert vocabulary.nbytes / 100_000 < (1.95 + 16) / 8 + 0.01
    assert repr(vocabulary) == (
        f"<Vocabulary of 100000 keys, 16-bit fingerprints, {vocabulary.nbytes} bytes>"
    )
    assert ff.Vocabulary.build([]).bits_per_key == 0


def test_description_names_every_byte_of_the_image() -> None:
    vocabulary = ff.Vocabulary.build(member_keys(1000), rows=np.arange(1000) + 5, seed=7)
    description = vocabulary.describe()
    assert description["num_keys"] == len(vocabulary)
    assert description["num_rows"] == vocabulary.num_rows
    assert (description["hash_seed"], description["row_bits"]) == (7, 10)
    assert all(slots >= buckets > 0 for slots, buckets in description["levels"])
    begins = [begin for _, begin, _ in description["sections"]]
    ends = [begin + size for _, begin, size in description["sections"]]
    assert all(0 <= b - e < 64 for b, e in zip([*begins[1:], vocabulary.nbytes], ends, strict=True))


@pytest.mark.parametrize("verify", ["header", "full"])
def test_saved_vocabulary_opens_and_outlives_its_file(
    tmp_path: Path, verify: Literal["header", "full"]
) -> None:
    keys = member_keys(1000)
    built = ff.Vocabulary.build(keys)
    path = tmp_path / "members.ffv"
    built.save(path)
    built.save(str(path))  # replaces
    assert os.listdir(tmp_path) == ["members.ffv"]
    opened = ff.Vocabulary.open(path, verify=verify)
    path.unlink()
    np.testing.assert_array_equal(opened.lookup(keys), built.lookup(keys))


def test_failed_save_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        ff.Vocabulary.build(["a"]).save(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_pickles_and_copies() -> None:
    vocabulary = ff.Vocabulary.build(AWKWARD)
    for other in (pickle.loads(pickle.dumps(vocabulary)), copy.deepcopy(vocabulary)):
        np.testing.assert_array_equal(other.lookup(AWKWARD), vocabulary.lookup(AWKWARD))


def test_lookups_from_many_threads_agree() -> None:
    keys = member_keys(20_000)
    vocabulary = ff.Vocabulary.build(keys)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(vocabulary.lookup, [keys] * 8))
    for result in results:
        np.testing.assert_array_equal(result, results[0])


def test_unaligned_rows_are_named_and_unaligned_keys_are_read() -> None:
    keys = np.array(["member", "\u00e9t\u00e9", ""])
    unaligned = np.frombuffer(b"x" + keys.tobytes(), keys.dtype, offset=1)
    vocabulary = ff.Vocabulary.build(unaligned)
    np.testing.assert_array_equal(vocabulary.lookup(unaligned), vocabulary.lookup(keys))
    rows = np.frombuffer(bytes(25), np.int64, offset=1)
    with pytest.raises(ValueError, match="rows is not aligned to its dtype; pass a copy"):
        ff.Vocabulary.build(keys, rows=rows)


def test_duplicate_keys_are_named() -> None:
    keys: list[str | bytes] = [*member_keys(1000)]
    keys[7] = b"urn:li:member:400"
    message = r"keys\[7\] and keys\[400\] are both 'urn:li:member:400'; keys must be distinct"
    with pytest.raises(ValueError, match=message):
        ff.Vocabulary.build(keys)
    with pytest.raises(ValueError, match=r"keys\[0\] and keys\[1\] are both '\\xff'"):
        ff.Vocabulary.build([b"\xff", b"\xff"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fingerprint_bits": 12}, "fingerprint_bits = 12 is not 0, 8, 16 or 32"),
        ({"preset": "small"}, "preset 'small' is unknown; allowed: compact, fast"),
        ({"threads": 0}, "threads = 0 is below 1"),
        ({"seed": -1}, r"seed = -1 is not in 0..2\*\*64 - 1"),
        ({"rows": [1]}, "rows has 1 elements for 2 keys"),
        ({"rows": [[1, 2]]}, "rows must have 1 dimensions; got 2"),
        ({"rows": [1, 0]}, r"rows\[1\] = 0 is not in 1..2\^48 - 1"),
        ({"rows": [1, 2**48]}, r"rows\[1\] = 281474976710656 is not in"),
        ({"rows": [5, 5]}, r"rows\[0\] and rows\[1\] are both 5; rows must be distinct"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ff.Vocabulary.build(["a", "b"], **arguments)


def test_rows_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match="rows has dtype float64"):
        ff.Vocabulary.build(["a"], rows=[1.0])


def test_constructor_points_to_build() -> None:
    with pytest.raises(TypeError, match=r"use Vocabulary\.build"):
        ff.Vocabulary()


def test_damaged_files_are_refused_with_what_and_where(tmp_path: Path) -> None:
    path = tmp_path / "members.ffv"
    content = image(ff.Vocabulary.build(member_keys(1000)), tmp_path)
    for damaged, message in [
        (b"", "truncated: 0 bytes, the header alone has 256"),
        (content[:-64], f"truncated: {len(content) - 64} bytes, the header says {len(content)}"),
        (b"PARQUET1" + content[8:], "bytes 0..8 are not the magic"),
        (content[:8] + b"\x09" + content[9:], "version 9 is unknown"),
        (content[:30] + b"\x09" + content[31:], "the header .* does not match its checksum"),
        (content[:300] + b"\x09" + content[301:], "section 'seeds' .* does not match"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message) as raised:
            ff.Vocabulary.open(path, verify="full")
        assert str(path) in str(raised.value)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ff.Vocabulary.open(tmp_path / "nothing")
    with pytest.raises(ValueError, match="not a regular file"):
        ff.Vocabulary.open(tmp_path)
    with pytest.raises(ValueError, match="verify 'quick' is unknown; allowed: header, full"):
        ff.Vocabulary.open(path, verify="quick")  # type: ignore[arg-type]


def test_damaged_images_never_crash(tmp_path: Path) -> None:
    rng = np.random.default_rng(20_240_601)
    keys = member_keys(2000)
    content = image(ff.Vocabulary.build(keys, rows=np.arange(1, 2001) * 3), tmp_path)
    path = tmp_path / "damaged"
    for _ in range(200):
        damaged = bytearray(content)
        for at in rng.integers(0, len(content), rng.integers(1, 400)):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(
            damaged[: rng.integers(0, len(content))] if rng.random() < 0.2 else damaged
        )
        if bytes(damaged) != content:
            with pytest.raises(ValueError, match="vocabulary image"):
                ff.Vocabulary.open(path, verify="full")
        try:
            opened = ff.Vocabulary.open(path)
        except ValueError:
            continue
        rows = opened.lookup(keys)
        assert rows.min() >= 0
        assert rows.max() < opened.num_rows


@pytest.mark.parametrize("version", [1, 2])
def test_golden_files_still_open(version: int) -> None:
    vocabulary = ff.Vocabulary.open(DATA / f"vocabulary_v{version}.ffv", verify="full")
    # Written by build(AWKWARD + ..., rows=..., seed=7) of the release that introduced the version.
    keys = [*AWKWARD, *member_keys(500)]
    np.testing.assert_array_equal(vocabulary.lookup(keys), np.arange(len(keys)) * 2 + 1)
    assert vocabulary.num_rows == 2 * len(keys)
    np.testing.assert_array_equal(vocabulary.lookup(["never", b"seen"]), [0, 0])
