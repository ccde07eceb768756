"""A vocabulary with 100 000 keys born after it, beside the snapshot alone and a python dict."""

from __future__ import annotations

from collections.abc import Iterator

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
    rng = np.random.default_rng(0)
    for share, batch in ((0.0, 4096), (0.1, 4096), (0.1, 1_000_000)):
        if options.quick and batch > 4096:
            continue
        picked = rng.integers(0, size, batch)
        fresh = rng.random(batch) < share
        picked[fresh] = size + rng.integers(0, num_new, np.count_nonzero(fresh))
        keys = vocab_keys.keys_at(kind, picked)
        found = live.lookup(keys)
        np.testing.assert_array_equal(found[fresh], admitted[picked[fresh] - size])
        np.testing.assert_array_equal(found[~fresh], snapshot.lookup(keys)[~fresh])
        yield from _compared(
            f"{prefix}/live/new={num_new}/share={share:.0%}/batch={batch}",
            keys,
            live if share > 0 else empty,
            snapshot,
            known,
            EMPTY_TARGET if share == 0 else None,
            3 if options.quick else 60 if batch == 4096 else 7,
        )


def _compared(
    prefix: str,
    keys: pa.Array,
    live: ff.LiveVocabulary,
    snapshot: ff.Vocabulary,
    known: dict[str, int] | None,
    target: float | None,
    repeats: int,
) -> Iterator[BenchRow]:
    texts = keys.to_pylist()
    functions = [lambda: live.lookup(keys), lambda: snapshot.lookup(keys)]
    if known is not None:
        functions.append(lambda: live.lookup(texts))
        functions.append(lambda: [known.get(key, 0) for key in texts])
    taken = time_interleaved(functions, repeats=repeats)
    ns = [1e9 * float(np.median(seconds)) / len(keys) for seconds in taken]
    yield row(
        f"{prefix}/arrow/vs=snapshot",
        ns[0],
        "ns",
        peer="the snapshot alone",
        peer_value=ns[1],
        target=target,
    )
    if known is not None:
        yield row(f"{prefix}/list/vs=dict", ns[2], "ns", peer="python dict", peer_value=ns[3])
