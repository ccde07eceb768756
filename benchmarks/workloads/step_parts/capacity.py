"""Tables as large as they get in 24 GiB: 1e9 parameters with Adam, 3e9 with row-wise Adagrad."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from feedfast.bench import BenchOptions, BenchRow, row

# What the machine of the source has; the peak is compared with what weights and states take.
MEMORY_BYTES = 24 * 2**30
CASES = {
    "adam": (1_000_000_000, "adam", "float32"),
    "rowwise": (3_000_000_000, "rowwise_adagrad", "bfloat16"),
}


def run(options: BenchOptions, case: str) -> Iterator[BenchRow]:
    """Trains in a process of its own; see train_capacity.py."""
    parameters, optimizer, dtype = CASES[case]
    if options.quick:
        parameters //= 1000
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("train_capacity.py")),
            *("--parameters", str(parameters)),
            *("--optimizer", optimizer),
            *("--dtype", dtype),
            *("--threads", str(options.threads)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    path = f"step/parameters={parameters}/optimizer={optimizer}/table={dtype}"
    path += f"/threads={options.threads}"
    yield row(
        f"{path}/peak",
        result["peak_bytes"],
        "bytes",
        peer="24 GiB",
        peer_value=MEMORY_BYTES,
        target=1.0,
    )
    yield row(
        f"{path}/peak",
        result["peak_bytes"],
        "bytes",
        peer="weights and states",
        peer_value=result["table_bytes"],
    )
    yield row(f"{path}/rows", result["rows_per_s"], "rows/s", smaller_is_better=False)
