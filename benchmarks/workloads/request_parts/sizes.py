"""Candidates x precision, beside the stock SavedModel and the tuned model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import request_model
import request_tensorflow
import tensorflow as tf
from numpy.typing import NDArray

from feedfast import Request, Scorer
from feedfast.bench import BenchOptions, BenchRow, time_interleaved

from . import common

# Candidates to rounds.
SIZES = {1: 400, 50: 400, 200: 200, 500: 200, 1500: 60}
QUICK_SIZES = {1: 3, 50: 3}
# Ratios to the stock model.
TARGETS = {"fp32": 1.0, "bf16": 1 / 3, "int8": 1 / 5}
# Largest difference of a probability from the stock model's.
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-2, "int8": 2e-2}
TUNED_BF16_TOLERANCE = 3e-2


def run(options: BenchOptions) -> Iterator[BenchRow]:
    request_tensorflow.configure(options.threads)
    model = request_model.build(threads=options.threads, quick=options.quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        leaves = request_tensorflow.Leaves(model.booster, model.artifact.forest, options.threads)
        stock = request_tensorflow.Ranker(model, folder, tuned=False)
        request_tensorflow.save(stock, folder / "saved_model")
        del stock
        function, _loaded = request_tensorflow.load(folder / "saved_model")
        tuned = request_tensorflow.Ranker(model, folder, tuned=True, dtype=tf.bfloat16)
        peers = {
            "stock": request_tensorflow.TimedRanker(function, leaves),
            "tuned": request_tensorflow.TimedRanker(tuned.score, leaves),
        }
        scorers = common.open_scorers(folder / "store", model.artifact, options)
        for candidates, rounds in (QUICK_SIZES if options.quick else SIZES).items():
            requests = common.make_requests(model, candidates)
            inputs = [request_tensorflow.make_inputs(request) for request in requests]
            check(scorers, peers, requests, inputs)
            yield from _measure(scorers, peers, requests, inputs, rounds, options)


def check(
    scorers: dict[str, Scorer],
    peers: dict[str, Callable[[Any], dict[str, NDArray[Any]]]],
    requests: Sequence[Request],
    inputs: Sequence[request_tensorflow.Inputs],
) -> None:
    """Raises unless all sides give the same probabilities."""
    for request, tensors in zip(requests, inputs, strict=True):
        want = peers["stock"](tensors)["probabilities"]
        tuned = peers["tuned"](tensors)["probabilities"]
        np.testing.assert_allclose(tuned, want, atol=TUNED_BF16_TOLERANCE)
        for precision, scorer in scorers.items():
            got = scorer.score(request)
            np.testing.assert_allclose(got.probabilities, want, atol=TOLERANCES[precision])
            np.testing.assert_array_equal(np.sort(got.order), np.arange(len(want)))


def _measure(
    scorers: dict[str, Scorer],
    peers: dict[str, Any],
    requests: Sequence[Request],
    inputs: Sequence[request_tensorflow.Inputs],
    rounds: int,
    options: BenchOptions,
) -> Iterator[BenchRow]:
    functions = [common.in_turn(scorer.score, requests) for scorer in scorers.values()]
    functions += [common.in_turn(peer, inputs) for peer in peers.values()]
    *ours, stock, tuned = time_interleaved(functions, repeats=rounds)
    candidates = len(inputs[0].features)
    for precision, taken in zip(scorers, ours, strict=True):
        name = f"request/candidates={candidates}/precision={precision}/threads={options.threads}"
        yield from common.percentile_rows(
            name, taken, stock, peer=request_tensorflow.NAME, target=TARGETS[precision]
        )
        yield common.median_row(
            f"{name}/tuned",
            taken,
            tuned,
            peer=f"{request_tensorflow.NAME}, history once, bfloat16 towers",
        )
