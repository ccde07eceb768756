from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from feedfast.gated_mlp import GatedLayer, GatedMLP

FloatArray = NDArray[np.float32]
PRECISIONS = ("fp32", "bf16", "int8")
GATES = ("hidden", "input", None)


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-x))


def reference(layers: list[GatedLayer], x: NDArray[np.floating]) -> NDArray[np.float64]:
    """The formulas of GatedLayer, in float64."""
    y = x.astype(np.float64)
    for layer in layers:
        h = y @ layer.weight + layer.bias
        if layer.activation == "relu":
            h = np.maximum(h, 0)
        if layer.gate is None:
            y = h
            continue
        source = h if layer.gate == "hidden" else y
        weight = layer.gate_weight
        gate = source @ weight[0] @ weight[1] if isinstance(weight, tuple) else source @ weight
        y = h * sigmoid(gate + layer.gate_bias)
    return y


def make_layer(
    rng: np.random.Generator,
    num_inputs: int,
    units: int,
    gate: str | None,
    *,
    rank: int = 0,
    activation: str = "relu",
) -> GatedLayer:
    def normal(*shape: int) -> FloatArray:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    source = units if gate == "hidden" else num_inputs
    gate_weight = (normal(source, rank), normal(rank, units)) if rank else normal(source, units)
    return GatedLayer(
        normal(num_inputs, units),
        normal(units),
        gate_weight=gate_weight if gate else None,
        gate_bias=normal(units) if gate else None,
        gate=gate,
        activation=activation,
    )


def make_stack(rng: np.random.Generator) -> list[GatedLayer]:
    return [
        make_layer(rng, 33, 70, "hidden"),
        make_layer(rng, 70, 17, "input"),
        make_layer(rng, 17, 40, "hidden", rank=3),
        make_layer(rng, 40, 5, None, activation="linear"),
    ]


@pytest.mark.usefixtures("cpu_target")
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_layer_matches_reference(gate: str | None, rank: int, activation: str) -> None:
    rng = np.random.default_rng(20_240_601)
    for num_inputs, units in [(1, 1), (3, 17), (33, 100), (64, 64)]:
        layer = make_layer(rng, num_inputs, units, gate, rank=rank, activation=activation)
        for batch in (1, 2, 31):
            x = rng.standard_normal((batch, num_inputs), dtype=np.float32)
            # float32 sums of at most 100 terms near 1
            np.testing.assert_allclose(GatedMLP([layer])(x), reference([layer], x), atol=1e-5)


@pytest.mark.usefixtures("cpu_target")
def test_stack_matches_reference() -> None:
    rng = np.random.default_rng(1)
    layers = make_stack(rng)
    x = rng.standard_normal((150, 33), dtype=np.float32)
    out = GatedMLP(layers)(x)
    assert out.shape == (150, 5)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, reference(layers, x), atol=1e-5)


@pytest.mark.usefixtures("cpu_target")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_do_not_depend_on_batch_threads_or_layout(precision: str) -> None:
    rng = np.random.default_rng(2)
    mlp = GatedMLP(make_stack(rng), precision, num_shared=7)
    x = rng.standard_normal((130, 33), dtype=np.float32)
    want = mlp(x)
    np.testing.assert_array_equal(np.concatenate([mlp(row[None]) for row in x]), want)
    np.testing.assert_array_equal(mlp(np.asfortranarray(x)), want)
    for threads in (2, 3):
        np.testing.assert_array_equal(mlp(x, threads=threads), want)


def test_empty_batch() -> None:
    mlp = GatedMLP(make_stack(np.random.default_rng(3)))
    assert mlp(np.empty((0, 33), np.float32)).shape == (0, 5)


def test_nan_reaches_its_own_row_alone() -> None:
    rng = np.random.default_rng(4)
    mlp = GatedMLP(make_stack(rng))
    x = rng.standard_normal((5, 33), dtype=np.float32)
    x[2, 7] = np.nan
    np.testing.assert_array_equal(np.isnan(mlp(x)).all(axis=1), [False, False, True, False, False])
    assert not np.isnan(mlp(x)[[0, 1, 3, 4]]).any()


def test_pickles() -> None:
    rng = np.random.default_rng(5)
    mlp = GatedMLP(make_stack(rng))
    x = rng.standard_normal((4, 33), dtype=np.float32)
    again = pickle.loads(pickle.dumps(mlp))
    np.testing.assert_array_equal(again(x), mlp(x))
    assert repr(again) == "GatedMLP(33 -> 70 -> 17 -> 40 -> 5, precision='fp32')"


def test_many_threads_may_call_at_a_time() -> None:
    rng = np.random.default_rng(6)
    mlp = GatedMLP(make_stack(rng))
    x = rng.standard_normal((64, 33), dtype=np.float32)
    want = mlp(x)
    results: list[FloatArray] = []
    workers = [threading.Thread(target=lambda: results.append(mlp(x))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 8
    for result in results:
        np.testing.assert_array_equal(result, want)


def test_sizes_are_reported() -> None:
    layer = make_layer(np.random.default_rng(7), 10, 16, "hidden")
    mlp = GatedMLP([layer])
    assert (mlp.num_inputs, mlp.units, mlp.precision) == (10, 16, "fp32")
    assert mlp.nbytes == 4 * (10 * 16 + 16 + 16 * 16 + 16)
    assert mlp.layers == (layer,)


def floats(*shape: int) -> FloatArray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gate": "both"}, "gate must be 'hidden', 'input' or None; got 'both'"),
        ({"activation": "gelu"}, "activation must be 'relu' or 'linear'; got 'gelu'"),
        ({"weight": floats(4)}, r"weight must have shape \[>= 1, >= 1\]; got \[4\]"),
        ({"weight": floats(0, 3)}, r"weight must have shape \[>= 1, >= 1\]; got \[0, 3\]"),
        ({"weight": floats(4, 0)}, r"weight must have shape \[>= 1, >= 1\]; got \[4, 0\]"),
        ({"bias": floats(4)}, r"bias must have shape \[3\]; got \[4\]"),
        ({"gate": None}, "gate_weight and gate_bias need gate='hidden' or gate='input'"),
        ({"gate_bias": None}, "gate='hidden' needs gate_weight and gate_bias"),
        ({"gate_weight": floats(4, 3)}, r"gate_weight must have shape \[3, 3\]; got \[4, 3\]"),
        ({"gate": "input"}, r"gate_weight must have shape \[4, 3\]; got \[3, 3\]"),
        ({"gate_weight": (floats(3, 2),)}, "gate_weight must have 2 factors; got 1"),
        (
            {"gate_weight": (floats(3, 2), floats(3, 2))},
            r"gate_weight\[1\] must have shape \[2, 3\]; got \[3, 2\]",
        ),
        (
            {"gate_weight": (floats(3, 0), floats(0, 3))},
            r"gate_weight\[0\] must have shape \[3, >= 1\]; got \[3, 0\]",
        ),
    ],
)
def test_layer_refuses(arguments: dict[str, object], message: str) -> None:
    good = {
        "weight": floats(4, 3),
        "bias": floats(3),
        "gate_weight": floats(3, 3),
        "gate_bias": floats(3),
        "gate": "hidden",
    }
    GatedLayer(**good)
    with pytest.raises(ValueError, match=message):
        GatedLayer(**{**good, **arguments})


def test_layer_refuses_what_holds_no_floats() -> None:
    with pytest.raises(
        TypeError, match="weight must hold floats, bfloat16 or int8; got dtype int64"
    ):
        GatedLayer(np.zeros((4, 3), int), floats(3))
    with pytest.raises(TypeError, match="bias is required; got None"):
        GatedLayer(floats(4, 3), None)
    with pytest.raises(TypeError, match=r"gate_weight\[1\] is required; got None"):
        GatedLayer(floats(4, 3), floats(3), (floats(3, 2), None), floats(3), "hidden")


def test_layers_are_described_without_their_weights() -> None:
    layer = GatedLayer(floats(400, 3), floats(3), activation="linear")
    assert repr(layer) == "GatedLayer(400 -> 3, gate=None, activation='linear')"
    layer = GatedLayer(floats(4, 3), floats(3), (floats(3, 2), floats(2, 3)), floats(3), "hidden")
    assert repr(layer) == "GatedLayer(4 -> 3, gate='hidden', rank=2, activation='relu')"


def test_stack_refuses() -> None:
    layer = make_layer(np.random.default_rng(8), 4, 3, None)
    with pytest.raises(ValueError, match="layers is empty; at least one layer is needed"):
        GatedMLP([])
    with pytest.raises(ValueError, match="layer 1: weight has 4 rows, but the layer before it has"):
        GatedMLP([layer, layer])
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, int8; got 'fp16'"):
        GatedMLP([layer], precision="fp16")
    with pytest.raises(ValueError, match="num_shared must be between 0 and the 4 inputs of the"):
        GatedMLP([layer], num_shared=5)
    mlp = GatedMLP([layer])
    with pytest.raises(ValueError, match="x has 3 columns; the first layer takes 4"):
        mlp(floats(2, 3))
    with pytest.raises(ValueError, match="x must have 2 dimensions; got 1"):
        mlp(floats(4))
    for rows, found in ((np.zeros((2, 4)), "float64"), ([[0.0] * 4], "float64"), (None, "object")):
        with pytest.raises(TypeError, match=f"x must be float32; got {found}"):
            mlp(rows)
    with pytest.raises(ValueError, match="threads must be at least 1; got 0"):
        mlp(floats(2, 4), threads=0)
