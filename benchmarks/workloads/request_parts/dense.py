"""The two towers alone, from the input rows to the logits, beside ONNX Runtime."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import request_model
from numpy.typing import NDArray

from feedfast import GatedMLP
from feedfast.bench import BenchOptions, BenchRow, time_interleaved

from . import common

# Rows to rounds.
SIZES = {1: 1000, 50: 400, 200: 200, 500: 100, 1500: 40}
QUICK_SIZES = {1: 3, 50: 3}
# Largest difference of a logit from float32's, in standard deviations of the logits.
TOLERANCES = {"fp32": 1e-4, "int8": 0.2}


def run(options: BenchOptions) -> Iterator[BenchRow]:
    try:
        import request_onnx
    except ModuleNotFoundError as error:
        logging.getLogger(__name__).warning("request dense: left out, no package %s", error.name)
        return
    rng = np.random.default_rng(0)
    num_inputs = request_model.make_layout().num_inputs
    towers = request_model.make_towers(
        rng, num_inputs, request_model.make_utility(request_model.EIGHT_HEADS)
    )
    with tempfile.TemporaryDirectory() as folder:
        for precision in request_onnx.PRECISIONS:
            stacks = [GatedMLP(layers, precision=precision) for layers in towers.values()]
            peer = request_onnx.Towers(
                request_onnx.save_towers(towers, Path(folder), precision), options.threads
            )

            def ours(x: NDArray[np.float32], stacks: list[GatedMLP] = stacks) -> Any:
                return np.concatenate([mlp(x, threads=options.threads) for mlp in stacks], axis=1)

            for rows, rounds in (QUICK_SIZES if options.quick else SIZES).items():
                x = rng.standard_normal((rows, num_inputs), dtype=np.float32)
                _check(ours, peer, x, TOLERANCES[precision])
                mine, theirs = time_interleaved(
                    [partial(ours, x), partial(peer, x)], repeats=rounds
                )
                yield common.median_row(
                    f"request/dense/candidates={rows}/precision={precision}"
                    f"/threads={options.threads}",
                    mine,
                    theirs,
                    peer=request_onnx.NAME,
                    target=1.0,
                )


def _check(
    ours: Callable[[Any], Any], peer: Callable[[Any], Any], x: NDArray[np.float32], tolerance: float
) -> None:
    want = peer(x)
    np.testing.assert_allclose(ours(x), want, atol=tolerance * float(np.std(want)))
