"""Many features in one call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lookup_tables
import numpy as np

import feedfast as ff
from feedfast.bench import BenchOptions, BenchRow

from .common import FBGEMM_TARGET, NUM_BAGS, Table, in_turns, make_batches, rows_beside, timed
from .peers import Peers


def features(options: BenchOptions, peers: Peers) -> Iterator[BenchRow]:
    """One call for all features beside one call for each, and FBGEMM's one call."""
    dim, mean = 64, 10
    memory = lookup_tables.Memory()
    for count in (1, 10) if options.quick else (1, 10, 100):
        rows = 1000 if options.quick else 1_000_000 // count
        tables = [
            Table(part, "fp32", dim) for part in memory.tables("fp32", rows, dim, count=count)
        ]
        lengths = np.full(NUM_BAGS * count, mean)
        batches = make_batches(rows, "zipf", lengths)
        grouped = {
            id(batch): [
                ff.PooledFeature(
                    tables[f].rows.view(np.float32),
                    ff.Bags.from_lengths(
                        batch.values[f * NUM_BAGS * mean : (f + 1) * NUM_BAGS * mean],
                        lengths[:NUM_BAGS],
                    ),
                    "mean",
                )
                for f in range(count)
            ]
            for batch in batches
        }
        pools = [table.pooled(options.threads) for table in tables]

        def one_call(batch: ff.Bags, grouped: Any = grouped) -> np.ndarray:
            return ff.pooled_lookup_grouped(grouped[id(batch)], threads=options.threads)

        def call_each(batch: ff.Bags, grouped: Any = grouped, pools: Any = pools) -> np.ndarray:
            features = grouped[id(batch)]
            pooled = [pool(f.bags) for pool, f in zip(pools, features, strict=True)]
            return np.concatenate(pooled, 1)

        np.testing.assert_array_equal(one_call(batches[0]), call_each(batches[0]))
        calls = {"ours": timed(one_call, batches), "calls": timed(call_each, batches)}
        names = {"calls": "feedfast, a call for each feature"}
        peer = peers.setup("fbgemm/fp32", rows, dim, batches, threads=options.threads, tables=count)
        if peer is not None:
            calls["fbgemm/fp32"], names["fbgemm/fp32"] = peer
            total = one_call(batches[0]).sum(dtype=np.float64)
            np.testing.assert_allclose(total, peers.total(0), atol=0.1)
        path = f"lookup/features={count}/rows={rows}/dim={dim}/threads={options.threads}"
        yield from rows_beside(
            path,
            in_turns(calls, options),
            names,
            {"fbgemm/fp32": FBGEMM_TARGET},
            NUM_BAGS * mean * count,
        )
