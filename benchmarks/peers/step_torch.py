"""A training step of one table in torch and FBGEMM, as a process of its own.

`feedfast bench step` runs this file with the interpreter that FEEDFAST_LOOKUP_PEERS names: one with
torch 2.13.0 (CPU) and fbgemm-gpu-cpu 1.8.0. Every line on standard input is a request, every answer
a line of JSON:

    {"setup": kind, "rows": n, "dim": d, "bag_length": l, "threads": k, "batches": path}
        builds a table of zeros; answers {"package": "torch 2.13.0"}
    {"run": calls}
        that many steps on the next batches; answers {"seconds": [of each]}

Kinds: torch/<sgd|adagrad|adam>, EmbeddingBag(sparse=True) with the optimizer of torch.optim;
fbgemm/<sgd|adagrad|rowwise_adagrad>/<float32|float16>, where the update is part of the backward
pass. Pooling is sum and the gradient of every pooled vector 1, as in the loss sum(pooled).
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def torch_step(optimizer: str, rows: int, dim: int) -> Callable[[Any, Any, Any], None]:
    bag = torch.nn.EmbeddingBag(
        rows,
        dim,
        mode="sum",
        sparse=True,
        include_last_offset=True,
        _weight=torch.zeros(rows, dim),
    )
    update = {
        "sgd": lambda: torch.optim.SGD(bag.parameters(), lr=0.01),
        "adagrad": lambda: torch.optim.Adagrad(
            bag.parameters(), lr=0.01, initial_accumulator_value=0.1
        ),
        "adam": lambda: torch.optim.SparseAdam(list(bag.parameters()), lr=0.01),
    }[optimizer]()

    def step(values: Any, offsets: Any, grad: Any) -> None:
        update.zero_grad(set_to_none=True)
        bag(values, offsets).backward(grad)
        update.step()

    return step


def fbgemm_step(optimizer: str, dtype: str, rows: int, dim: int) -> Callable[[Any, Any, Any], None]:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer={
            "sgd": EmbOptimType.EXACT_SGD,
            "adagrad": EmbOptimType.EXACT_ADAGRAD,
            "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        }[optimizer],
        weights_precision=SparseType.FP32 if dtype == "float32" else SparseType.FP16,
        pooling_mode=PoolingMode.SUM,
        learning_rate=0.01,
        eps=1e-7,
    )
    for weights in table.split_embedding_weights():
        weights.zero_()  # and touches the pages

    def step(values: Any, offsets: Any, grad: Any) -> None:
        table(values, offsets).backward(grad)

    return step


def setup(request: dict[str, Any]) -> tuple[Callable[[], None], str]:
    """One step on the next batch, and the package that does it."""
    torch.set_num_threads(request["threads"])
    package, optimizer, *dtype = request["setup"].split("/")
    rows, dim, length = request["rows"], request["dim"], request["bag_length"]
    batches = [torch.from_numpy(values) for values in np.load(request["batches"])]
    offsets = torch.arange(0, len(batches[0]) + 1, length)
    grad = torch.ones(len(offsets) - 1, dim)
    if package == "torch":
        step = torch_step(optimizer, rows, dim)
    else:
        step = fbgemm_step(optimizer, *dtype, rows, dim)
    following = itertools.cycle(batches)
    name = {"torch": "torch", "fbgemm": "fbgemm-gpu-cpu"}[package]
    return lambda: step(next(following), offsets, grad), name


def main() -> None:
    step: Callable[[], None] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if "setup" in request:
            step = None  # frees the table of the one before
            step, package = setup(request)
            answer: dict[str, Any] = {"package": f"{package} {importlib.metadata.version(package)}"}
        else:
            assert step is not None
            seconds = []
            for _ in range(request["run"]):
                before = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - before)
            answer = {"seconds": seconds}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
