"""A training step beside TensorFlow, Keras, torch and FBGEMM; the parts are in step_parts.

`--only` runs one part, each within two minutes:

    table-1m, table-10m    one table of that many rows: lookup, gradient and update, ns a row
    train-1m, train-10m    a ranker whose member table has that many rows, examples a second
    keras-1m, keras-10m    the same beside plain Keras, which needs 18 GB at 10 million rows
    capacity-adam          1e9 parameters with Adam: peak memory and rows a second (13 GB)
    capacity-rowwise       3e9 bfloat16 parameters with row-wise Adagrad (7 GB)
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from feedfast.bench import BenchOptions, BenchRow

PARTS: dict[str, tuple[str, object]] = {
    "table-1m": ("table", 1_000_000),
    "table-10m": ("table", 10_000_000),
    "train-1m": ("train", (1_000_000, "raw")),
    "train-10m": ("train", (10_000_000, "raw")),
    "keras-1m": ("train", (1_000_000, "keras")),
    "keras-10m": ("train", (10_000_000, "keras")),
    "capacity-adam": ("capacity", "adam"),
    "capacity-rowwise": ("capacity", "rowwise"),
}

_FOLDER = Path(__file__).parent
sys.path += [str(_FOLDER), str(_FOLDER.parent / "peers")]


def run(options: BenchOptions) -> Iterator[BenchRow]:
    if options.only is not None and options.only not in PARTS:
        raise ValueError(f"--only {options.only}: step has the parts {', '.join(PARTS)}")
    # The size of TensorFlow's pools cannot change once it runs, as it may under the tests.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    for name, (module, case) in PARTS.items():
        if options.only in (None, name):
            yield from importlib.import_module(f"step_parts.{module}").run(options, case)
