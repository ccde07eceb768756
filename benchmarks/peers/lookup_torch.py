"""torch EmbeddingBag and FBGEMM's table-batched embeddings, as a process of their own.

`feedfast bench lookup` runs this file with the interpreter that FEEDFAST_LOOKUP_PEERS names: one
with torch 2.13.0 (CPU) and fbgemm-gpu-cpu 1.8.0, which need not know feedfast. Every line on
standard input is a request, every answer a line of JSON:

    {"setup": kind, "rows": n, "dim": d, "tables": t, "threads": k, "batches": path}
        builds tables of seeded numbers; answers {"package": "torch 2.13.0"}
    {"run": i}
        looks batch i of the file up; answers {"seconds": s, "sum": total of the output}

Kinds: torch/fp32, torch/bf16 (EmbeddingBag, one table), fbgemm/fp32 (training), fbgemm/fp16,
fbgemm/int8, fbgemm/int4 (inference). Pooling is mean.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def table(rows: int, dim: int, index: int) -> np.ndarray:
    """Table `index` of a workload, the same on both sides."""
    rng = np.random.default_rng(index)
    values = rng.random((rows, dim), dtype=np.float32)
    values -= 0.5
    return values


def embedding_bag(kind: str, rows: int, dim: int) -> Callable[[Any, Any], torch.Tensor]:
    weights = torch.from_numpy(table(rows, dim, 0))
    if kind == "torch/bf16":
        weights = weights.to(torch.bfloat16)
    bag = torch.nn.EmbeddingBag.from_pretrained(weights, mode="mean", include_last_offset=True)
    return bag


def pack(kind: str, weights: np.ndarray) -> np.ndarray:
    """Rows of bytes: halves, or half scale, half bias and codes."""
    if kind == "fbgemm/fp16":
        return weights.astype(np.float16).view(np.uint8)
    levels = 255 if kind == "fbgemm/int8" else 15
    bias = weights.min(1, keepdims=True).astype(np.float16)
    scale = ((weights.max(1, keepdims=True) - bias) / levels).astype(np.float16)
    weights -= bias
    weights /= scale
    codes = np.clip(np.rint(weights, out=weights), 0, levels).astype(np.uint8)
    if kind == "fbgemm/int4":
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    return np.concatenate([np.concatenate([scale, bias], 1).view(np.uint8), codes], 1)


def table_batched(kind: str, rows: int, dim: int, tables: int) -> Callable[[Any, Any], Any]:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
        IntNBitTableBatchedEmbeddingBagsCodegen,
    )
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    if kind == "fbgemm/fp32":
        training = SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)] * tables,
            optimizer=EmbOptimType.EXACT_SGD,
            weights_precision=SparseType.FP32,
            pooling_mode=PoolingMode.MEAN,
        )
        for index, weights in enumerate(training.split_embedding_weights()):
            weights.copy_(torch.from_numpy(table(rows, dim, index)))
        return training
    precision = {
        "fbgemm/fp16": SparseType.FP16,
        "fbgemm/int8": SparseType.INT8,
        "fbgemm/int4": SparseType.INT4,
    }[kind]
    inference = IntNBitTableBatchedEmbeddingBagsCodegen(
        [(str(t), rows, dim, precision, EmbeddingLocation.HOST) for t in range(tables)],
        pooling_mode=PoolingMode.MEAN,
        device="cpu",
        output_dtype=SparseType.FP32,
    )
    inference.initialize_weights()
    for index, (rows_of_bytes, _) in enumerate(inference.split_embedding_weights(False)):
        packed = pack(kind, table(rows, dim, index))
        rows_of_bytes[:, : packed.shape[1]].copy_(torch.from_numpy(packed))

    def lookup(values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return inference(values.int(), offsets.int())

    return lookup


def setup(request: dict[str, Any]) -> tuple[Callable[[Any, Any], Any], list[Any], str]:
    """The lookup, the batches (values, offsets), and the package that does it."""
    kind = request["setup"]
    torch.set_num_threads(request["threads"])
    with np.load(request["batches"]) as arrays:
        offsets = torch.from_numpy(arrays["offsets"])
        batches = [(torch.from_numpy(values), offsets) for values in arrays["values"]]
    if kind.startswith("torch/"):
        return embedding_bag(kind, request["rows"], request["dim"]), batches, "torch"
    lookup = table_batched(kind, request["rows"], request["dim"], request["tables"])
    if kind != "fbgemm/fp32":  # their ids are int32: converted before anything is timed
        batches = [(values.int(), offsets.int()) for values, offsets in batches]
    return lookup, batches, "fbgemm-gpu-cpu"


def main() -> None:
    lookup: Callable[[Any, Any], Any] | None = None
    batches: list[Any] = []
    for line in sys.stdin:
        request = json.loads(line)
        if "setup" in request:
            lookup = None  # frees the tables of the one before
            lookup, batches, package = setup(request)
            answer: dict[str, Any] = {"package": f"{package} {importlib.metadata.version(package)}"}
        else:
            assert lookup is not None
            values, offsets = batches[request["run"] % len(batches)]
            with torch.no_grad():
                before = time.perf_counter()
                pooled = lookup(values, offsets)
                seconds = time.perf_counter() - before
            answer = {"seconds": seconds, "sum": float(pooled.double().sum())}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
