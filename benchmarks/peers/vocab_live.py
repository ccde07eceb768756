"""A vocabulary with 100 000 keys born after it, beside the snapshot alone and a python dict."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import vocab_keys

import feedfast as ff
from feedfast.bench import BenchOptions, BenchRow, row, time_interleaved

NUM_NEW = 100_000
# Without new keys, as good as the snapshot's own lookup.
EMPTY_TARGET = 1.1


def rows(
    prefix: str,
    kind: str,
    size: int,
    snapshot: ff.Vocabulary,
    known: dict[str, int] | None,
    options: BenchOptions,
) -> Iterator[BenchRow]:
    """Rows of lookups where 0% and 10% of the keys are new.

    Args:
        prefix: Of the names of the rows.
        kind: Of the keys; `vocab_keys` makes them.
        size: Keys of the snapshot, indices below it.
        snapshot: Vocabulary of these keys.
        known: Dict of them, to which the new keys are added here; None leaves the dict out.
        options: Of the run.
    """
    num_new = 1000 if options.quick else NUM_NEW
    new = vocab_keys.keys_at(kind, np.arange(size, size + num_new))
    empty = ff.LiveVocabulary(snapshot, capacity=num_new)
    live = ff.LiveVocabulary(snapshot, capacity=num_new, min_count=1)
    admitted = live.observe(new, 0, new=True)
    np.testing.assert_array_equal(np.sort(admitted), snapshot.num_rows + np.arange(num_new))
    if known is not None:
        known.update(zip(new.to_pylist(), admitted.tolist(), strict=True))
    yield row(f"{prefix}/live/new={num_new}/size", live.nbytes / num_new, "bytes/key")
    batches = {4096: (4, 3)} if options.quick else {4096: (64, 60), 1_000_000: (2, 7)}
    for share in (0.0, 0.1):
        asked = live if share > 0 else empty
        for batch, (num_batches, rounds) in batches.items():
            name = f"{prefix}/live/new={num_new}/share={share:.0%}/batch={batch}"
            keys = [_draw(kind, size, num_new, share, batch, seed) for seed in range(num_batches)]
            _check(asked, snapshot, keys[0])
            # Each side starts elsewhere, so that none finds in the cache what the other has read.
            taken = time_interleaved(
                [_in_turn(asked.lookup, keys), _in_turn(snapshot.lookup, keys[::-1])],
                repeats=rounds,
            )
            ns = [1e9 * float(np.median(seconds)) / batch for seconds in taken]
            yield row(
                f"{name}/arrow/vs=snapshot",
                ns[0],
                "ns",
                peer="the snapshot alone",
                peer_value=ns[1],
                target=EMPTY_TARGET if share == 0 else None,
            )
            if known is None:
                continue
            texts = [one.to_pylist() for one in keys]
            taken = time_interleaved(
                [
                    _in_turn(asked.lookup, texts),
                    _in_turn(lambda keys: [known.get(key, 0) for key in keys], texts[::-1]),
                ],
                repeats=rounds,
            )
            ns = [1e9 * float(np.median(seconds)) / batch for seconds in taken]
            yield row(f"{name}/list/vs=dict", ns[0], "ns", peer="python dict", peer_value=ns[1])


def _draw(kind: str, size: int, num_new: int, share: float, batch: int, seed: int) -> pa.Array:
    rng = np.random.default_rng(seed)
    known = rng.integers(0, size, batch)
    new = rng.integers(size, size + num_new, batch)
    return vocab_keys.keys_at(kind, np.where(rng.random(batch) < share, new, known))


def _check(live: ff.LiveVocabulary, snapshot: ff.Vocabulary, keys: pa.Array) -> None:
    """Every key has a row, and those of the snapshot that of the snapshot."""
    rows, known = live.lookup(keys), snapshot.lookup(keys)
    assert rows.all()
    old = rows < snapshot.num_rows
    np.testing.assert_array_equal(rows[old], known[old])


def _in_turn(lookup: Callable[[Any], object], batches: list[Any]) -> Callable[[], object]:
    turns = itertools.cycle(batches)
    return lambda: lookup(next(turns))
