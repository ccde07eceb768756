"""100 million keys: built within a memory budget, looked up beside 10 million.

    python vocab_scale.py [--keys N] [--baseline N] [--buffer-mib N] [--threads N]

The keys are made as they are asked for and never held whole. Prints rows as `feedfast bench --json`
does. At the default sizes it takes a few minutes and 1 GiB of disk in the temporary folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import vocab_keys

import feedfast as ff
from feedfast.bench import BenchRow, row, time_interleaved

KIND = "members"
BATCH = 1_000_000
BUILD_BATCH = 50_000  # small, so that the memory measured is the build's
LOOKUP_TARGET = 1.6


def key_batches(size: int) -> Iterator[pa.Array]:
    for begin in range(0, size, BUILD_BATCH):
        yield vocab_keys.keys_at(KIND, np.arange(begin, min(begin + BUILD_BATCH, size)))


def build(path: Path, size: int, buffer_bytes: int, threads: int) -> dict[str, float]:
    """Builds in this process, which should have done nothing before."""
    for _ in key_batches(20 * BUILD_BATCH):  # what making keys takes is not the build's
        pass
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    ff.Vocabulary.build_external(
        key_batches(size), path, buffer_bytes=buffer_bytes, threads=threads
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "grown_bytes": peak - before}


def seconds_of_keys(size: int) -> float:
    start = time.perf_counter()
    for _ in key_batches(size):
        pass
    return time.perf_counter() - start


def measure(args: argparse.Namespace, folder: Path) -> Iterator[BenchRow]:
    paths = {size: folder / f"{size}.ffv" for size in (args.baseline, args.keys)}
    ns = {}
    for size, path in paths.items():
        command = [sys.executable, __file__, "--build", str(path), str(size)]
        command += ["--buffer-mib", str(args.buffer_mib), "--threads", str(args.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        built = json.loads(done.stdout)
        ns[size] = 1e9 * built["seconds"] / size
        allowed = (args.buffer_mib << 20) + path.stat().st_size + size
        prefix = f"vocab_scale/{KIND}={size}/build_external/buffer_mib={args.buffer_mib}"
        yield row(
            f"{prefix}/memory",
            built["grown_bytes"],
            "bytes",
            peer="buffer, file and 1 byte per key",
            peer_value=allowed,
            target=1.0,
        )
        yield row(f"{prefix}/size", path.stat().st_size / size, "bytes/key")
    yield row(
        f"vocab_scale/{KIND}={args.keys}/build_external/threads={args.threads}/time",
        ns[args.keys],
        "ns",
        peer=f"{args.baseline} keys",
        peer_value=ns[args.baseline],
    )
    yield row(
        f"vocab_scale/{KIND}={args.keys}/making_the_keys",
        1e9 * seconds_of_keys(args.baseline) / args.baseline,
        "ns",
    )
    yield from lookups(args, paths)


def lookups(args: argparse.Namespace, paths: dict[int, Path]) -> Iterator[BenchRow]:
    rng = np.random.default_rng(0)
    for batch in (4096, BATCH):
        calls = []
        for size, path in paths.items():
            vocabulary = ff.Vocabulary.open(path)
            asked = [
                vocab_keys.keys_at(KIND, rng.integers(0, size, batch))
                for _ in range(256 if batch < BATCH else 4)
            ]
            assert all((vocabulary.lookup(keys) > 0).all() for keys in asked)
            calls.append(
                lambda vocabulary=vocabulary, asked=asked: [vocabulary.lookup(k) for k in asked]
            )
        baseline, large = time_interleaved(calls, repeats=15)
        work = batch * (256 if batch < BATCH else 4)
        yield row(
            f"vocab_scale/{KIND}={args.keys}/lookup/batch={batch}/arrow",
            1e9 * float(np.percentile(large, 10)) / work,
            "ns",
            peer=f"{args.baseline} keys",
            peer_value=1e9 * float(np.percentile(baseline, 10)) / work,
            target=LOOKUP_TARGET,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000_000)
    parser.add_argument("--baseline", type=int, default=10_000_000)
    parser.add_argument("--buffer-mib", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--build", nargs=2, help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    if args.build is not None:
        path, size = args.build
        document: object = build(Path(path), int(size), args.buffer_mib << 20, args.threads)
    else:
        with tempfile.TemporaryDirectory() as folder:
            document = [measured.as_dict() for measured in measure(args, Path(folder))]
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
