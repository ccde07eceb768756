"""One feed request, from strings to an ordered feed, beside the same weights in TensorFlow.

The model and its requests are those of benchmarks/peers/request_model.py, the peers those of
request_tensorflow.py and request_onnx.py beside it. Ours starts from Python lists. Several requests
take turns, so that no side sees the same ids again, and the scores of all sides are compared before
anything is timed. `--only` runs one part:

    sizes        p50 and p99 at 1 to 1500 candidates beside the stock SavedModel and the tuned model
    dense        the towers alone beside ONNX Runtime
    artifact     bytes by section and resident memory in fresh processes
    budget       the precisions that --max-ne-delta 1e-4 chooses for this net on the simulated feed
    tail         p99 beside p50, and beside the tail of a loop that only computes
    stages       where the time goes, beside the same stages of the stock SavedModel
    sweep        mini-batch x threads
    heads        12 objectives in one model beside one, and beside 12 models
    progression  many sparse features, then trees as a sparse, then as a dense input

OpenMP's pool (xgboost's) has `--threads` threads that sleep while they wait, as on a busy service.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from feedfast.bench import BenchOptions, BenchRow

PARTS = (
    *("sizes", "dense", "artifact", "budget", "tail", "stages", "sweep", "heads", "progression"),
)

_FOLDER = Path(__file__).parent
sys.path += [str(_FOLDER), str(_FOLDER.parent / "peers")]


def run(options: BenchOptions) -> Iterator[BenchRow]:
    if options.only is not None and options.only not in PARTS:
        raise ValueError(f"--only {options.only}: request has the parts {', '.join(PARTS)}")
    # Read when xgboost is loaded, which is why the parts are imported here.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    for part in PARTS if options.only is None else (options.only,):
        yield from importlib.import_module(f"request_parts.{part}").run(options)
