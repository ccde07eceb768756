"""One table of each format, page size, number of threads and length of bags."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import lookup_tables
import numpy as np

from feedfast.bench import BenchOptions, BenchRow

from .common import (
    BAG_LENGTH,
    NUM_BAGS,
    Table,
    compare,
    equal_lengths,
    in_turns,
    make_batches,
    rows_beside,
    sizes,
    timed,
)
from .peers import Peers


def float32(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    memory = lookup_tables.Memory()
    dims = (64, 16) if options.quick else (128, 64, 32, 16)
    for rows, dim in itertools.product(sizes(options), dims):
        table = Table(memory.tables("fp32", rows, dim)[0], "fp32", dim)
        for ids in ("uniform", "zipf") if dim == 64 else ("uniform",):
            batches = make_batches(rows, ids, equal_lengths())
            yield from compare("lookup", table, ids, batches, options, peers)


def storage(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    """The other formats, beside float32 too, which has memory of its own."""
    dim = 64
    full_memory, memory = lookup_tables.Memory(), lookup_tables.Memory()
    for rows in sizes(options):
        full = Table(full_memory.tables("fp32", rows, dim)[0], "fp32", dim).pooled(options.threads)
        target = 5.0 / 7.2 if rows > 1_000_000 else 3.6 / 7.0
        for storage, ids in itertools.product(
            ("fp16", "bf16", "int8", "int4"), ("uniform", "zipf")
        ):
            table = Table(memory.tables(storage, rows, dim)[0], storage, dim)
            batches = make_batches(rows, ids, equal_lengths())
            path = f"lookup/rows={rows}/dim={dim}/ids={ids}/threads={options.threads}"
            calls = {
                "ours": timed(table.pooled(options.threads), batches),
                "fp32": timed(full, batches),
            }
            yield from rows_beside(
                f"{path}/storage={storage}",
                in_turns(calls, options),
                {"fp32": "feedfast, fp32"},
                {"fp32": target if ids == "uniform" else None},
                NUM_BAGS * BAG_LENGTH,
            )
            yield from compare("lookup", table, ids, batches, options, peers)


def pages(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    """Both sides in pages of 4 KiB."""
    dim = 64
    memory = lookup_tables.Memory()
    for rows, storage in itertools.product(sizes(options), ("fp32", "fp16", "int8", "int4")):
        table = Table(memory.tables(storage, rows, dim, huge=False)[0], storage, dim)
        batches = make_batches(rows, "uniform", equal_lengths())
        yield from compare("lookup/pages=4k", table, "uniform", batches, options, peers, huge=False)


def threads(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    """Two threads, whatever `options` say; the probe's take their rows as ours do."""
    dim = 64
    options = dataclasses.replace(options, threads=2)
    memory = lookup_tables.Memory()
    for rows, storage in itertools.product(sizes(options), ("fp32", "int8")):
        table = Table(memory.tables(storage, rows, dim)[0], storage, dim)
        for ids in ("uniform", "zipf"):
            batches = make_batches(rows, ids, equal_lengths())
            yield from compare("lookup", table, ids, batches, options, peers)


def ragged(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    dim = 64
    memory = lookup_tables.Memory()
    for rows, mean in itertools.product(sizes(options), (1, 10, 50)):
        table = Table(memory.tables("fp32", rows, dim)[0], "fp32", dim)
        lengths = np.random.default_rng(mean).poisson(mean, NUM_BAGS)
        batches = make_batches(rows, "zipf", lengths)
        yield from compare(
            f"lookup/bags=ragged,mean={mean}", table, "zipf", batches, options, peers
        )
