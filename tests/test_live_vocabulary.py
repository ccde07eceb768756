from __future__ import annotations

import math
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import feedfast as ff
from feedfast import _core
from reference.live_vocabulary import LiveVocabularyModel

DATA = Path(__file__).parent / "data"
SNAPSHOT_KEYS = [f"urn:li:member:{i}".encode() for i in range(2000)]
SNAPSHOT = ff.Vocabulary.build(SNAPSHOT_KEYS, fingerprint_bits=8)
LONG = 20  # longest key that the machine admits
NEW_KEYS = [b"", b"\xff\xfe", b"\x00", "é".encode(), b"x" * LONG, b"y" * (LONG + 1)]
NEW_KEYS += [f"post:{i}".encode() for i in range(30)]
# Keys that the snapshot takes for one of its own.
CANDIDATES = [f"urn:li:post:{i}".encode() for i in range(4000)]
FALSE_ACCEPTS = [
    key for key, row in zip(CANDIDATES, SNAPSHOT.lookup(CANDIDATES), strict=True) if row != 0
][:10]
# With this capacity no counter of NEW_KEYS gives way; see the test of that.
ENOUGH = 60

some_keys = st.lists(st.sampled_from(NEW_KEYS + FALSE_ACCEPTS), max_size=12)
known_keys = st.lists(st.sampled_from(SNAPSHOT_KEYS[:5]), max_size=3)
steps = st.sampled_from([-3.0, 0.0, 0.0, 1.0, 2.0, 5.0, 5.5])  # of time


class LiveVocabularyMachine(RuleBasedStateMachine):
    """Compares with the model over random sequences of calls, and after each one."""

    @initialize(
        capacity=st.sampled_from([1, 3, ENOUGH, 1000]),
        min_count=st.integers(1, 3),
        expire_after=st.sampled_from([None, 1.0, 5.0]),
    )
    def start(self, capacity: int, min_count: int, expire_after: float | None) -> None:
        min_count = min_count if capacity >= ENOUGH else 1
        self.live = ff.LiveVocabulary(
            SNAPSHOT, capacity, min_count, expire_after, max_key_bytes=LONG
        )
        self.model = LiveVocabularyModel(
            SNAPSHOT,
            fingerprint_bits=8,
            capacity=capacity,
            min_count=min_count,
            expire_after=math.inf if expire_after is None else expire_after,
            max_key_bytes=LONG,
        )
        self.live.expire(0)
        self.model.expire(0)

    @rule(
        keys=some_keys, known=st.lists(st.sampled_from(SNAPSHOT_KEYS[:5]), max_size=3), step=steps
    )
    def observe(self, keys: list[bytes], known: list[bytes], step: float) -> None:
        time = self.model.time + step
        keys = known + keys
        got = self.live.observe(keys, time)
        want = [self.model.observe(key, time, new=False) for key in keys]
        if not keys:
            self.model.expire(time)
        np.testing.assert_array_equal(got, want)

    @rule(keys=some_keys, step=steps)
    def observe_new(self, keys: list[bytes], step: float) -> None:
        time = self.model.time + step
        got = self.live.observe(keys, time, new=True)
        want = [self.model.observe(key, time, new=True) for key in keys]
        if not keys:
            self.model.expire(time)
        np.testing.assert_array_equal(got, want)

    @rule(step=steps)
    def expire(self, step: float) -> None:
        time = self.model.time + step
        self.live.expire(time)
        self.model.expire(time)

    @rule()
    def take_evicted_rows(self) -> None:
        np.testing.assert_array_equal(self.live.take_evicted_rows(), self.model.take_evicted_rows())

    @precondition(lambda self: len(self.model.immutable) < 6)
    @rule()
    def compact(self) -> None:
        assert self.live.compact() == self.model.compact()

    @rule()
    def save_and_open(self) -> None:
        image = self.live._native.image()
        self.live = reopen(image)
        assert self.live._native.image() == image

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        keys = NEW_KEYS + FALSE_ACCEPTS + SNAPSHOT_KEYS[:20]
        np.testing.assert_array_equal(
            self.live.lookup(keys), [self.model.lookup(key) for key in keys]
        )
        frozen = sum(len(part) for part in self.model.immutable[1:])
        exceptions = sum(self.model.accepted(key) != 0 for key in self.model.admitted)
        assert self.live.num_rows == self.model.next_row <= self.live.max_num_rows
        assert self.live.num_frozen == frozen
        assert self.live.num_segments == len(self.model.immutable) - 1
        assert self.live.num_exceptions == exceptions
        assert self.live.num_overlay == len(self.model.admitted) - exceptions
        assert self.live.num_refused == self.model.num_refused
        assert len(self.live) == len(SNAPSHOT) + frozen + len(self.model.admitted)


def reopen(image: bytes, snapshot: ff.Vocabulary = SNAPSHOT) -> ff.LiveVocabulary:
    opened = object.__new__(ff.LiveVocabulary)
    opened._snapshot = snapshot
    opened._native = _core.LiveVocabulary.from_image(snapshot._native, image)
    return opened


TestAgainstModel = LiveVocabularyMachine.TestCase
TestAgainstModel.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_no_counter_of_the_model_test_gives_way() -> None:
    live = ff.LiveVocabulary(SNAPSHOT, ENOUGH)
    assert not live.observe(NEW_KEYS, 0).any()
    assert live.observe(NEW_KEYS, 0).all()


def test_new_keys_get_rows_behind_the_snapshot_and_give_them_back() -> None:
    live = ff.LiveVocabulary(SNAPSHOT, min_count=2, expire_after=60)
    first = SNAPSHOT.num_rows
    assert (live.num_rows, len(live), live.snapshot) == (first, 2000, SNAPSHOT)
    assert list(live.observe(["b", "c", "b", "a"], 0)) == [0, 0, first, 0]
    assert list(live.observe(["a", "c", "d"], 50)) == [first + 1, first + 2, 0]
    assert list(live.lookup(["a", "b", "c", "d"])) == [first + 1, first, first + 2, 0]
    assert (live.num_rows, len(live), live.num_overlay) == (first + 3, 2003, 3)
    assert list(live.observe(["a"], 60)) == [first + 1]  # b was seen at 0: exactly 60 seconds ago
    assert list(live.lookup(["b"])) == [first]
    assert list(live.observe(["e", "e", "b"], 61)) == [0, first, 0]  # now b has gone
    assert list(live.take_evicted_rows()) == [first]
    assert list(live.take_evicted_rows()) == []
    live.expire(1000)
    assert list(live.take_evicted_rows()) == [first, first + 1, first + 2]
    assert (live.num_rows, live.num_overlay) == (first + 3, 0)
    np.testing.assert_array_equal(live.lookup(SNAPSHOT_KEYS), SNAPSHOT.lookup(SNAPSHOT_KEYS))


def test_sightings_far_apart_do_not_add_up() -> None:
    live = ff.LiveVocabulary(SNAPSHOT, expire_after=10)
    for time in (0, 11, 22):
        assert list(live.observe(["a"], time)) == [0]
    assert live.observe(["a"], 32) != 0


@pytest.mark.parametrize("restart", [False, True])
def test_keys_called_new_are_exact_for_ever(restart: bool) -> None:
    live = ff.LiveVocabulary(SNAPSHOT, min_count=2)
    assert (live.observe(FALSE_ACCEPTS, 0) == SNAPSHOT.lookup(FALSE_ACCEPTS)).all()
    assert live.num_exceptions == 0
    rows = live.observe(FALSE_ACCEPTS, 1, new=True)  # at once, whatever min_count
    np.testing.assert_array_equal(rows, SNAPSHOT.num_rows + np.arange(len(FALSE_ACCEPTS)))
    for _ in range(3):
        assert live.compact() in (0, len(FALSE_ACCEPTS))
        if restart:
            live = reopen(live._native.image())
        np.testing.assert_array_equal(live.observe(FALSE_ACCEPTS, 2), rows)
        np.testing.assert_array_equal(live.lookup(FALSE_ACCEPTS), rows)
        np.testing.assert_array_equal(live.lookup(SNAPSHOT_KEYS), SNAPSHOT.lookup(SNAPSHOT_KEYS))
    assert (live.num_exceptions, live.num_segments) == (len(FALSE_ACCEPTS), 0)


def test_a_full_overlay_turns_keys_away_until_some_expire() -> None:
    live = ff.LiveVocabulary(SNAPSHOT, capacity=2, min_count=1, expire_after=10)
    rows = live.observe(["a", "b", "c"], 0)
    assert list(rows > 0) == [True, True, False]
    assert live.num_refused == 1
    assert list(live.observe(["c", "a"], 9) > 0) == [False, True]
    assert list(live.observe(["c"], 11)) == [rows[1]]  # b has gone
    assert live.max_num_rows == live.num_rows == SNAPSHOT.num_rows + 2
    assert live.compact() == 2
    assert live.max_num_rows == SNAPSHOT.num_rows + 4
    assert live.observe(["d"], 12) == [SNAPSHOT.num_rows + 2]


def test_compact_keeps_rows_and_forgets_strings() -> None:
    snapshot = ff.Vocabulary.build(["x"], fingerprint_bits=32)
    live = ff.LiveVocabulary(snapshot, min_count=1, expire_after=1)
    keys = [f"post:{i}" for i in range(20_000)]
    rows = live.observe(keys, 0)
    before = live.nbytes
    assert live.compact() == 20_000
    assert (live.num_frozen, live.num_overlay, live.num_segments) == (20_000, 0, 1)
    assert live.nbytes < before - 20_000 * 40
    live.expire(1e9)
    np.testing.assert_array_equal(live.lookup(keys), rows)
    assert live.take_evicted_rows().size == 0


def test_segments_are_limited() -> None:
    live = ff.LiveVocabulary(ff.Vocabulary.build([], fingerprint_bits=32), min_count=1)
    for i in range(64):
        live.observe([f"{i}"], i)
        live.compact()
    live.observe(["one more"], 64)
    with pytest.raises(RuntimeError, match="64 frozen segments already; build a new snapshot"):
        live.compact()
    keys = [f"{i}" for i in range(64)]
    np.testing.assert_array_equal(live.lookup(["one more", *keys]), [65, *range(1, 65)])


def test_floods_of_keys_seen_once_admit_none_and_take_no_memory() -> None:
    snapshot = ff.Vocabulary.build(SNAPSHOT_KEYS, fingerprint_bits=32)
    live = ff.LiveVocabulary(snapshot, capacity=1000)
    live.observe(["early"], 0)
    before = live.nbytes
    for part in range(3):
        flood = (np.arange(200_000) + 200_000 * part).astype("S")
        assert not live.observe(flood, part).any()
    assert live.nbytes == before
    assert (live.num_overlay, live.num_refused) == (0, 0)
    assert live.observe(["early"], 3) == [0]  # was forgotten: later than min_count, never earlier


def test_memory_stays_bounded_under_churn() -> None:
    live = ff.LiveVocabulary(SNAPSHOT, capacity=1000, min_count=1, expire_after=1)
    sizes = []
    for time in range(60):
        keys = [f"{time}:{i}:{'x' * 200}" for i in range(1000)]
        live.observe(keys, 2 * time)
        sizes.append(live.nbytes)
    assert live.num_rows <= live.max_num_rows == SNAPSHOT.num_rows + 1000
    assert max(sizes) < 1000 * (256 + 100) * 4
    assert max(sizes[10:]) < 1.1 * max(sizes[:10])
    assert live.take_evicted_rows().size <= 1000


def test_time_must_be_finite_and_does_not_run_backwards() -> None:
    live = ff.LiveVocabulary(SNAPSHOT, min_count=1, expire_after=10)
    for time in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=r"time = -?(nan|inf) is not a finite"):
            live.observe(["a"], time)
        with pytest.raises(ValueError, match="is not a finite number"):
            live.expire(time)
    assert live.num_overlay == 0
    live.observe(["a"], 100)
    live.observe(["a", "b"], -1e9)  # as if at 100
    live.expire(110)
    assert live.num_overlay == 2
    live.expire(110.5)
    assert live.num_overlay == 0


def test_every_kind_of_key_is_the_same_key() -> None:
    pa = pytest.importorskip("pyarrow")
    live = ff.LiveVocabulary(SNAPSHOT, min_count=4)
    for keys in (["é", ""], ["é".encode(), b""], np.array(["é", ""]), pa.array(["é", ""])):
        rows = live.observe(keys, 0)
    np.testing.assert_array_equal(rows, SNAPSHOT.num_rows + np.arange(2))
    np.testing.assert_array_equal(live.lookup(["", "é"]), rows[::-1])
    assert live.observe([], 0).shape == live.lookup([]).shape == (0,)
    words = pa.array(["é", "", "x", "é"]).dictionary_encode()
    np.testing.assert_array_equal(live.lookup(words, threads=2), [*rows, 0, rows[0]])
    many = np.tile(np.array(["", "member", "é"]), 20_000)
    np.testing.assert_array_equal(live.lookup(many, threads=3), live.lookup(many))
    with pytest.raises(ValueError, match="threads must be at least 1; got 0"):
        live.lookup([], threads=0)
    with pytest.raises(TypeError, match=r"keys\[0\] is a NoneType"):
        live.observe([None], 0)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 0}, r"capacity = 0 is not in 1\.\.268435456"),
        ({"min_count": 0}, r"min_count = 0 is not in 1\.\.65535"),
        ({"min_count": 65536}, "min_count = 65536 is not in"),
        ({"expire_after": 0.0}, "expire_after = 0 seconds is not above 0"),
        ({"expire_after": math.nan}, "expire_after = nan seconds is not above 0"),
        ({"max_key_bytes": 65536}, r"max_key_bytes = 65536 is not in 1\.\.65535"),
        ({"seed": -1}, r"seed = -1 is not in 0..2\*\*64 - 1"),
        ({"snapshot": ff.Vocabulary.build(["a"], fingerprint_bits=0)}, "fingerprint_bits = 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ff.LiveVocabulary(**{"snapshot": SNAPSHOT, **arguments})


def test_random_seeds_differ() -> None:
    images = {ff.LiveVocabulary(SNAPSHOT, 10, seed=seed)._native.image() for seed in (None, None)}
    assert len(images) == 2


def filled() -> ff.LiveVocabulary:
    """With something in every part of the file."""
    live = ff.LiveVocabulary(SNAPSHOT, capacity=40, min_count=2, expire_after=100)
    live.observe(FALSE_ACCEPTS[:2], 0, new=True)
    live.observe(["frozen", "too", "frozen", "too"], 0)
    live.compact()
    live.observe(FALSE_ACCEPTS[2:4], 1, new=True)
    live.observe(["a", "a", "gone", "gone", "once"], 2)
    live.observe(["a", "late", "late", *FALSE_ACCEPTS[2:4]], 101)
    live.expire(103)
    return live


def test_saved_file_continues_and_names_its_snapshot(tmp_path: Path) -> None:
    live = filled()
    path = tmp_path / "members.ffl"
    live.save(path)
    live.save(path)  # replaces
    assert os.listdir(tmp_path) == ["members.ffl"]
    opened = ff.LiveVocabulary.open(path, SNAPSHOT)
    path.unlink()
    for step in (103, 150, 202):
        keys = ["once", "b", "b", "frozen", "late", *FALSE_ACCEPTS]
        np.testing.assert_array_equal(opened.observe(keys, step), live.observe(keys, step))
    np.testing.assert_array_equal(opened.take_evicted_rows(), live.take_evicted_rows())
    assert opened._native.image() == live._native.image()
    assert repr(opened).split(",")[0] == repr(live).split(",")[0]  # the rest is memory

    live.save(path)
    for other in (
        ff.Vocabulary.build(SNAPSHOT_KEYS, fingerprint_bits=8, seed=1),
        ff.Vocabulary.build(SNAPSHOT_KEYS[1:], fingerprint_bits=8),
    ):
        with pytest.raises(ValueError, match="it belongs to another snapshot") as raised:
            ff.LiveVocabulary.open(path, other)
        assert str(path) in str(raised.value)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        live.save(tmp_path / "nowhere" / "members.ffl")


def test_damaged_files_are_refused_with_what_and_where(tmp_path: Path) -> None:
    content = filled()._native.image()
    path = tmp_path / "members.ffl"
    for damaged, message in [
        (b"", "truncated: 0 bytes, the header alone has 192"),
        (content[:-1], f"truncated: {len(content) - 1} bytes, the header says {len(content)}"),
        (content + b"x", f"too long: {len(content) + 1} bytes"),
        (b"PARQUET1" + content[8:], "bytes 0..8 are not the magic"),
        (content[:8] + struct.pack("<I", 9) + content[12:], "version 9 is unknown"),
        (content[:60] + b"\x09" + content[61:], "the header .* does not match its checksum"),
        (content[:200] + b"\x09" + content[201:], r"bytes 192\.\.\d+ do not match their checksum"),
    ]:
        with pytest.raises(ValueError, match=message) as raised:
            ff.LiveVocabulary.open(write(path, damaged), SNAPSHOT)
        assert str(path) in str(raised.value)
    rng = np.random.default_rng(20_240_601)
    for at in rng.integers(0, len(content), 300):
        damaged = content[:at] + bytes([content[at] ^ (1 << rng.integers(8))]) + content[at + 1 :]
        with pytest.raises(ValueError, match="live vocabulary: "):
            ff.LiveVocabulary.open(write(path, damaged), SNAPSHOT)


def test_golden_file_still_opens() -> None:
    snapshot = ff.Vocabulary.open(DATA / "vocabulary_v1.ffv")
    live = ff.LiveVocabulary.open(DATA / "live_vocabulary_v1.ffl", snapshot)
    first = snapshot.num_rows
    assert list(live.lookup(["frozen:1", "new:1", "seen once"])) == [first, first + 1, 0]
    assert list(live.observe(["seen once"], 5)) == [first + 2]
    assert list(live.take_evicted_rows()) == []


def test_lookups_while_another_thread_writes() -> None:
    snapshot = ff.Vocabulary.build(SNAPSHOT_KEYS, fingerprint_bits=32)
    live = ff.LiveVocabulary(snapshot, capacity=3000, min_count=1, expire_after=5)
    frozen = [f"frozen:{i}" for i in range(500)]
    keys = SNAPSHOT_KEYS + [key.encode() for key in frozen]
    live.observe(frozen, 0)
    want = live.lookup(keys)

    def read(_: int) -> None:
        for _ in range(50):
            np.testing.assert_array_equal(live.lookup(keys), want)

    with ThreadPoolExecutor(4) as pool:
        readers = pool.map(read, range(3))
        live.compact()
        for time in range(200):
            live.observe([f"{time}:{i}" for i in range(300)], time)
            live.take_evicted_rows()
        list(readers)
