"""Where the time of a request goes, beside the same stages of the stock SavedModel.

Ours are `StageTimes`, medians over requests; TensorFlow's are its profiler's operations by kind,
and xgboost's leaf prediction on its own. The SavedModel's `rest` is what is left of an undisturbed
call.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import request_model
import request_tensorflow
import request_tensorflow_stages

from feedfast.bench import BenchOptions, BenchRow, row, time_interleaved

from . import common

SIZES = {50: 100, 500: 60}
QUICK_SIZES = {50: 3}


def run(options: BenchOptions) -> Iterator[BenchRow]:
    if options.threads != 1:
        raise ValueError("request stages are those of one thread; run it with --threads 1")
    request_tensorflow.configure(1)
    model = request_model.build(threads=1, quick=options.quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        leaves = request_tensorflow.Leaves(model.booster, model.artifact.forest, 1)
        stock = request_tensorflow.Ranker(model, folder, tuned=False)
        request_tensorflow.save(stock, folder / "saved_model")
        del stock
        function, _loaded = request_tensorflow.load(folder / "saved_model")
        peer = request_tensorflow.TimedRanker(function, leaves)
        scorers = common.open_scorers(folder / "store", model.artifact, options)
        for candidates, rounds in (QUICK_SIZES if options.quick else SIZES).items():
            requests = common.make_requests(model, candidates)
            inputs = [request_tensorflow.make_inputs(request) for request in requests]
            timed: dict[str, list[Any]] = {precision: [] for precision in scorers}

            def collect(precision: str, request: Any, timed: Any = timed) -> None:
                timed[precision].append(scorers[precision].score(request, timing=True).timing)

            functions = [common.in_turn(partial(collect, p), requests) for p in scorers]
            functions.append(common.in_turn(peer, inputs))
            functions.append(common.in_turn(leaves, [given.features for given in inputs]))
            *_, wall, trees = time_interleaved(functions, repeats=rounds)
            theirs = request_tensorflow_stages.stage_seconds(common.in_turn(peer, inputs), rounds)
            theirs["trees"] = float(np.median(trees))
            theirs["rest"] = max(float(np.median(wall)) - sum(theirs.values()), 0.0)
            for precision, found in timed.items():
                stages = {
                    stage: float(np.median([times.stages()[stage] for times in found]))
                    for stage in found[0].stages()
                }
                stages["total"] = float(np.median([times.wall for times in found]))
                for stage, seconds in stages.items():
                    yield row(
                        f"request/stages/candidates={candidates}/precision={precision}/{stage}",
                        1e6 * seconds,
                        "us",
                        peer=request_tensorflow.NAME,
                        peer_value=1e6 * (theirs | {"total": float(np.median(wall))})[stage],
                    )
