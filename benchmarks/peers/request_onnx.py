"""The towers of request_model in ONNX Runtime: float32, and int8 by its dynamic quantisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from feedfast.gated_mlp import GatedLayer

NAME = f"onnxruntime {onnxruntime.__version__}"
PRECISIONS = ("fp32", "int8")


def save_towers(towers: Mapping[str, Sequence[GatedLayer]], folder: Path, precision: str) -> Path:
    """Writes x [rows, inputs] -> logits [rows, outputs of all towers]; returns the file."""
    path = folder / "towers_fp32.onnx"
    if not path.exists():
        onnx.save(_graph(towers), path)
    if precision == "fp32":
        return path
    quantized = folder / f"towers_{precision}.onnx"
    quantization.quantize_dynamic(path, quantized, per_channel=True)
    return quantized


class Towers:
    """Logits of rows, on a number of threads."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run(None, {"x": x})[0]
        return logits


def _graph(towers: Mapping[str, Sequence[GatedLayer]]) -> onnx.ModelProto:
    nodes, tensors, heads = [], [], []
    num_inputs = num_outputs = 0

    def product(x: str, weight: NDArray[np.float32], bias: NDArray[np.float32], name: str) -> str:
        tensors.append(numpy_helper.from_array(weight, f"{name}/weight"))
        tensors.append(numpy_helper.from_array(bias, f"{name}/bias"))
        # MatMul and Add, which dynamic quantisation knows; the runtime fuses them.
        nodes.append(helper.make_node("MatMul", [x, f"{name}/weight"], [f"{name}/product"]))
        nodes.append(helper.make_node("Add", [f"{name}/product", f"{name}/bias"], [name]))
        return name

    def apply(kind: str, inputs: list[str], name: str) -> str:
        nodes.append(helper.make_node(kind, inputs, [name]))
        return name

    for tower, layers in towers.items():
        x = "x"
        for index, layer in enumerate(layers[:-1]):
            name = f"{tower}/{index}"
            hidden = apply("Relu", [product(x, layer.weight, layer.bias, name)], f"{name}/relu")
            gate = product(hidden, layer.gate_weight, layer.gate_bias, f"{name}/gate")
            x = apply("Mul", [hidden, apply("Sigmoid", [gate], f"{gate}/open")], f"{name}/out")
        heads.append(product(x, layers[-1].weight, layers[-1].bias, f"{tower}/head"))
        num_inputs = layers[0].num_inputs
        num_outputs += layers[-1].units
    nodes.append(helper.make_node("Concat", heads, ["logits"], axis=1))
    graph = helper.make_graph(
        nodes,
        "towers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", num_inputs])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", num_outputs])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model
