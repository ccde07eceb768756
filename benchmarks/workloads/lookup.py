"""Pooled lookups beside a probe of the memory, numpy, TensorFlow, torch and FBGEMM.

Bags of 50 ids (or ragged ones of mean 1, 10 and 50), fresh ids in every call, uniform or
Zipf-distributed with exponent 1.05; pooling is mean; times are per looked-up row and the tenth
percentile of the calls of each side, because neighbours on the machine and the threads that a
`tf.function` wakes only ever add to a call of a third of a millisecond. `vs=probe` reads
the same rows in the same order with prefetch and without pooling, which is what the memory allows.
torch and FBGEMM run in the interpreter that FEEDFAST_LOOKUP_PEERS names (benchmarks/peers/
lookup_torch.py), call by call in turns with feedfast; without it their rows are left out, with a
line that says so. Tables are the same bytes on both sides, in pages of 2 MiB but for the part
`pages`. Each part for `--only` takes less than two minutes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from feedfast.bench import BenchOptions, BenchRow

# Module of lookup_parts and function by part.
PARTS = {
    "float32": ("tables", "float32"),
    "storage": ("tables", "storage"),
    "pages": ("tables", "pages"),
    "threads": ("tables", "threads"),
    "ragged": ("tables", "ragged"),
    "features": ("features", "features"),
    "tensorflow": ("graphs", "forward_and_gradient"),
    "fixed": ("fixed", "fixed"),
}

_FOLDER = Path(__file__).parent
sys.path += [str(_FOLDER), str(_FOLDER.parent / "peers")]


def run(options: BenchOptions) -> Iterator[BenchRow]:
    if options.only is not None and options.only not in PARTS:
        raise ValueError(f"--only {options.only}: lookup has the parts {', '.join(PARTS)}")
    from lookup_parts.peers import Peers

    for name, (module, function) in PARTS.items():
        if options.only in (None, name):
            part = getattr(importlib.import_module(f"lookup_parts.{module}"), function)
            with Peers() as peers:  # of one part, so that its tables are gone with it
                yield from part(options, peers)
