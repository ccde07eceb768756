"""torch EmbeddingBag and FBGEMM's table-batched embeddings, as a process of their own.

`feedfast bench lookup` runs this file with the interpreter that FEEDFAST_LOOKUP_PEERS names: one
with torch 2.13.0 (CPU) and fbgemm-gpu-cpu 1.8.0, which need not know feedfast. Every line on
standard input is a request, every answer a line of JSON:

    {"setup": kind, "rows": n, "dim": d, "tables": t, "huge": true, "threads": k, "batches": path}
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
from unittest import mock

import numpy as np
import torch
from lookup_tables import Memory

MEMORY = Memory()


def embedding_bag(tables: np.ndarray, storage: str) -> Callable[[Any, Any], torch.Tensor]:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[storage]
    weights = torch.from_numpy(tables[0]).view(dtype)
    return torch.nn.EmbeddingBag.from_pretrained(weights, mode="mean", include_last_offset=True)


def zeros_untouched(*size: Any, dtype: torch.dtype | None = None, device: Any = None) -> Any:
    """torch.zeros whose memory the system gives when it is written to: never, here."""
    del device
    name = str(dtype or torch.float32).removeprefix("torch.")
    return torch.from_numpy(np.zeros(size[0] if len(size) == 1 else size, name))


def table_batched(tables: np.ndarray, storage: str, dim: int) -> Callable[[Any, Any], Any]:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
        IntNBitTableBatchedEmbeddingBagsCodegen,
    )
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    count, rows, _ = tables.shape
    weights = torch.from_numpy(tables.reshape(-1))
    if storage == "fp32":
        with mock.patch.object(torch, "zeros", zeros_untouched):
            training = SplitTableBatchedEmbeddingBagsCodegen(
                [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)] * count,
                optimizer=EmbOptimType.EXACT_SGD,
                weights_precision=SparseType.FP32,
                pooling_mode=PoolingMode.MEAN,
            )
        if training.weights_host.numel() != rows * dim * count:
            raise RuntimeError("FBGEMM lays its tables out otherwise")
        training.weights_host.data = weights.view(torch.float32)
        return training
    precision = {"fp16": SparseType.FP16, "int8": SparseType.INT8, "int4": SparseType.INT4}[storage]
    inference = IntNBitTableBatchedEmbeddingBagsCodegen(
        [(str(t), rows, dim, precision, EmbeddingLocation.HOST) for t in range(count)],
        pooling_mode=PoolingMode.MEAN,
        device="cpu",
        output_dtype=SparseType.FP32,
    )
    with mock.patch.object(torch, "zeros", zeros_untouched):
        inference.initialize_weights()
    if inference.weights_host.numel() != tables.size:
        raise RuntimeError("FBGEMM lays its tables out otherwise")
    inference.weights_host = weights

    def lookup(values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return inference(values.int(), offsets.int())

    return lookup


def setup(request: dict[str, Any]) -> tuple[Callable[[Any, Any], Any], list[Any], str]:
    """The lookup, the batches (values, offsets), and the package that does it."""
    package, storage = request["setup"].split("/")
    torch.set_num_threads(request["threads"])
    with np.load(request["batches"]) as arrays:
        offsets = torch.from_numpy(arrays["offsets"])
        batches = [(torch.from_numpy(values), offsets) for values in arrays["values"]]
    tables = MEMORY.tables(
        storage, request["rows"], request["dim"], huge=request["huge"], count=request["tables"]
    )
    if package == "torch":
        return embedding_bag(tables, storage), batches, "torch"
    lookup = table_batched(tables, storage, request["dim"])
    if storage != "fp32":  # their ids are int32: converted before anything is timed
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
