from __future__ import annotations

import re

import numpy as np
import pytest

from feedfast import QuantizedTable
from feedfast.bags import Bags
from reference.pooled_lookup import pooled_lookup as reference


def random_table(num_rows: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(20_240_601)
    scale = np.exp2(rng.uniform(-10, 4, (num_rows, 1)))
    return (rng.standard_normal((num_rows, dim)) * scale).astype(np.float32)


@pytest.mark.parametrize("dim", [1, 7, 64])
def test_error_is_at_most_half_a_scale(dim: int, cpu_target: str) -> None:
    table = random_table(500, dim)
    quantized = QuantizedTable.quantize(table, bits=8)
    scale = quantized.packed[:, :2].copy().view(np.float16).astype(np.float32)
    error = np.abs(quantized.dequantize() - table)
    assert (error <= 0.5001 * scale + 4e-7 * np.abs(table)).all()  # and float32 rounding


def test_layout_and_sizes() -> None:
    quantized = QuantizedTable.quantize(np.array([[-1.0, 0.0, 1.0]], np.float32))
    assert (quantized.num_rows, quantized.dim, quantized.nbytes) == (1, 3, 7)
    scale, bias = quantized.packed[0, :4].view(np.float16)
    assert bias == -1.0
    assert quantized.packed[0, 4:].tolist() == [0, round(1 / scale), 255]
    same = QuantizedTable(quantized.packed)
    assert (same.dequantize() == quantized.dequantize()).all()


@pytest.mark.parametrize("dim", [1, 6, 7])
def test_int4_layout_and_error(dim: int, cpu_target: str) -> None:
    table = random_table(100, dim)
    quantized = QuantizedTable.quantize(table, bits=4)
    assert quantized.packed.shape == (100, 4 + (dim + 1) // 2)
    assert (quantized.bits, quantized.num_rows, quantized.dim) == (4, 100, dim)
    scale, bias = quantized.packed[:, :4].copy().view(np.float16).astype(np.float32).T[:, :, None]
    codes = quantized.packed[:, 4:]
    both = np.stack([codes & 15, codes >> 4], -1).reshape(100, -1)[:, :dim]
    np.testing.assert_allclose(quantized.dequantize(), scale * both + bias, rtol=1e-6)
    error = np.abs(quantized.dequantize() - table)
    assert (error <= 0.5001 * scale + 4e-7 * np.abs(table)).all()
    same = QuantizedTable(quantized.packed, 4, dim=dim)
    assert (same.dequantize() == quantized.dequantize()).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_error_report_and_clipping(bits: int) -> None:
    table = random_table(300, 64)
    table[:, 0] *= 6  # outliers
    minmax = QuantizedTable.quantize(table, bits)
    clip = QuantizedTable.quantize(table, bits, method="clip", threads=2)
    report = minmax.error_report(table)
    error = minmax.dequantize().astype(np.float64) - table
    assert report.greatest == np.abs(error).max()
    assert report.rms == pytest.approx(np.sqrt((error**2).mean()), rel=1e-9)
    assert report.saturated_rows == 0.0
    assert clip.error_report(table, threads=2).rms <= report.rms * 1.0001
    if bits == 4:
        assert clip.error_report(table).rms < 0.96 * report.rms
        assert clip.error_report(table).saturated_rows > 0.1


@pytest.mark.parametrize("bits", [8, 4])
def test_update_rows_rewrites_those_rows_alone(bits: int) -> None:
    table = random_table(40, 5)
    quantized = QuantizedTable.quantize(table, bits)
    rows = np.array([39, 0, 11], np.int32)
    table[rows] = random_table(3, 5) + 1
    quantized.update_rows(rows, table[rows])
    assert (quantized.packed == QuantizedTable.quantize(table, bits).packed).all()
    before = quantized.packed.copy()
    quantized.update_rows([], np.zeros((0, 5), np.float32))
    bad = table[:2].copy()
    bad[1, 3] = np.inf
    for update, error, message in (
        (([0, 40], table[:2]), IndexError, "rows[1] = 40 is not a row of a table with 40 rows"),
        (([7, 7], table[:2]), ValueError, "rows[1] = 7 repeats rows[0]"),
        (([7], table[:2]), ValueError, "table has 2 rows; it must have one for each of 1 rows"),
        (([7, 8], table[:2, :4]), ValueError, "values must have 5 columns; got 4"),
        (([7, 8], bad), ValueError, "table[1, 3] = inf is outside [-65504, 65504]"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            quantized.update_rows(*update)
    quantized.packed.flags.writeable = False
    with pytest.raises(ValueError, match="packed is read-only"):
        quantized.update_rows([0], table[:1])
    assert (quantized.packed == before).all()


@pytest.mark.parametrize("pooling", ["sum", "mean", "sqrtn"])
def test_pooled_lookup_matches_the_reference_on_the_decoded_table(
    pooling: str, cpu_target: str
) -> None:
    rng = np.random.default_rng(5)
    quantized = QuantizedTable.quantize(rng.standard_normal((50, 24)).astype(np.float32))
    bags = Bags.from_lengths(
        rng.integers(0, 50, 60), [0, 10, 1, 0, 49, 0], rng.uniform(0.1, 1, 60).astype(np.float32)
    )
    for weights in (None, bags.weights):
        got = quantized.pooled_lookup(bags.values, bags.offsets, weights, pooling)  # type: ignore[arg-type]
        want = reference(quantized.dequantize(), bags.values, bags.offsets, weights, pooling)
        # codes and biases sum to about 100 before they cancel
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_a_lookup_of_single_rows_is_the_decoded_table(cpu_target: str) -> None:
    quantized = QuantizedTable.quantize(random_table(300, 9))
    rows = quantized.pooled_lookup(np.arange(300), np.arange(301))
    assert rows.tobytes() == quantized.dequantize(threads=2).tobytes()


def test_empty_table() -> None:
    quantized = QuantizedTable.quantize(np.zeros((0, 4), np.float32))
    assert quantized.packed.shape == (0, 8)
    assert quantized.dequantize().shape == (0, 4)


def test_bad_input() -> None:
    table = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="bits must be 8 or 4; got 5"):
        QuantizedTable.quantize(table, bits=5)
    table[1, 2] = np.nan
    with pytest.raises(ValueError, match=re.escape("table[1, 2] = nan is outside [-65504, 65504]")):
        QuantizedTable.quantize(table)
    with pytest.raises(ValueError, match="table must have 2 dimensions; got 1"):
        QuantizedTable.quantize(np.ones(3, np.float32))
    with pytest.raises(TypeError, match="packed must be a uint8 array; got float32"):
        QuantizedTable(np.zeros((2, 8), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got shape \(2, 4\)"):
        QuantizedTable(np.zeros((2, 4), np.uint8))
    with pytest.raises(ValueError, match="packed must have 6 columns for dim 4; got 8"):
        QuantizedTable(np.zeros((2, 8), np.uint8), 4, dim=4)
    with pytest.raises(ValueError, match="method 'kl' is unknown; allowed: minmax, clip"):
        QuantizedTable.quantize(np.ones((2, 3), np.float32), method="kl")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape("table must have shape (2, 3); got (3, 3)")):
        QuantizedTable.quantize(np.ones((2, 3), np.float32)).error_report(np.ones((3, 3)))
    with pytest.raises(IndexError, match=re.escape("values[0] = 2 is not a row")):
        QuantizedTable.quantize(np.ones((2, 3), np.float32)).pooled_lookup([2], [0, 1])
