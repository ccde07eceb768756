from __future__ import annotations

import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from feedfast.cross_network import CrossNetwork, CrossWeights


def reference(layers: list[CrossWeights], x: NDArray[np.floating]) -> NDArray[np.float64]:
    """The formula of CrossWeights, in float64."""
    y = first = x.astype(np.float64)
    for layer in layers:
        source = y if layer.down is None else y @ layer.down
        y = first * (source @ layer.weight + layer.bias) + y
    return y


def make_layers(
    rng: np.random.Generator, size: int, rank: int | None = None, num_layers: int = 3
) -> list[CrossWeights]:
    def normal(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * 0.5 / np.sqrt(shape[0])).astype(np.float32)

    return [
        CrossWeights(normal(rank or size, size), normal(size), normal(size, rank) if rank else None)
        for _ in range(num_layers)
    ]


@pytest.mark.usefixtures("cpu_target")
@pytest.mark.parametrize("rank", [None, 1, 6])
@pytest.mark.parametrize("size", [1, 17, 100])
def test_network_matches_reference(size: int, rank: int | None) -> None:
    rng = np.random.default_rng(0)
    layers = make_layers(rng, size, rank)
    x = rng.standard_normal((31, size), dtype=np.float32)
    want = reference(layers, x)
    np.testing.assert_allclose(CrossNetwork(layers)(x), want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("rank", [None, 6])
@pytest.mark.parametrize(("precision", "loss"), [("bf16", 0.01), ("int8", 0.03)])
def test_precisions_lose_little(precision: str, loss: float, rank: int | None) -> None:
    rng = np.random.default_rng(1)
    layers = make_layers(rng, 90, rank)
    x = rng.standard_normal((200, 90), dtype=np.float32)
    want = reference(layers, x)
    network = CrossNetwork(layers, precision)
    assert network.precision == precision
    assert network.nbytes < CrossNetwork(layers).nbytes
    error = np.sqrt(np.mean((network(x) - want) ** 2) / np.mean(want**2))
    assert 0 < error < loss


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_bits_do_not_depend_on_batch_or_threads(precision: str) -> None:
    rng = np.random.default_rng(2)
    network = CrossNetwork(make_layers(rng, 40, 5), precision)
    x = rng.standard_normal((130, 40), dtype=np.float32)
    want = network(x)
    np.testing.assert_array_equal(np.concatenate([network(row[None]) for row in x]), want)
    np.testing.assert_array_equal(network(np.asfortranarray(x), threads=3), want)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(network))(x), want)
    assert network(x[:0]).shape == (0, 40)
    for layer in network.layers:
        again = CrossWeights.from_arrays(layer.arrays(), precision=layer.precision)
        assert repr(again) == repr(layer) == f"CrossWeights(40, rank=5, precision={precision!r})"
        assert again.nbytes == layer.nbytes


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def test_refuses_what_does_not_fit() -> None:
    for arguments, message in [
        ((zeros(4, 3), zeros(3)), "weight has 4 rows; the layer has 3 outputs"),
        ((zeros(2, 3), zeros(3), zeros(4, 2)), "down has 4 rows; the layer has 3 outputs"),
        ((zeros(5, 3), zeros(3), zeros(3, 2)), r"weight must have shape \[2, >= 1\]; got \[5, 3\]"),
        ((zeros(3, 3), zeros(4)), r"bias must have shape \[3\]; got \[4\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            CrossWeights(*arguments)
    layer = CrossWeights(zeros(3, 3), zeros(3))
    with pytest.raises(ValueError, match="layers is empty; at least one layer is needed"):
        CrossNetwork([])
    with pytest.raises(ValueError, match="layer 1: size is 2, but the layers before have 3"):
        CrossNetwork([layer, CrossWeights(zeros(2, 2), zeros(2))])
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, int8; got 'fp8'"):
        CrossNetwork([layer], "fp8")
    with pytest.raises(ValueError, match="x has 2 columns; the network takes 3"):
        CrossNetwork([layer])(zeros(2, 2))
    with pytest.raises(TypeError, match="x must be float32; got float64"):
        CrossNetwork([layer])(np.zeros((2, 3)))
