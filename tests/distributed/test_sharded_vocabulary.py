"""Vocabularies divided between ranks, beside one whole vocabulary and a dict."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from thread_engines import on_ranks

import feedfast as ff
from feedfast.comm import Engine, NullEngine
from feedfast.sharded_tables import BadBagsError, ShardedVocabulary, lookup_rows
from feedfast.sharded_tables.vocabulary_folder import (
    MANIFEST,
    Manifest,
    open_vocabulary,
    save_vocabulary,
)
from feedfast.sharding import ShardingPlan, TableShape

RANKS = [1, 2, 3, 4, 6]
# No UTF-8, the empty key, keys of 10 kB that differ at their end, NULs at the end.
ODD_KEYS = [b"", b"\0", b"\0\0", b"\xff\xfe", "für".encode(), b"k" * 10_000 + b"1", b"k" * 10_001]
KEYS = [*ODD_KEYS, *(b"member %d" % i for i in range(3000))]
UNKNOWN = [b"\0\0\0", b"\xff", b"k" * 10_000, *(b"stranger %d" % i for i in range(500))]


def share_of(rank: int, size: int, keys: list[bytes] = KEYS) -> list[list[bytes]]:
    """Batches of a rank: keys of its own, some that all have, twice, and a batch of none."""
    own = keys[rank::size]
    return [own[:100], [], [*own[50:], *keys[:40]], keys[:40]]


def built(engine: Engine, **options: Any) -> ShardedVocabulary:
    return ShardedVocabulary.build(
        share_of(engine.rank, engine.size), engine, fingerprint_bits=32, **options
    )


def images(vocabularies: list[ShardedVocabulary]) -> list[bytes]:
    return [bytes(part.image) for each in vocabularies for part in each.parts.values()]


def test_one_part_is_the_whole_vocabulary_to_the_byte() -> None:
    sharded = built(NullEngine())
    whole = ff.Vocabulary.build(KEYS, fingerprint_bits=32)
    assert images([sharded]) == [bytes(memoryview(whole._native))]
    assert len(sharded) == len(whole) == len(KEYS)
    np.testing.assert_array_equal(sharded.lookup(KEYS), whole.lookup(KEYS))
    np.testing.assert_array_equal(sharded.lookup(UNKNOWN), whole.lookup(UNKNOWN))


@pytest.mark.parametrize("num_ranks", RANKS)
def test_rows_are_a_permutation_that_all_ranks_agree_on(num_ranks: int) -> None:
    def body(engine: Engine) -> tuple[ShardedVocabulary, np.ndarray, np.ndarray]:
        vocabulary = built(engine)
        # Every rank asks for other keys, one for none.
        asked = [] if engine.rank == 1 else [*KEYS[engine.rank :: 2], *UNKNOWN, *KEYS[:5]]
        rows = vocabulary.lookup(asked)
        whole = dict(zip(KEYS, vocabulary.lookup(KEYS).tolist(), strict=True))
        np.testing.assert_array_equal(rows, [whole.get(key, 0) for key in asked])
        return vocabulary, vocabulary.lookup(KEYS), vocabulary.lookup(KEYS[:0])

    ranks = on_ranks(num_ranks, body)
    vocabulary, rows, nothing = ranks[0]
    assert sorted(rows.tolist()) == list(range(1, len(KEYS) + 1))
    assert nothing.size == 0
    assert vocabulary.num_rows == len(KEYS) + 1
    for rank, (other, same, _) in enumerate(ranks):
        np.testing.assert_array_equal(same, rows)
        assert other.boundaries == vocabulary.boundaries
        assert sum(map(len, other.parts.values())) == (
            vocabulary.boundaries[rank + 1] - vocabulary.boundaries[rank]
        )


@pytest.mark.parametrize("num_ranks", RANKS)
def test_parts_do_not_depend_on_the_ranks_the_chunks_or_who_brings_a_key(num_ranks: int) -> None:
    want = images([built(NullEngine(), num_parts=12)])

    def body(engine: Engine) -> ShardedVocabulary:
        return built(engine, num_parts=12, chunk_keys=37 + engine.size)

    assert images(on_ranks(num_ranks, body)) == want

    def last_rank_has_all(engine: Engine) -> ShardedVocabulary:
        keys = random.Random(1).sample(KEYS, len(KEYS))
        batches = [keys] if engine.rank == engine.size - 1 else []
        return ShardedVocabulary.build(batches, engine, fingerprint_bits=32, num_parts=12)

    assert images(on_ranks(num_ranks, last_rank_has_all)) == want


@pytest.mark.parametrize("num_keys", [0, 1, 3])
def test_fewer_keys_than_ranks_leave_parts_empty(num_keys: int) -> None:
    keys = KEYS[:num_keys]

    def body(engine: Engine) -> tuple[int, ...]:
        vocabulary = ShardedVocabulary.build([keys], engine)
        rows = vocabulary.lookup([*keys, *UNKNOWN[:50]])
        assert sorted(rows[:num_keys].tolist()) == list(range(1, num_keys + 1))
        assert not rows[num_keys:].any()
        shape = TableShape(name="t", rows=num_keys + 1, dim=4)
        ShardingPlan(
            num_ranks=6,
            ranks_per_host=1,
            tables=(shape,),
            placements=(vocabulary.placement(shape),),
        )
        return vocabulary.boundaries

    (boundaries,) = set(on_ranks(6, body))
    assert boundaries[-1] == num_keys + 1


@pytest.mark.parametrize("num_parts", [1, 2, 3])
def test_fewer_parts_than_ranks_leave_ranks_without(num_parts: int) -> None:
    want = images([built(NullEngine(), num_parts=num_parts)])

    def body(engine: Engine) -> ShardedVocabulary:
        vocabulary = built(engine, num_parts=num_parts)
        assert sorted(vocabulary.lookup(KEYS).tolist()) == list(range(1, len(KEYS) + 1))
        return vocabulary

    vocabularies = on_ranks(4, body)
    assert images(vocabularies) == want
    assert sum(bool(vocabulary.parts) for vocabulary in vocabularies) == num_parts


def test_other_numbers_of_ranks_open_the_parts_of_a_save(tmp_path: Path) -> None:
    def save(engine: Engine) -> np.ndarray:
        vocabulary = built(engine)
        before = vocabulary.nbytes
        save_vocabulary(vocabulary, tmp_path / "a" / "b")
        assert vocabulary.nbytes == before - 8 * sum(map(len, vocabulary.parts.values()))
        return vocabulary.lookup(KEYS)

    want = on_ranks(4, save)[0]
    (tmp_path / "a" / "b" / ".tmp-part-0123456789abcdef-00000.ffv-1.x-y").touch()
    on_ranks(4, save)  # replaces the first one
    assert len(list((tmp_path / "a" / "b").iterdir())) == 2 * 4 + 1

    def opened(engine: Engine) -> np.ndarray:
        vocabulary = open_vocabulary(tmp_path / "a" / "b", engine, verify="full")
        np.testing.assert_array_equal(vocabulary.lookup(UNKNOWN), np.zeros(len(UNKNOWN)))
        codes = [part.codes() for part in vocabulary.parts.values()]
        assert sum(map(len, codes)) == sum(map(len, vocabulary.parts.values()))
        return vocabulary.lookup(KEYS)

    for num_ranks in RANKS:
        for rows in on_ranks(num_ranks, opened):
            np.testing.assert_array_equal(rows, want)


def test_each_rank_has_about_its_share_of_the_bytes(tmp_path: Path) -> None:
    keys = [b"%d" % i for i in range(60_000)]
    whole = ff.Vocabulary.build(keys).nbytes

    def body(engine: Engine) -> int:
        vocabulary = ShardedVocabulary.build([keys[engine.rank :: engine.size]], engine)
        save_vocabulary(vocabulary, tmp_path / str(engine.size))
        return vocabulary.nbytes

    for num_ranks in (2, 3, 6):
        held = on_ranks(num_ranks, body)
        assert max(held) <= 1.1 * whole / num_ranks + 4096
        assert sum(held) <= 1.1 * whole + 4096 * num_ranks


def test_columns_share_two_exchanges_of_known_bytes() -> None:
    num_ranks = 4

    def body(engine: Engine) -> tuple[dict[str, int], dict[str, int]]:
        members = built(engine)
        topics = ShardedVocabulary.build([[f"topic {i}" for i in range(50)]], engine, seed=7)
        asked = [KEYS[: 10 + engine.rank] * 3, [f"topic {i}" for i in range(0, 70, 7)], KEYS[90:80]]
        before = engine.exchanges_by_name
        lookup_rows([members, topics, members], asked)
        counts = {n: t for n, t in engine.exchanges_by_name.items() if n not in before}
        assert {t.exchanges for t in counts.values()} == {1}
        # How many keys of each column belong to which rank, from the rows alone.
        expected = [0] * num_ranks
        for vocabulary, keys in zip([members, topics, members], asked, strict=True):
            codes = np.unique(vocabulary.hash_keys(keys))
            _, offsets, _ = vocabulary.divide(codes, np.arange(codes.size))
            for rank in range(num_ranks):
                expected[rank] += int(offsets[rank + 1] - offsets[rank])
        return {n: t.bytes_sent for n, t in counts.items()}, dict(enumerate(expected))

    ranks = on_ranks(num_ranks, body)
    for me, (sent, asked_of) in enumerate(ranks):
        others = [rank for rank in range(num_ranks) if rank != me]
        assert sent == {
            "vocabulary_keys": sum(4 * (1 + 3) + 8 * asked_of[rank] for rank in others),
            "vocabulary_rows": sum(4 * ranks[rank][1][me] for rank in others),
        }


def test_bad_keys_of_one_rank_are_an_error_on_all_and_the_next_lookup_works() -> None:
    def body(engine: Engine) -> str:
        vocabulary = built(engine)
        bad: Any = ["a", None] if engine.rank == 1 else ["a"]
        with pytest.raises(BadBagsError) as caught:
            lookup_rows([vocabulary, vocabulary], [["x"], bad])
        assert vocabulary.lookup(KEYS[:1]).all()
        return str(caught.value)

    (message,) = set(on_ranks(3, body))
    assert message == "rank 1: column 1: keys[1] is a NoneType; keys must be str or bytes"


def test_errors_of_one_rank_while_it_builds_reach_all() -> None:
    def fails(engine: Engine) -> str:
        def batches() -> Any:
            yield KEYS
            if engine.rank == 2:
                raise OSError("the disk is gone")

        with pytest.raises((OSError, RuntimeError)) as caught:
            ShardedVocabulary.build(batches(), engine)
        return str(caught.value)

    other = "rank 2: OSError: the disk is gone"
    assert on_ranks(4, fails) == [other, other, "the disk is gone", other]


def test_ranks_that_differ_in_arguments_are_refused() -> None:
    def differs(engine: Engine) -> None:
        with pytest.raises(ValueError, match="builds with"):
            ShardedVocabulary.build([KEYS], engine, seed=engine.rank)
        with pytest.raises((ValueError, RuntimeError), match="num_parts = 0 is not in"):
            ShardedVocabulary.build([KEYS], engine, num_parts=0)

    on_ranks(2, differs)


def test_a_drawn_seed_is_that_of_all_ranks() -> None:
    def drawn(engine: Engine) -> int:
        vocabulary = ShardedVocabulary.build([KEYS], engine, seed=None)
        assert vocabulary.lookup(KEYS).all()
        return vocabulary.seed

    (seed,) = set(on_ranks(3, drawn))
    assert seed != 0


def test_keys_of_one_code_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from feedfast.sharded_tables import vocabulary_build

    def hash_keys(keys: Any, seed: int) -> np.ndarray:
        return np.array([len(key) if seed == 0 else hash(key) % 2**64 for key in keys], np.uint64)

    monkeypatch.setattr(vocabulary_build, "hash_keys", hash_keys)

    def body(engine: Engine) -> str:
        with pytest.raises((ValueError, RuntimeError), match="have one 64-bit code") as caught:
            ShardedVocabulary.build([["a", "bb"], ["cc"]] if engine.rank else [["a"]], engine)
        return str(caught.value)

    on_ranks(2, body)


def damage(path: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    def save(engine: Engine) -> None:
        save_vocabulary(built(engine), tmp_path)

    on_ranks(3, save)
    originals = {path: path.read_bytes() for path in tmp_path.iterdir()}
    image, other = sorted(tmp_path.glob("*.ffv"))[1:]
    codes = image.with_suffix(".codes")

    def refusals(engine: Engine) -> str:
        with pytest.raises((ValueError, OSError, RuntimeError)) as caught:
            open_vocabulary(tmp_path, engine, verify="full")
        return str(caught.value)

    damages: list[tuple[Path, Callable[[bytearray], object]]] = [
        (image, lambda content: content.clear()),
        (image, lambda content: content.pop()),
        (image, lambda content: content.__setitem__(40, content[40] ^ 1)),
        (image, lambda content: content.__setitem__(-100, content[-100] ^ 1)),
        (image, lambda content: content.__setitem__(slice(None), originals[other])),
        (codes, lambda content: content.pop()),
        (codes, lambda content: content.__setitem__(9, content[9] ^ 1)),
        (tmp_path / MANIFEST, lambda content: content.pop()),
    ]
    for path, change in damages:
        damage(path, change)
        for message in on_ranks(3, refusals):
            assert path.name in message, message
        path.write_bytes(originals[path])
    codes.unlink()
    assert all(codes.name in message for message in on_ranks(3, refusals))


@pytest.mark.parametrize("seed", range(20))
def test_altered_manifests_are_refused_or_the_same(seed: int) -> None:
    parts = b'{"file":"part-0123456789abcdef-00000","keys":3,"checksum":"ab","codes_crc":7}'
    text = b'{"format":"feedfast-sharded-vocabulary","version":1,"seed":5,"parts":[%s,%s]}' % (
        parts,
        parts,
    )
    assert Manifest.from_json(text).to_json() == text
    rng = random.Random(seed)
    for _ in range(200):
        content = bytearray(text)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content))
            match rng.randrange(3):
                case 0:
                    content[at] = rng.randrange(256)
                case 1:
                    del content[at : at + rng.randint(1, 20)]
                case _:
                    content[at:at] = rng.choice([b"0", b"-", b"[", b"{}", b'"', b"null", b"1e9"])
        try:
            manifest = Manifest.from_json(bytes(content))
        except ValueError:
            continue
        assert all(0 <= part.keys < 2**31 and "/" not in part.file for part in manifest.parts)


def test_messages_of_a_wrong_size_are_errors() -> None:
    from feedfast.sharded_tables import messages

    def wrong(engine: Engine) -> None:
        vocabulary = built(engine)
        if engine.rank == 1:
            message = messages.request([np.arange(3, dtype=np.uint64)])
            engine.all_to_all([message[:-1], message], name="vocabulary_keys")
            return
        with pytest.raises(RuntimeError, match="a message of rank 1 has 5 words where there"):
            vocabulary.lookup([b"x"])

    on_ranks(2, wrong)
    good = messages.request([np.arange(3), np.arange(2, dtype=np.uint64)])
    rows, codes = messages.requested(good, 2, sender=0)
    assert rows.tolist() == [0, 1, 2]
    assert messages.as_codes(codes, sender=0).tolist() == [0, 1]
    with pytest.raises(RuntimeError, match="rank 3 has rows where there should be keys"):
        messages.as_codes(rows, sender=3)
    for size in range(1, good.size):
        with pytest.raises(RuntimeError, match="a message of rank 4"):
            messages.requested(good[:size], 2, sender=4)


@pytest.mark.parametrize("seed", range(5))
def test_random_requests_are_errors_or_as_long_as_they_say(seed: int) -> None:
    from feedfast.sharded_tables import messages

    rng = np.random.default_rng(seed)
    for _ in range(400):
        message = rng.integers(-4, 5, rng.integers(1, 12)).astype(np.int32)
        message[rng.integers(0, message.size)] = rng.integers(-(2**31), 2**31)
        num_pieces = int(rng.integers(0, 4))
        try:
            asked = messages.requested(message, num_pieces, sender=2)
        except RuntimeError:
            continue
        words = sum(part.nbytes // 4 for part in asked)
        assert len(asked) == num_pieces
        assert words == message.size - 1 - num_pieces
