"""Prints the bytes of resident memory that one structure adds to this process.

    python vocab_memory.py MODULE KIND SIZE

The keys it was built from are dropped before the second reading, so a structure that refers to
them keeps them, and one that copies or hashes them does not.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys

import vocab_keys


def resident_bytes() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/smaps_rollup") as file:
        line = next(line for line in file if line.startswith("Rss:"))
    return int(line.split()[1]) * 1024


def main(module: str, kind: str, size: int) -> int:
    peer = importlib.import_module(module)
    small = vocab_keys.first_keys(kind, 1000)
    peer.known(peer.lookup(peer.build(peer.prepare(small)), peer.container(small)))  # loads code
    before = resident_bytes()
    table = peer.build(peer.prepare(vocab_keys.first_keys(kind, size)))
    after = resident_bytes()
    one = peer.container(vocab_keys.first_keys(kind, 1))
    assert peer.known(peer.lookup(table, one)).shape == (1,)
    return after - before


if __name__ == "__main__":
    sys.stdout.write(f"{main(sys.argv[1], sys.argv[2], int(sys.argv[3]))}\n")
