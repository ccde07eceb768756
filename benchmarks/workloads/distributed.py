"""Training on several processes of this host, with Gloo over loopback on both sides.

`--only` runs one part, each within two minutes:

    fusion       dense gradients into one array and out again, in one process
    collectives  shared memory beside Horovod, by size, in the same two processes
    training     a toy DLRM on two processes beside Horovod: examples/s, bytes, exchanges
    sweep        the same by the number of micro-batches of a window, also with a slow link
    crossover    where a table's gradient is cheaper whole than as rows
    sharded      divided tables beside replicated ones, hvd.alltoall and one process

All but the first and what `sharded` does over shared memory need Horovod (`make setup-horovod`) and
say so where it is missing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from feedfast.bench import BenchOptions, BenchRow

PARTS = ("fusion", "collectives", "training", "sweep", "crossover", "sharded")

sys.path.append(str(Path(__file__).parent))


def run(options: BenchOptions) -> Iterator[BenchRow]:
    if options.only is not None and options.only not in PARTS:
        raise ValueError(f"--only {options.only}: distributed has the parts {', '.join(PARTS)}")
    for name in PARTS:
        if options.only in (None, name):
            yield from importlib.import_module(f"distributed_parts.{name}").rows(options)
