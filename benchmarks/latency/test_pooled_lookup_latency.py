from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import feedfast as ff
from feedfast import runtime
from feedfast.bags import Bags

NUM_ROWS = 200_000
DIM = 64


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((NUM_ROWS, DIM), dtype=np.float32)


def feed_request(*, num_posts: int, mean_length: int) -> Bags:
    """One bag per post, of Poisson length; ids are Zipf-distributed with exponent 1."""
    rng = np.random.default_rng(1)
    lengths = rng.poisson(mean_length, num_posts)
    ranks = np.exp(rng.random(lengths.sum()) * np.log(NUM_ROWS)).astype(np.int64) - 1
    return Bags.from_lengths(ranks * 611_953 % NUM_ROWS, lengths)


@pytest.mark.benchmark(group="pooled_lookup")
@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("mean_length", [1, 16, 100])
def test_pooled_lookup_latency(
    benchmark: BenchmarkFixture, table: np.ndarray, mean_length: int, storage: str
) -> None:
    bags = feed_request(num_posts=250, mean_length=mean_length)
    if storage == "int8":
        quantized = ff.QuantizedTable.quantize(table)
        out = benchmark(quantized.pooled_lookup, bags.values, bags.offsets, pooling="mean")
        decoded = quantized.dequantize()
    else:
        stored = table.astype(storage)
        out = benchmark(ff.pooled_lookup, stored, bags.values, bags.offsets, pooling="mean")
        decoded = stored.astype(np.float32)
    benchmark.extra_info.update(rows_read=bags.values.size, target=runtime.cpu_target())
    longest = int(np.argmax(bags.lengths))
    ids = bags.values[bags.offsets[longest] : bags.offsets[longest + 1]]
    # float32 sums; an int8 row's codes and bias cancel
    np.testing.assert_allclose(out[longest], decoded[ids].mean(axis=0), atol=1e-4)


@pytest.mark.benchmark(group="pooled_lookup")
def test_fixed_cost_of_a_call(benchmark: BenchmarkFixture, table: np.ndarray) -> None:
    values = np.array([7])
    offsets = np.array([0, 1])
    out = benchmark(ff.pooled_lookup, table, values, offsets)
    np.testing.assert_array_equal(out, table[7:8])
