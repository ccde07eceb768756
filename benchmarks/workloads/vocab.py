"""Vocabularies beside the maps people use: benchmarks/peers/vocab_*.py.

Keys are `urn:li:member:<random id>` (10 million), `#tag<random id>` (1 million) and 40 bytes like a
UUID (10 million); `--only members` runs one kind. A size is that of the file, which is what a
process maps; a peer's is the resident memory that it adds to a process of its own. Lookups are of
known, unknown and mixed keys, uniformly drawn, and of known keys with Zipf exponent 1; small
batches change from call to call, so that no cache holds what they need. A peer whose package is
missing is left out with a line that says so.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import feedfast as ff
from feedfast.bench import BenchOptions, BenchRow, row, time_interleaved

PEERS_FOLDER = Path(__file__).parents[1] / "peers"
sys.path.append(str(PEERS_FOLDER))

import vocab_false_accepts  # noqa: E402
import vocab_keys  # noqa: E402
import vocab_live  # noqa: E402

PEERS = (
    "vocab_dict",
    "vocab_marisa",
    "vocab_lexindex",
    "vocab_static_hash_table",
    "vocab_static_vocabulary_table",
    "vocab_string_lookup",
)
QUICK_SIZE = 20_000

# log2(e): the least bits per key of any minimal perfect hash function.
MINIMAL_BITS = 1.4427
# Bits per key, and ns per key to build over what the peer of the row needs.
HASH_SIZE_TARGETS = {"compact": 1.90 / MINIMAL_BITS, "fast": 2.4 / MINIMAL_BITS}
HASH_BUILD_TARGETS = {"compact": 75 / 88, "fast": 45 / 88}
SIZE_TARGETS = {"members": 1 / 44, "hashtags": 1 / 30.7}  # 2.26 bytes/key
TF_TARGETS = {"members": 1 / 12, "hashtags": 1 / 7}
ARROW_TARGETS = {"members": 9 / 19}
OPEN_TARGET = 5 / 10  # 5 ms where reading 22.6 MB takes 10
LOAD_TARGET = 50 / 4500  # 50 ms where a StaticHashTable takes 450 ns/key

# Batch size to the number of different batches and of rounds.
BATCHES = {1: (512, 400), 64: (512, 300), 4096: (64, 60), 1_000_000: (1, 7)}
QUICK_BATCHES = {1: (4, 3), 64: (4, 3), 4096: (2, 3)}
MIXES = ("known", "unknown", "mixed", "zipf")


def run(options: BenchOptions) -> Iterator[BenchRow]:
    kinds = vocab_keys.SIZES
    if options.only is not None:
        if options.only not in kinds:
            raise ValueError(f"--only {options.only}: vocab has the parts {', '.join(kinds)}")
        kinds = {options.only: kinds[options.only]}
    with contextlib.suppress(ModuleNotFoundError, RuntimeError):
        import tensorflow as tf

        # The size of the pool cannot change once it runs, as it may under the tests.
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    for kind, size in kinds.items():
        yield from _measure(kind, QUICK_SIZE if options.quick else size, options)


def _measure(kind: str, size: int, options: BenchOptions) -> Iterator[BenchRow]:
    prefix = f"vocab/{kind}={size}"
    keys = vocab_keys.first_keys(kind, size)
    yield from _hash_alone(prefix, keys, options)
    vocabulary = ff.Vocabulary.build(keys, threads=options.threads)
    yield from _false_accepts(prefix, kind, keys, options)
    tables: dict[str, Any] = {}
    for name in PEERS:
        peer = _peer(name)
        if peer is None:
            continue
        prepared = peer.prepare(keys)
        before = _seconds_of_build(keys, options)
        start = time.perf_counter()
        tables[name] = peer.build(prepared)
        seconds = time.perf_counter() - start
        del prepared
        ours = (before + _seconds_of_build(keys, options)) / 2
        yield row(
            f"{prefix}/build/fingerprint_bits=16/threads={options.threads}/vs={name[6:]}",
            1e9 * ours / size,
            "ns",
            peer=peer.NAME,
            peer_value=1e9 * seconds / size,
        )
        yield row(
            f"{prefix}/size/fingerprint_bits=16/vs={name[6:]}",
            vocabulary.nbytes / size,
            "bytes/key",
            peer=peer.NAME,
            peer_value=_num_bytes(peer, tables[name], kind, size) / size,
            target=SIZE_TARGETS.get(kind) if name == "vocab_static_hash_table" else None,
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.ffv"
        vocabulary.save(path)
        yield from _open(prefix, path)
        if "vocab_static_hash_table" in tables and kind == "members":
            yield from _load_asset(prefix, path, keys, Path(folder))
        yield from _lookups(prefix, kind, size, path, tables, options)
    yield from vocab_live.rows(prefix, kind, size, vocabulary, tables.get("vocab_dict"), options)


def _peer(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        logging.getLogger("feedfast.bench").warning(
            "%s is not measured: there is no package %s", name, error.name
        )
        return None


def _seconds_of_build(keys: pa.Array, options: BenchOptions, **arguments: Any) -> float:
    start = time.perf_counter()
    ff.Vocabulary.build(keys, threads=options.threads, **arguments)
    return time.perf_counter() - start


def _hash_alone(prefix: str, keys: pa.Array, options: BenchOptions) -> Iterator[BenchRow]:
    closed = _peer("vocab_lexindex_closed")
    prepared = None if closed is None else closed.prepare(keys)
    for preset, size_target in HASH_SIZE_TARGETS.items():
        name = f"{prefix}/hash/preset={preset}"
        built = ff.Vocabulary.build(
            keys, fingerprint_bits=0, preset=preset, threads=options.threads
        )
        yield row(
            f"{name}/size",
            built.bits_per_key,
            "bits/key",
            peer="log2(e), the least possible",
            peer_value=MINIMAL_BITS,
            target=size_target,
        )
        if closed is None:
            continue
        ours, theirs = time_interleaved(
            [
                lambda preset=preset: _seconds_of_build(
                    keys, options, fingerprint_bits=0, preset=preset
                ),
                lambda: closed.build(prepared),
            ],
            repeats=2,
        )
        yield row(
            f"{name}/build/threads={options.threads}",
            1e9 * float(ours.min()) / len(keys),
            "ns",
            peer=closed.NAME,
            peer_value=1e9 * float(theirs.min()) / len(keys),
            target=HASH_BUILD_TARGETS[preset],
        )


def _false_accepts(
    prefix: str, kind: str, keys: pa.Array, options: BenchOptions
) -> Iterator[BenchRow]:
    """The share of unknown keys that are accepted, and the upper end of its 95% interval."""
    asked = 100_000 if options.quick else 10_000_000
    for bits in vocab_false_accepts.FINGERPRINT_BITS:
        built = ff.Vocabulary.build(keys, fingerprint_bits=bits, threads=options.threads)
        accepted = vocab_false_accepts.count_accepted(built, kind, len(keys), asked)
        _, upper = vocab_false_accepts.interval(accepted, asked)
        name = f"{prefix}/false_accepts/fingerprint_bits={bits}/unknown={asked}"
        peer = {"peer": f"2^-{bits}", "peer_value": 2.0**-bits}
        yield row(name, accepted / asked, "share", target=vocab_false_accepts.TARGET, **peer)
        yield row(f"{name}/upper95", upper, "share")


def _open(prefix: str, path: Path) -> Iterator[BenchRow]:
    ours, reading = time_interleaved(
        [lambda: ff.Vocabulary.open(path), path.read_bytes], repeats=15
    )
    yield row(
        f"{prefix}/open",
        1e3 * float(np.median(ours)),
        "ms",
        peer="reading the file once",
        peer_value=1e3 * float(np.median(reading)),
        target=OPEN_TARGET,
    )


def _load_asset(prefix: str, path: Path, keys: pa.Array, folder: Path) -> Iterator[BenchRow]:
    """Loading a SavedModel with the table as its asset."""
    import tensorflow as tf
    import vocab_static_hash_table

    from feedfast.tf import VocabularyTable

    def save(table: Any, name: str) -> str:
        module = tf.Module()
        module.table = table
        module.lookup = tf.function(
            lambda keys: table.lookup(keys), input_signature=[tf.TensorSpec([None], tf.string)]
        )
        tf.saved_model.save(module, str(folder / name))
        return str(folder / name)

    ours = save(VocabularyTable(path), "ours")
    theirs = save(vocab_static_hash_table.build(vocab_static_hash_table.prepare(keys)), "theirs")
    tf.saved_model.load(ours)
    seconds: list[list[float]] = [[], []]
    for _ in range(2):
        for model, taken in ((ours, seconds[0]), (theirs, seconds[1])):
            start = time.perf_counter()
            tf.saved_model.load(model)
            taken.append(time.perf_counter() - start)
    yield row(
        f"{prefix}/tf/load_saved_model",
        1e3 * min(seconds[0]),
        "ms",
        peer="tf.lookup.StaticHashTable",
        peer_value=1e3 * min(seconds[1]),
        target=LOAD_TARGET,
    )


def _picks(mix: str, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count] indices of keys, those from `size` on unknown."""
    known = rng.integers(0, size, count)
    match mix:
        case "known":
            return known
        case "unknown":
            return known + size
        case "mixed":
            return known + size * rng.integers(0, 2, count)
    return np.exp(rng.random(count) * np.log(size)).astype(np.int64) - 1


def _lookups(
    prefix: str,
    kind: str,
    size: int,
    path: Path,
    tables: dict[str, Any],
    options: BenchOptions,
) -> Iterator[BenchRow]:
    vocabulary = ff.Vocabulary.open(path)
    ours: dict[str, Callable[[Any], Any]] = {
        "list": vocabulary.lookup,
        "arrow": vocabulary.lookup,
    }
    containers: dict[str, Callable[[pa.Array], Any]] = {
        "list": lambda keys: keys.to_pylist(),
        "arrow": lambda keys: keys,
    }
    if any(name in tables for name in PEERS[3:]):
        import tensorflow as tf

        from feedfast.tf import VocabularyTable

        ours["tensor"] = VocabularyTable(path).lookup
        containers["tensor"] = lambda keys: tf.constant(keys.to_pylist())
    rng = np.random.default_rng(0)
    for mix, (batch, (num_batches, rounds)) in itertools.product(
        MIXES, (QUICK_BATCHES if options.quick else BATCHES).items()
    ):
        picks = [_picks(mix, size, batch, rng) for _ in range(num_batches)]
        keys = [vocab_keys.keys_at(kind, picked) for picked in picks]
        asked = {name: [make(one) for one in keys] for name, make in containers.items()}
        functions = {f"ours_{name}": _in_turn(ours[name], asked[name]) for name in containers}
        for container, lookup in ours.items():
            _check(np.asarray(lookup(asked[container][0])) != 0, picks[0] < size)
        for name, table in tables.items():
            peer = _peer(name)
            lookup = lambda keys, peer=peer, table=table: peer.lookup(table, keys)  # noqa: E731
            functions[name] = _in_turn(lookup, asked[peer.CONTAINER])
            _check(peer.known(lookup(asked[peer.CONTAINER][0])), picks[0] < size)
        taken = dict(
            zip(
                functions,
                time_interleaved(list(functions.values()), repeats=rounds),
                strict=True,
            )
        )
        ns = {name: 1e9 * float(np.median(seconds)) / batch for name, seconds in taken.items()}
        for name in tables:
            peer = _peer(name)
            yield row(
                f"{prefix}/lookup/{mix}/batch={batch}/{peer.CONTAINER}/vs={name[6:]}",
                ns[f"ours_{peer.CONTAINER}"],
                "ns",
                peer=peer.NAME,
                peer_value=ns[name],
                target=_lookup_target(name, kind, mix, batch),
            )
        if "vocab_dict" in tables:
            yield row(
                f"{prefix}/lookup/{mix}/batch={batch}/arrow/vs=dict",
                ns["ours_arrow"],
                "ns",
                peer="python dict, list of str",
                peer_value=ns["vocab_dict"],
            )


def _lookup_target(name: str, kind: str, mix: str, batch: int) -> float | None:
    if mix != "known":
        return None
    if name == "vocab_static_hash_table" and batch == 1_000_000:
        return TF_TARGETS.get(kind)
    if name == "vocab_lexindex" and batch == 4096:
        return ARROW_TARGETS.get(kind)
    return None


def _in_turn(lookup: Callable[[Any], Any], batches: list[Any]) -> Callable[[], object]:
    turns = itertools.cycle(batches)
    return lambda: lookup(next(turns))


def _check(known: np.ndarray, expected: np.ndarray) -> None:
    """No known key is missed; of the unknown ones no more pass than fingerprints may let pass."""
    assert known[expected].all()
    assert np.count_nonzero(known[~expected]) <= 2 + len(expected) / 1000


def _num_bytes(peer: Any, table: Any, kind: str, size: int) -> int:
    """What the peer says itself, else the resident memory it adds to a process of its own."""
    if hasattr(peer, "num_bytes"):
        return peer.num_bytes(table)
    # Arrow's own allocator would keep the memory of the keys.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    command = [
        sys.executable,
        str(PEERS_FOLDER / "vocab_memory.py"),
        peer.__name__,
        kind,
        str(size),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return max(1, int(done.stdout.split()[-1]))
