"""`verify="background"`: opens at once, and says in the end whether every byte was right."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from feedfast import Scorer
from feedfast.ranker_artifact import publish_ranker
from feedfast.store import ModelStore, verification
from store_content import check, publish
from synthetic_ranker import synthetic_ranker


def alter(store: ModelStore, section: str) -> str:
    (blob,) = store.open("feed").manifest.sections[section].blobs
    file = store.path / "blobs" / blob.sha256
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return blob.sha256


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path)
    publish(store, 1)
    return store


def test_a_right_version_is_verified_in_the_background(store: ModelStore) -> None:
    opened = store.open("feed", verify="background")
    assert check(opened) == 1
    opened.wait_verified()
    assert opened.verified
    assert opened.verification_error is None
    opened.wait_verified(0)


def test_what_is_altered_is_surfaced(store: ModelStore) -> None:
    digest = alter(store, "table")
    opened = store.open("feed", verify="background")
    for _ in range(2):
        with pytest.raises(ValueError, match=f"section 'table': blob {digest} is altered: its sha"):
            opened.wait_verified()
    assert not opened.verified
    assert digest in (opened.verification_error or "")
    with pytest.raises(ValueError, match=f"section 'table': blob {digest} is altered"):
        store.open("feed", verify="full")


def test_a_comparison_that_breaks_off_verifies_nothing(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(verification, "blob_problem", out_of_memory)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    opened = store.open("feed", verify="background")
    with pytest.raises(ValueError, match=r"verification failed: MemoryError\(\)"):
        opened.wait_verified()
    assert not opened.verified


def test_every_open_can_be_verified_later(store: ModelStore) -> None:
    assert store.open("feed", verify="full").verified
    opened = store.open("feed")
    assert not opened.verified
    opened.wait_verified()
    assert opened.verified
    alter(store, "tensors")
    with pytest.raises(ValueError, match="section 'tensors'"):
        store.open("feed").wait_verified()


def test_waiting_ends_in_time_and_the_thread_with_its_version(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    compare = verification.blob_problem

    def slow(*arguments: object, **options: object) -> str | None:
        go_on.wait(30)
        return compare(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "blob_problem", slow)
    opened = store.open("feed", verify="background")
    with pytest.raises(TimeoutError, match=r"not verified after 0\.01 s"):
        opened.wait_verified(0.01)
    assert not opened.verified
    state = opened._verification
    del opened
    go_on.set()
    deadline = time.monotonic() + 30
    while not state.done and time.monotonic() < deadline:
        time.sleep(0.001)
    assert "was stopped" in (state.problem or "")


def test_a_fork_verifies_by_itself(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    compare = verification.blob_problem

    def slow(*arguments: object, **options: object) -> str | None:
        go_on.wait(30)
        return compare(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "blob_problem", slow)
    opened = store.open("feed", verify="background")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            monkeypatch.setattr(verification, "blob_problem", compare)
            opened.wait_verified(30)
            code = 0 if opened.verified else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    go_on.set()
    opened.wait_verified(30)


def test_a_scorer_says_when_it_may_take_traffic(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish_ranker(store, "feed", synthetic_ranker(3))
    scorer = Scorer.open(tmp_path, verify="background")
    scorer.wait_verified(60)
    assert scorer.verified
    assert scorer.with_options(threads=2).verified
    digest = alter(store, "member_table")
    scorer = Scorer.open(tmp_path, verify="background")
    with pytest.raises(ValueError, match=f"section 'member_table': blob {digest} is altered"):
        scorer.wait_verified(60)
