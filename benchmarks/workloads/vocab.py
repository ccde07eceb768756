"""Vocabularies against `tf.lookup.StaticHashTable` and a python dict.

Keys are `urn:li:member:<random id>` (10 million) and `#tag<random id>` (1 million). Lookups are of
known keys, uniform and Zipf-distributed with exponent 1. The size of a StaticHashTable is the
resident memory it adds to a child process, keys and values in tensors not counted.
"""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

import feedfast as ff
from feedfast.bench import BenchOptions, BenchRow, compare, row
from feedfast.tf.vocabulary import VocabularyTable

# The least bits per key of any minimal perfect hash function: log2(e).
MINIMAL_BITS = 1.4427
HASH_TARGETS = {"compact": 1.90 / MINIMAL_BITS, "fast": 2.4 / MINIMAL_BITS}
SIZE_TARGETS = {"members": 1 / 44, "hashtags": 1 / 30.7}  # 2.26 bytes per key
TF_TARGETS = {"members": 1 / 12, "hashtags": 1 / 7}
PREFIXES = {"members": "urn:li:member:", "hashtags": "#tag"}


def run(options: BenchOptions) -> Iterator[BenchRow]:
    # The size of TensorFlow's pool cannot change once it runs, as it may under the tests.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    sizes = {"members": 10_000_000, "hashtags": 1_000_000}
    for kind, size in sizes.items():
        yield from _measure(kind, 20_000 if options.quick else size, options)
        gc.collect()


def _keys(kind: str, size: int) -> list[str]:
    # Distinct below 2^34: the factor is odd.
    ids = np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) % np.uint64(2**34)
    return [f"{PREFIXES[kind]}{i}" for i in ids.tolist()]


def _measure(kind: str, size: int, options: BenchOptions) -> Iterator[BenchRow]:
    prefix = f"vocab/{kind}={size}"
    keys = _keys(kind, size)
    arrow = pa.array(keys)
    repeats = 3 if options.quick else 15

    for preset, target in HASH_TARGETS.items():
        bits = ff.Vocabulary.build(arrow, preset=preset, threads=options.threads).bits_per_key
        yield row(
            f"{prefix}/hash/preset={preset}/size",
            bits,
            "bits/key",
            peer="log2(e), the least possible",
            peer_value=MINIMAL_BITS,
            target=target,
        )
    yield compare(
        f"{prefix}/build/fingerprint_bits=16/threads={options.threads}",
        lambda: ff.Vocabulary.build(arrow, threads=options.threads),
        lambda: dict(zip(keys, range(size), strict=True)),
        peer_name="python dict",
        unit="ns",
        work=size,
        repeats=3,
    )

    vocabulary = ff.Vocabulary.build(arrow, rows=np.arange(1, size + 1), threads=options.threads)
    packed = ff.Vocabulary.build(arrow, threads=options.threads)
    yield row(
        f"{prefix}/size/fingerprint_bits=16",
        packed.nbytes / size,
        "bytes/key",
        peer="tf.lookup.StaticHashTable",
        peer_value=_resident_bytes_of_static_hash_table(kind, size) / size,
        target=SIZE_TARGETS[kind],
    )

    peer_dict = dict(zip(keys, range(1, size + 1), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        packed.save(Path(folder) / "vocabulary.ffv")
        table = VocabularyTable(Path(folder) / "vocabulary.ffv")
    static = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(keys, np.arange(1, size + 1)), default_value=0
    )
    rng = np.random.default_rng(0)
    for batch in (4096, 65_536 if options.quick else 1_000_000):
        for skew in ("uniform", "zipf"):
            u = rng.random(batch)
            picked = (u * size if skew == "uniform" else np.exp(u * np.log(size)) - 1).astype(int)
            asked = [keys[i] for i in picked.tolist()]
            _check(vocabulary.lookup(asked), picked + 1)
            name = f"batch={batch}/keys={skew}/threads={options.threads}"
            yield from _lookups(f"{prefix}/lookup", name, packed, peer_dict, asked, repeats)
            tensor = tf.constant(asked)
            _check(static.lookup(tensor).numpy(), picked + 1)
            _check(table.lookup(tensor).numpy(), packed.lookup(asked))
            yield compare(
                f"{prefix}/tf/{name}",
                lambda tensor=tensor: table.lookup(tensor),
                lambda tensor=tensor: static.lookup(tensor),
                peer_name="tf.lookup.StaticHashTable",
                unit="ns",
                work=batch,
                target=TF_TARGETS[kind] if batch >= 65_536 and skew == "uniform" else None,
                repeats=repeats,
            )


def _lookups(
    prefix: str,
    name: str,
    vocabulary: ff.Vocabulary,
    peer: dict[str, int],
    asked: list[str],
    repeats: int,
) -> Iterator[BenchRow]:
    containers: dict[str, Any] = {"list": asked, "arrow": pa.array(asked)}
    for container, keys in containers.items():
        yield compare(
            f"{prefix}/{container}/{name}",
            lambda keys=keys: vocabulary.lookup(keys),
            lambda: [peer.get(key, 0) for key in asked],
            peer_name="python dict, list of str",
            unit="ns",
            work=len(asked),
            repeats=repeats,
        )


def _check(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_array_equal(got, want)


_CHILD = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import tensorflow as tf
import vocab

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def table(size):
    keys = tf.constant(vocab._keys(sys.argv[2], size))
    values = tf.range(1, size + 1, dtype=tf.int64)
    before = resident()
    made = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0)
    return made, resident() - before

first, _ = table(1000)  # loads the kernels
made, grown = table(int(sys.argv[3]))
print(grown)
"""


def _resident_bytes_of_static_hash_table(kind: str, size: int) -> int:
    command = [sys.executable, "-c", _CHILD, str(Path(__file__).parent), kind, str(size)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
