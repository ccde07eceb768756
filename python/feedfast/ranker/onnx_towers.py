"""The dense part of a ranker as an ONNX model: from the input vector to probabilities."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.cross_network import CrossWeights
from feedfast.gated_mlp import GatedLayer
from feedfast.ranker.export import require_towers_alone
from feedfast.ranker_artifact import RankerArtifact
from feedfast.ranker_description import tower_objectives
from feedfast.store import files

# Understood by ONNX Runtime 1.15 and newer.
_OPSET, _IR_VERSION = 17, 9
# A serialised model is one protocol buffer, which cannot be larger.
_MAX_BYTES = 2 << 30


def save_towers(artifact: RankerArtifact, path: str | os.PathLike[str]) -> None:
    """Writes the towers as `vectors` [rows, inputs] -> `probabilities` [rows, objectives], float32.

    A cross network goes with them.

    What comes before them, vocabularies, tables and forest, is not in it: the columns of `vectors`
    are `RankerArtifact.layout`, and the signature `inputs` of the SavedModel computes them.
    Probabilities are those of the scorer to 1e-5. The file appears whole or not at all.

    Args:
        artifact: The ranker.
        path: File to write; an existing one is replaced.

    Raises:
        ValueError: The ranker has calibrators or random effects, which need more than the vector,
            or the towers are too large for one ONNX file.
        ImportError: The package onnx is not installed; the message says how to install it.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ModuleNotFoundError as error:
        raise ImportError(
            "the ONNX export needs onnx; install it with: pip install 'feedfast[onnx]'"
        ) from error
    require_towers_alone(artifact, "an ONNX model")
    graph = _Graph(onnx)
    crossed = "vectors"
    for index, cross in enumerate(artifact.cross):
        crossed = graph.cross("vectors", crossed, cross, f"cross/{index}")
    heads, names = [], []
    for tower, layers in artifact.towers.items():
        x = crossed
        for index, layer in enumerate(layers):
            x = graph.layer(x, layer, f"{tower}/{index}")
        heads.append(x)
        names += tower_objectives(artifact.utility)[tower]
    logits = graph.node("Concat", heads, "towers", axis=1)
    order = np.array([names.index(o.name) for o in artifact.utility.objectives], dtype=np.int64)
    ordered = graph.node("Gather", [logits, graph.constant(order, "order")], "logits", axis=1)
    graph.node("Sigmoid", [ordered], "probabilities")
    if graph.num_bytes >= _MAX_BYTES:
        raise ValueError(
            f"the towers have {graph.num_bytes:,} bytes; an ONNX file holds below {_MAX_BYTES:,}"
        )
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "towers",
            [
                helper.make_tensor_value_info(
                    "vectors", TensorProto.FLOAT, ["rows", artifact.layout.num_inputs]
                )
            ],
            [
                helper.make_tensor_value_info(
                    "probabilities", TensorProto.FLOAT, ["rows", len(order)]
                )
            ],
            graph.tensors,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        producer_name="feedfast",
    )
    model.ir_version = _IR_VERSION
    for objective in artifact.utility.objectives:
        entry = model.metadata_props.add()
        entry.key, entry.value = f"objective/{objective.name}", objective.group
    onnx.checker.check_model(model)
    files.replace_durably(Path(path), [model.SerializeToString()])


class _Graph:
    """Nodes and constants of an ONNX graph; values are known by their names."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.num_bytes = 0

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, array: NDArray[Any], name: str) -> str:
        self.tensors.append(self._onnx.numpy_helper.from_array(array, name))
        self.num_bytes += array.nbytes
        return name

    def cross(self, x0: str, x: str, layer: CrossWeights, name: str) -> str:
        factors = [layer.weight] if layer.down is None else [layer.down, layer.weight]
        crossed = self._affine(x, factors, layer.bias, name)
        return self.node("Add", [self.node("Mul", [x0, crossed], f"{name}/mul"), x], f"{name}/out")

    def layer(self, x: str, layer: GatedLayer, name: str) -> str:
        h = self._affine(x, [layer.weight], layer.bias, name)
        if layer.activation == "relu":
            h = self.node("Relu", [h], f"{name}/relu")
        if layer.gate_weight is None or layer.gate_bias is None:
            return h
        factors = layer.gate_weight if isinstance(layer.gate_weight, tuple) else [layer.gate_weight]
        source = h if layer.gate == "hidden" else x
        gate = self._affine(source, list(factors), layer.gate_bias, f"{name}/gate")
        return self.node("Mul", [h, self.node("Sigmoid", [gate], f"{gate}/open")], f"{name}/out")

    def _affine(
        self, x: str, factors: list[NDArray[np.float32]], bias: NDArray[np.float32], name: str
    ) -> str:
        for index, factor in enumerate(factors):
            weight = self.constant(factor, f"{name}/factor_{index}")
            x = self.node("MatMul", [x, weight], f"{name}/product_{index}")
        return self.node("Add", [x, self.constant(bias, f"{name}/bias")], name)
