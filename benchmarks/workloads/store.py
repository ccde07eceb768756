"""A model store with ten variants of a ranker that share one member table of 1 GiB.

Each variant has towers of its own. Memory is measured in fresh processes, which score nothing: they
open, load and read every page. `--only` runs one part:

    open      the time to open and load one variant, beside reading its tensors with safetensors;
              and to open a table of 5 GiB, beside nothing but mapping its files
    memory    PSS of ten variants in one process beside one, and of two processes beside one
    verify    full verification beside hashing the same bytes in memory
    push      a push to an empty store beside copying its files, and of a change of one block
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from feedfast import Scorer
from feedfast.bench import BenchOptions, BenchRow, compare, row
from feedfast.config import ForestConfig, RankerConfig, TableConfig, TowerConfig
from feedfast.ranker_artifact import publish_ranker
from feedfast.store import ModelStore, push
from feedfast.synthetic_ranker import RankerShape, random_artifact, random_towers

PARTS = ("open", "memory", "verify", "push")
VARIANTS = 10
CONFIG = RankerConfig(
    member=TableConfig(dim=64),
    hashtag=TableConfig(dim=64),
    forest=ForestConfig(num_trees=100, max_depth=6, leaf_dim=16),
    passive=TowerConfig(units=(256, 128)),
    active=TowerConfig(units=(256, 128)),
)
# The memory of ten is that of one, but for their towers, which the table dwarfs.
MEMORY_TARGET = 1.1
# Mapping takes no time that grows with a table; reading does.
OPEN_TARGET = 0.1
# The manifest, sizes and headers beside the mapping.
MAP_TARGET = 4.0
# The digest and little else.
VERIFY_TARGET = 1.25

# Opens models of a store, reads every page, and prints what that took. Then waits for a line.
MEASURE = """
import json, sys
import numpy as np
from feedfast.process_memory import process_memory
from feedfast.ranker_artifact import open_ranker
from feedfast.store import ModelStore
store, models = ModelStore(sys.argv[1]), sys.argv[2:]
before = process_memory()
opened = [store.open(model) for model in models]
rankers = [open_ranker(model) for model in opened]
for model in opened:
    for name, section in model.manifest.sections.items():
        if section.kind == "table":
            model.table(name).reshape(-1).view(np.uint8)[::4096].max()
print("ready", flush=True)
for line in sys.stdin:
    taken = process_memory() - before
    print(json.dumps({"rss": taken.rss, "pss": taken.pss}), flush=True)
"""


def run(options: BenchOptions) -> Iterator[BenchRow]:
    if options.only is not None and options.only not in PARTS:
        raise ValueError(f"--only {options.only}: store has the parts {', '.join(PARTS)}")
    parts: dict[str, Any] = {"open": _open, "memory": _memory, "verify": _verify, "push": _push}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        members = 40_000 if options.quick else (1 << 30) // 256 - 1
        store = _publish_variants(folder / "store", members)
        for part in PARTS if options.only is None else (options.only,):
            yield from parts[part](store, folder, options)


def _publish_variants(path: Path, members: int) -> ModelStore:
    shape = RankerShape.from_config(
        CONFIG,
        num_members=members,
        num_hashtags=members // 50,
        num_shared=16,
        num_dense=48,
        num_objectives=8,
    )
    store = ModelStore(path)
    artifact = random_artifact(shape)
    publish_ranker(store, "variant0", artifact)
    first = store.open("variant0")
    # Only the towers of the others are written; the rest is there.
    for index in range(1, VARIANTS):
        towers = random_towers(np.random.default_rng(index), shape)
        with store.writer(f"variant{index}") as writer:
            for section in first.manifest.sections.values():
                if section.name != "towers":
                    writer.add_present(section)
            writer.add_tensors(
                "towers",
                {
                    f"{tower}/{layer}/{name}": array
                    for tower, layers in towers.items()
                    for layer, weights in enumerate(layers)
                    for name, array in weights.arrays().items()
                },
            )
            writer.publish(first.description)
    return store


def _open(store: ModelStore, folder: Path, options: BenchOptions) -> Iterator[BenchRow]:
    opened = store.open("variant1")
    files = [
        path
        for name, section in opened.manifest.sections.items()
        if section.kind != "image"
        for path in opened.section_paths(name)
    ]

    def load() -> list[object]:
        return [safetensors.numpy.load_file(path) for path in files]

    for percentile in (50.0, 99.0):
        yield compare(
            f"store/variants={VARIANTS}/open/p{percentile:.0f}",
            lambda: Scorer.open(store.path, model="variant1"),
            load,
            peer_name="safetensors load_file of its tensors",
            unit="ms",
            target=OPEN_TARGET,
            repeats=5 if options.quick else 15,
            percentile=percentile,
        )
    yield _open_big(ModelStore(folder / "big"), rows=(1 if options.quick else 20) << 20)


def _open_big(store: ModelStore, *, rows: int) -> BenchRow:
    with store.writer("big") as writer:
        writer.add_table("table", np.zeros((rows, 64), np.float32))  # its blocks are one blob
        writer.publish()
    paths = store.open("big").section_paths("table")

    def map_files() -> list[mmap.mmap]:
        mapped = []
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY)
            mapped.append(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
            os.close(descriptor)
        return mapped

    return compare(
        f"store/bytes={rows * 256}/blocks={len(paths)}/open",
        lambda: store.open("big"),
        map_files,
        peer_name="mmap of each block",
        unit="ms",
        target=MAP_TARGET,
        repeats=25,
    )


def _memory(store: ModelStore, folder: Path, options: BenchOptions) -> Iterator[BenchRow]:
    models = [f"variant{index}" for index in range(VARIANTS)]
    (one,) = _processes(store, [models[:1]])
    (ten,) = _processes(store, [models])
    two = _processes(store, [models[:1], models[1:2]])
    yield row(
        f"store/variants={VARIANTS}/processes=1/pss",
        ten["pss"],
        "bytes",
        peer="one variant",
        peer_value=one["pss"],
        target=MEMORY_TARGET,
    )
    yield row(
        "store/variants=2/processes=2/pss",
        sum(process["pss"] for process in two),
        "bytes",
        peer="one variant",
        peer_value=one["pss"],
        target=MEMORY_TARGET,
    )


def _processes(store: ModelStore, models: list[list[str]]) -> list[dict[str, int]]:
    """Memory of processes that have these models open at the same time."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEASURE, str(store.path), *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for names in models
    ]
    try:
        for process in processes:
            _ask(process, None)
        return [json.loads(_ask(process, "now")) for process in processes]
    finally:
        for process in processes:
            process.communicate()


def _ask(process: subprocess.Popen[str], line: str | None) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    if line is not None:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError("a measured process ended early")
    return answer


def _verify(store: ModelStore, folder: Path, options: BenchOptions) -> Iterator[BenchRow]:
    opened = store.open("variant1")
    num_bytes = sum(section.num_bytes for section in opened.manifest.sections.values())
    piece = bytes(4 << 20)

    def digest() -> str:
        state = hashlib.sha256()
        for _ in range(num_bytes // len(piece)):
            state.update(piece)
        state.update(piece[: num_bytes % len(piece)])
        return state.hexdigest()

    yield compare(
        f"store/verify=full/bytes={num_bytes}",
        lambda: store.open("variant1", verify="full"),
        digest,
        peer_name="sha256 of as many bytes in the cache",
        unit="ms",
        target=VERIFY_TARGET,
        repeats=3,
    )


def _push(store: ModelStore, folder: Path, options: BenchOptions) -> Iterator[BenchRow]:
    target, copy = folder / "pushed", folder / "copied"

    def push_all() -> None:
        shutil.rmtree(target, ignore_errors=True)
        push(store.path, target, "variant0")

    def copy_all() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store.path, copy)

    yield compare(
        "store/push/all",
        push_all,
        copy_all,
        peer_name="shutil.copytree, which neither verifies nor syncs",
        unit="ms",
        repeats=2,
    )
    first = store.open("variant0")
    rows = first.table("member_table").copy()
    rows[-1] += 1
    with store.writer("variant0") as writer:
        for section in first.manifest.sections.values():
            if section.name == "member_table":
                writer.add_table(section.name, rows)
            else:
                writer.add_present(section)
        writer.publish(first.description)
    report = push(store.path, target, "variant0")
    yield row(
        "store/push/one row changed",
        report.copied_bytes,
        "bytes",
        peer="all of it",
        peer_value=float(report.copied_bytes + report.present_bytes),
    )
