from __future__ import annotations

import pickle

import ml_dtypes
import numpy as np
import pytest

from feedfast.gated_mlp import GatedLayer, GatedMLP, precision_report
from test_gated_mlp import make_layer, make_stack, reference

LOW = ("bf16", "int8")


def widened(layer: GatedLayer) -> GatedLayer:
    return layer.to("fp32")


def test_bf16_weights_are_those_of_ml_dtypes() -> None:
    layer = make_layer(np.random.default_rng(0), 40, 30, "hidden", rank=4)
    low = layer.to("bf16")
    assert low.precision == "bf16"
    want = layer.weight.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(low.weight, want.view(np.uint16))
    np.testing.assert_array_equal(low.to("fp32").weight, want.astype(np.float32))
    again = GatedLayer(want, layer.bias)
    np.testing.assert_array_equal(again.weight, low.weight)
    assert again.precision == "bf16"


def test_int8_weights_are_symmetric_per_output() -> None:
    layer = make_layer(np.random.default_rng(1), 40, 30, "input")
    low = layer.to("int8")
    scale = np.abs(layer.weight).max(axis=0) / np.float32(127)
    np.testing.assert_array_equal(low.weight_scale, scale)
    np.testing.assert_array_equal(low.weight, np.rint(layer.weight / scale))
    assert np.abs(widened(low).weight - layer.weight).max() <= scale.max() * 0.5001
    assert low.nbytes == 2 * (40 * 30 + 4 * 30) + 2 * 4 * 30


@pytest.mark.usefixtures("cpu_target")
@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("gate", ["hidden", "input", None])
@pytest.mark.parametrize("rank", [0, 4])
def test_layer_is_near_its_widened_self(precision: str, gate: str | None, rank: int) -> None:
    rng = np.random.default_rng(2)
    layer = make_layer(rng, 100, 60, gate, rank=rank)
    x = rng.standard_normal((50, 100), dtype=np.float32)
    low = layer.to(precision)
    got = GatedMLP([low], num_shared=30)(x)
    want = reference([widened(low)], x)
    # What is left is the rounding of inputs: 2^-9 of each, or half of 1/255 of their range.
    assert np.abs(got - want).max() < 0.1
    assert np.sqrt(np.mean((got - want) ** 2)) < 0.012


@pytest.mark.parametrize("precision", LOW)
def test_stack_converts_its_fp32_layers(precision: str) -> None:
    rng = np.random.default_rng(3)
    layers = make_stack(rng)
    mlp = GatedMLP(layers, precision)
    assert mlp.precision == precision
    assert {layer.precision for layer in mlp.layers} == {precision}
    x = rng.standard_normal((20, 33), dtype=np.float32)
    np.testing.assert_allclose(mlp(x), reference(layers, x), atol=0.1)
    mixed = GatedMLP([layers[0].to("bf16"), *layers[1:]], "int8")
    assert [layer.precision for layer in mixed.layers] == ["bf16", "int8", "int8", "int8"]
    assert mixed.precision == "mixed"
    assert GatedMLP(mixed.layers).precision == "mixed"
    assert mlp.nbytes < GatedMLP(layers).nbytes


@pytest.mark.parametrize("precision", ["fp32", *LOW])
def test_arrays_are_stored_and_read(precision: str) -> None:
    for layer in make_stack(np.random.default_rng(4)):
        low = layer.to(precision)
        arrays = low.arrays()
        matrices = {"weight"} | ({"gate_weight"} if layer.gate else set())
        if isinstance(layer.gate_weight, tuple):
            matrices.add("gate_down")
        biases = {"bias"} | ({"gate_bias"} if layer.gate else set())
        scales = {f"{name}_scale" for name in matrices} if precision == "int8" else set()
        assert set(arrays) == matrices | biases | scales
        again = GatedLayer.from_arrays(
            arrays, gate=layer.gate, activation=layer.activation, precision=precision
        )
        assert repr(again) == repr(low)
        for name, array in again.arrays().items():
            np.testing.assert_array_equal(array, arrays[name])


def test_pickles_with_its_precision() -> None:
    rng = np.random.default_rng(5)
    mlp = GatedMLP(make_stack(rng), "int8", num_shared=9)
    x = rng.standard_normal((4, 33), dtype=np.float32)
    again = pickle.loads(pickle.dumps(mlp))
    assert (again.num_shared, again.precision) == (9, "int8")
    np.testing.assert_array_equal(again(x), mlp(x))


def test_a_range_of_its_own_keeps_a_small_prefix() -> None:
    rng = np.random.default_rng(6)
    layer = make_layer(rng, 64, 32, None, activation="linear")
    x = rng.standard_normal((40, 64), dtype=np.float32)
    x[:, :32] *= 0.01
    small = widened(layer).weight.copy()
    small[32:] = 0
    alone = GatedLayer(small, layer.bias, activation="linear")
    want = reference([alone.to("int8").to("fp32")], x)
    together, apart = (
        np.abs(GatedMLP([alone], "int8", num_shared=n)(x) - want).max() for n in (0, 32)
    )
    assert apart < together / 20


def test_report_names_what_each_layer_loses() -> None:
    rng = np.random.default_rng(7)
    layers = make_stack(rng)
    x = rng.standard_normal((200, 33), dtype=np.float32)
    fp32, bf16, int8 = (precision_report(layers, x, p) for p in ("fp32", "bf16", "int8"))
    assert [loss.layer for loss in int8] == [0, 1, 2, 3]
    assert all(loss.own_max == loss.output_max == 0 for loss in fp32)
    for exact, half, byte in zip(fp32, bf16, int8, strict=True):
        assert exact.nbytes > half.nbytes > byte.nbytes
        assert 0 < half.own_rms < byte.own_rms < 0.05
        assert half.own_rms <= half.own_max
        assert 0 < half.output_rms < byte.output_rms < 0.05
    last = int8[-1]
    assert (last.own_max, last.own_rms) == (last.output_max, last.output_rms)
    # A weight that fills its column's range leaves the others a few steps.
    spoiled = layers[1].weight.copy()
    spoiled[0] = 40
    x[:, 0] = 0
    layers[1] = GatedLayer(
        spoiled, layers[1].bias, layers[1].gate_weight, layers[1].gate_bias, "input"
    )
    worse = precision_report(layers, x, "int8")
    assert worse[1].own_rms > 5 * int8[1].own_rms
    assert precision_report(layers, x[:0], "int8")[0].own_max == 0


def test_layer_refuses_weights_that_do_not_fit() -> None:
    layer = make_layer(np.random.default_rng(8), 4, 3, "hidden")
    low = layer.to("int8")
    bits = layer.to("bf16")
    scale = low.weight_scale
    cases = [
        (lambda: GatedLayer(bits.weight, layer.bias), "weight holds uint16: say precision='bf16'"),
        (lambda: GatedLayer(low.weight, layer.bias), "weight holds int8 weights; their scales"),
        (
            lambda: GatedLayer(layer.weight, layer.bias, weight_scale=scale),
            "weight holds fp32 weights, which have no scales",
        ),
        (
            lambda: GatedLayer(low.weight, layer.bias, weight_scale=scale[:2]),
            r"scales of weight must have shape \[3\]; got \[2\]",
        ),
        (
            lambda: GatedLayer(layer.weight, layer.bias, precision="int8"),
            "weight holds fp32 weights; precision says 'int8'",
        ),
        (
            lambda: GatedLayer(
                bits.weight,
                layer.bias,
                layer.gate_weight,
                layer.gate_bias,
                "hidden",
                precision="bf16",
            ),
            "gate_weight holds fp32 weights; precision says 'bf16'",
        ),
        (lambda: layer.to("fp16"), "precision must be one of fp32, bf16, int8; got 'fp16'"),
        (
            lambda: GatedLayer(np.full((2, 1), np.nan), np.zeros(1)).to("int8"),
            r"weight \[0, 0\] = nan has no int8 form; it must be finite",
        ),
        (
            lambda: GatedMLP([GatedLayer(low.weight, layer.bias, weight_scale=-scale)]),
            "layer 0: scale 0 of weight is -.*; it must be finite and not negative",
        ),
    ]
    for build, message in cases:
        with pytest.raises(ValueError, match=message):
            build()
