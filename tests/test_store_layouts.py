"""Tables of every layout go through the store and can be pooled without a copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

import feedfast as ff
from feedfast import _core
from feedfast.store import LAYOUTS, Layout, ModelStore, OpenedModel, encode_table
from feedfast.store.layouts import row_layout
from store_content import table

GOLDEN = Path(__file__).parent / "data" / "model_store_v2"
DIMS = (1, 4, 7)


def write(store: ModelStore, dim: int, layouts: tuple[Layout, ...] = LAYOUTS) -> OpenedModel:
    writer = store.writer("feed")
    for layout in layouts:
        writer.add_table(layout, encode_table(table(40, dim, 3), layout), layout=layout, dim=dim)
    writer.publish()
    return store.open("feed", verify="full")


def decoded(opened: OpenedModel, layout: Layout) -> NDArray[np.float32]:
    """The values of a stored table, without the code under test."""
    rows, dim = opened.table(layout), opened.section(layout, "table").shape[1]
    if layout == "bfloat16":
        return rows.view(ml_dtypes.bfloat16).astype(np.float32)
    if rows.dtype != np.uint8:
        return rows.astype(np.float32)
    bits = 8 if layout == "int8_rowwise" else 4
    return ff.QuantizedTable(rows, bits, dim=dim).dequantize()


@pytest.mark.parametrize("dim", DIMS)
def test_every_layout_is_kept_and_pooled_where_it_lies(tmp_path: Path, dim: int) -> None:
    opened = write(ModelStore(tmp_path), dim)
    values = np.array([0, 39, 3, 3, 17])
    offsets = np.array([0, 2, 2, 5])
    for layout in LAYOUTS:
        encoded = encode_table(table(40, dim, 3), layout)
        np.testing.assert_array_equal(opened.table(layout), encoded)
        section = opened.section(layout, "table")
        assert section.shape == (40, dim)
        assert section.row_bytes == encoded.strides[0]
        view = opened.table_view(layout)
        assert (view.num_rows, view.dim) == (40, dim)
        want = ff.pooled_lookup(decoded(opened, layout), values, offsets)
        got = _core.pooled_lookup(view, values, offsets, None, pooling="sum", threads=1)
        # The fused multiply of codes rounds once less than decode and add.
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert opened.manifest.format_version == 2
    for layout, dtype in (("float32", None), ("float16", None), ("bfloat16", "bf16")):
        pooled = ff.pooled_lookup(opened.table(layout), values, offsets, dtype=dtype)  # type: ignore[arg-type]
        view = opened.table_view(layout)
        same = _core.pooled_lookup(view, values, offsets, None, pooling="sum", threads=1)
        np.testing.assert_array_equal(pooled, same)


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    rng = np.random.default_rng(5)
    numbers = rng.integers(0, 1 << 32, 200_000, dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        want = numbers.astype(ml_dtypes.bfloat16)
    kept = np.isfinite(want.astype(np.float32))
    encoded = encode_table(numbers[kept][:, np.newaxis], "bfloat16")
    np.testing.assert_array_equal(encoded[:, 0], want[kept].view(np.uint16))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.4e38, 70_000.0])
@pytest.mark.parametrize("layout", ["float16", "bfloat16"])
def test_what_a_layout_cannot_hold_is_refused(layout: Layout, bad: float) -> None:
    numbers = np.zeros((70_000, 2), np.float32)
    numbers[69_999, 1] = bad
    if layout == "bfloat16" and bad == 70_000.0:
        assert encode_table(numbers, layout)[69_999, 1] != 0
        return
    with pytest.raises(ValueError, match=rf"table\[69999, 1\] = .* is not a finite {layout}"):
        encode_table(numbers, layout)


def test_encode_table_refuses_other_arrays() -> None:
    with pytest.raises(ValueError, match="layout 'fp8' is unknown; allowed: float32, float16"):
        encode_table(np.zeros((1, 1), np.float32), "fp8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="table must be float32"):
        encode_table(np.zeros((1, 1)), "float16")  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_another_layout_are_refused(tmp_path: Path, layout: Layout) -> None:
    writer = ModelStore(tmp_path).writer("feed")
    arrays: list[NDArray[Any]] = [
        np.zeros((2, 8), dtype) for dtype in (np.float32, np.float16, np.uint16, np.uint8)
    ]
    for array in arrays:
        if array.dtype != row_layout(layout).dtype:
            with pytest.raises(ValueError, match=f"a table of layout '{layout}' is "):
                writer.add_table("table", array, layout=layout)
    right = np.zeros((2, 8), row_layout(layout).dtype)
    for dim in (0, 2, 9):
        with pytest.raises(ValueError, match=f"8 columns of layout '{layout}' do not hold dim"):
            writer.add_table("table", right, layout=layout, dim=dim)
    writer.add_table("table", right, layout=layout)


def test_bfloat16_and_int8_tensors(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    numbers = table(3, 5)
    writer = store.writer("feed")
    writer.add_tensors(
        "towers",
        {
            "a": numbers.astype(ml_dtypes.bfloat16),
            "b": numbers.astype(ml_dtypes.bfloat16).view(np.uint16),
            "c": np.arange(-4, 4, dtype=np.int8),
            "d": numbers,
        },
    )
    writer.publish()
    opened = store.open("feed", verify="full")
    tensors = opened.tensors("towers")
    for name in ("a", "b"):
        assert tensors[name].dtype == np.uint16
        np.testing.assert_array_equal(
            tensors[name].view(ml_dtypes.bfloat16), numbers.astype(ml_dtypes.bfloat16)
        )
    np.testing.assert_array_equal(tensors["c"], np.arange(-4, 4))
    np.testing.assert_array_equal(tensors["d"], numbers)
    assert opened.manifest.format_version == 2
    # Other tools see what is meant.
    (blob,) = opened.manifest.sections["towers"].blobs
    loaded = safetensors.numpy.load_file(tmp_path / "blobs" / blob.sha256)
    assert loaded["a"].dtype == ml_dtypes.bfloat16
    assert loaded["c"].dtype == np.int8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_format_version_is_the_lowest_that_has_everything(
    tmp_path: Path, layout: Layout
) -> None:
    opened = write(ModelStore(tmp_path), 4, (layout,))
    old = layout in ("float32", "int8_rowwise")
    assert opened.manifest.format_version == (1 if old else 2)
    path = tmp_path / "models" / "feed" / "000001" / "manifest.json"
    assert json.loads(path.read_text())["format_version"] == opened.manifest.format_version


def test_the_second_format_version_stays_readable() -> None:
    """Written with `write(ModelStore(GOLDEN), 7)` and two tensors; never rewrite it."""
    store = ModelStore(GOLDEN)
    opened = store.open("feed", 1, verify="full")
    for layout in LAYOUTS:
        np.testing.assert_array_equal(
            opened.table(layout), encode_table(table(40, 7, 3), layout), err_msg=layout
        )
        assert opened.table_view(layout).dim == 7
    tensors = store.open("tensors", 1, verify="full").tensors("towers")
    np.testing.assert_array_equal(
        tensors["bf16"].view(ml_dtypes.bfloat16), np.arange(6, dtype=ml_dtypes.bfloat16)
    )
    np.testing.assert_array_equal(tensors["i8"], np.arange(-3, 3, dtype=np.int8))
