from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

import feedfast as ff
from feedfast import _core
from feedfast.vocab import BuildProgress

BUFFER = 16 << 20  # the least


def member_keys(size: int) -> NDArray[np.bytes_]:
    return np.array([b"urn:li:member:%d" % i for i in range(size)], "S20")


def batches(keys: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    for begin in range(0, len(keys), size):
        yield keys[begin : begin + size]


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize(
    ("size", "batch"), [(0, 1), (1, 1), (2, 1), (127, 50), (129, 1000), (30_000, 7_001)]
)
@pytest.mark.parametrize("preset", ["compact", "fast"])
@pytest.mark.parametrize("fingerprint_bits", [0, 8, 16, 32])
@pytest.mark.parametrize("with_rows", [False, True])
def test_image_is_that_of_build(
    tmp_path: Path,
    size: int,
    batch: int,
    preset: Literal["compact", "fast"],
    fingerprint_bits: Literal[0, 8, 16, 32],
    with_rows: bool,
) -> None:
    keys = member_keys(size)
    rows = np.random.default_rng(size).permutation(3 * size + 1)[:size] + 1
    ff.Vocabulary.build(keys, fingerprint_bits, preset, rows if with_rows else None).save(
        tmp_path / "expected"
    )
    pairs = zip(batches(keys, batch), batches(rows, batch), strict=True)
    opened = ff.Vocabulary.build_external(
        pairs if with_rows else batches(keys, batch),
        tmp_path / "got",
        with_rows=with_rows,
        buffer_bytes=BUFFER,
        fingerprint_bits=fingerprint_bits,
        preset=preset,
        threads=1 + batch % 3,
    )
    assert (tmp_path / "got").read_bytes() == (tmp_path / "expected").read_bytes()
    assert left_in(tmp_path) == ["expected", "got"]
    if with_rows:
        np.testing.assert_array_equal(opened.lookup(keys), rows)
    else:
        np.testing.assert_array_equal(np.sort(opened.lookup(keys)), np.arange(1, size + 1))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("with_rows", [False, True])
def test_many_chunks_give_the_image_of_build(tmp_path: Path, threads: int, with_rows: bool) -> None:
    keys = np.arange(1_300_000).astype("S")
    rows = np.random.default_rng(1).permutation(len(keys)) + 5
    expected = ff.Vocabulary.build(keys, rows=rows if with_rows else None, seed=3)
    pairs = zip(batches(keys, 170_000), batches(rows, 170_000), strict=True)
    got = ff.Vocabulary.build_external(
        pairs if with_rows else batches(keys, 170_000),
        tmp_path / "got",
        with_rows=with_rows,
        buffer_bytes=BUFFER,
        threads=threads,
        seed=3,
    )
    assert memoryview(got._native) == memoryview(expected._native)


def test_duplicate_keys_are_named_by_their_positions(tmp_path: Path) -> None:
    keys = member_keys(5000)
    keys[4711] = keys[17]
    message = r"keys\[17\] and keys\[4711\] are both 'urn:li:member:17'; keys must be distinct"
    with pytest.raises(ValueError, match=message):
        ff.Vocabulary.build_external(batches(keys, 1000), tmp_path / "got", buffer_bytes=BUFFER)
    assert left_in(tmp_path) == []


def test_the_smallest_of_many_equal_rows_is_named(tmp_path: Path) -> None:
    size = 1_200_000  # three passes over the rows
    rows = np.arange(10, size + 10)
    for first, second in [(90, 100), (700_000, 800_000), (30, 1_100_000), (500, 600)]:
        rows[second] = rows[first]
    message = r"rows\[30\] and rows\[1100000\] are both 40; rows must be distinct"
    with pytest.raises(ValueError, match=message):
        ff.Vocabulary.build_external(
            [(member_keys(size), rows)], tmp_path / "got", with_rows=True, buffer_bytes=BUFFER
        )


def test_bad_rows_are_named_by_their_positions(tmp_path: Path) -> None:
    for rows, message in [
        ([[1, 2], [3, 2]], r"rows\[1\] and rows\[3\] are both 2; rows must be distinct"),
        ([[1, 2], [3, 0]], r"rows\[3\] = 0 is not in 1\.\.2\^48 - 1"),
        ([[1, 2], [3]], "rows has 1 elements for 2 keys"),
    ]:
        pairs = zip([["a", "b"], ["c", "d"]], rows, strict=True)
        with pytest.raises(ValueError, match=message):
            ff.Vocabulary.build_external(
                pairs, tmp_path / "got", with_rows=True, buffer_bytes=BUFFER
            )
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fingerprint_bits": 12}, "fingerprint_bits = 12 is not 0, 8, 16 or 32"),
        ({"preset": "small"}, "preset 'small' is unknown; allowed: compact, fast"),
        ({"threads": 0}, "threads = 0 is below 1"),
        ({"buffer_bytes": 1 << 20}, "buffer_bytes = 1048576 is below 16777216"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ff.Vocabulary.build_external([["a"]], tmp_path / "got", **arguments)
    assert left_in(tmp_path) == []


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ff.Vocabulary.build_external([["a"]], tmp_path / "nowhere" / "got")
    with pytest.raises(FileNotFoundError, match=r"spill folder '.*nowhere' does not exist"):
        ff.Vocabulary.build_external([["a"]], tmp_path / "got", spill_folder=tmp_path / "nowhere")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("phase", ["read", "place", "write"])
def test_cancelling_leaves_nothing(tmp_path: Path, phase: str) -> None:
    (tmp_path / "got").write_bytes(b"before")

    def stop(progress: BuildProgress) -> None:
        assert (progress.total is None) == (progress.phase == "read")
        if progress.phase == phase:
            raise LookupError(f"stop at {phase}")

    with pytest.raises(LookupError, match=f"stop at {phase}"):
        ff.Vocabulary.build_external(
            batches(member_keys(3000), 1000),
            tmp_path / "got",
            buffer_bytes=BUFFER,
            progress=stop,
        )
    assert left_in(tmp_path) == ["got"]
    assert (tmp_path / "got").read_bytes() == b"before"


def test_failing_batches_leave_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[list[str]]:
        yield ["a", "b"]
        raise ConnectionError("the source went away")

    with pytest.raises(ConnectionError, match="the source went away"):
        ff.Vocabulary.build_external(failing(), tmp_path / "got", buffer_bytes=BUFFER)
    assert left_in(tmp_path) == []


KILLED = """
import os, signal, sys
import feedfast as ff
from feedfast import _core

def batches():
    yield [str(i) for i in range(1000)]

def die(progress):
    if progress.phase == "place":
        os.kill(os.getpid(), signal.SIGKILL)

ff.Vocabulary.build_external(batches(), sys.argv[1], buffer_bytes=1 << 24, progress=die)
"""


def test_next_build_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "got"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -9
    assert len(left_in(tmp_path)) == 1
    assert left_in(tmp_path)[0].startswith(".tmp-got-")
    ff.Vocabulary.build_external([["a"]], path, buffer_bytes=BUFFER)
    assert left_in(tmp_path) == ["got"]


FULL_DISK = """
import resource, signal, sys
import feedfast as ff
from feedfast import _core
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    ff.Vocabulary.build_external(
        ([str(i) for i in range(begin, begin + 20000)] for begin in range(0, 200000, 20000)),
        sys.argv[1], buffer_bytes=1 << 24)
except OSError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("limit", "message"),
    [(1 << 20, "OSError cannot spill to disk after"), (3 << 18, "OSError cannot spill")],
)
def test_full_disks_are_os_errors(tmp_path: Path, limit: int, message: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "got"), str(limit)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith(message)
    assert left_in(tmp_path) == []


MEMORY = """
import sys
import numpy as np
import feedfast as ff
from feedfast import _core

def peak():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1])

def batches(size):
    for begin in range(0, size, 50_000):
        yield np.arange(begin, begin + 50_000).astype("S8")

next(batches(50_000))
before = peak()
size = 4_000_000
built = ff.Vocabulary.build_external(batches(size), sys.argv[1], buffer_bytes=1 << 24, threads=1)
print((peak() - before) * 1024 - (1 << 24) - built.nbytes, size)
"""


def test_memory_stays_within_buffer_output_and_a_byte_per_key(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "got")],
        capture_output=True,
        text=True,
        check=True,
    )
    above, size = map(int, run.stdout.split())
    assert above <= size


def test_descriptors_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        ff.Vocabulary.build_external([["a", "b"]], tmp_path / "got", buffer_bytes=BUFFER)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_errors_show_paths_that_are_not_utf8(tmp_path: Path) -> None:
    external = _core.ExternalBuild(
        fingerprint_bits=16,
        preset="compact",
        with_rows=False,
        threads=1,
        seed=0,
        buffer_bytes=BUFFER,
        spill_folder=os.fsencode(tmp_path),
        progress=None,
    )
    path = os.fsencode(tmp_path) + b"/\xff"
    with open(path, "wb"):
        pass
    with pytest.raises(OSError, match=r"cannot create '.*/\\xff': File exists"):
        external.finish(path)
