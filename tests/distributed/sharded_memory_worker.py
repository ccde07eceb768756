"""One process of `test_sharded_memory.py`: trains a table of 256 MB with 160 MB to allocate.

Argument: a folder for what each rank needed.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np

from feedfast.bags import Bags
from feedfast.comm import connect
from feedfast.sharded_tables import RowOptimization, ShardedTables, TableSpec
from feedfast.sharding import ShardingPlan, TableShape, row_wise

ROWS, DIM = 250_000, 256
LIMIT_BYTES = 160 << 20
EXIT_NO_MEMORY = 77


def main(folder: Path) -> int:
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + LIMIT_BYTES, used + LIMIT_BYTES))
    shape = TableShape(name="members", rows=ROWS, dim=DIM)
    spec = TableSpec(
        name="members", rows=ROWS, dim=DIM, optimizer=RowOptimization(learning_rate=0.1)
    )
    with connect() as engine:
        placement = row_wise(shape, range(engine.size))
        plan = ShardingPlan(
            num_ranks=engine.size, ranks_per_host=1, tables=(shape,), placements=(placement,)
        )
        try:
            tables = ShardedTables([spec], plan, engine)
        except MemoryError:
            return EXIT_NO_MEMORY
        rng = np.random.default_rng(engine.rank)
        losses = []
        for _ in range(6):
            bags = Bags.from_lengths(rng.integers(0, ROWS, 4000), np.full(1000, 4))
            (found,) = tables.lookup([bags])
            # Half the squared distance of every row from 1.
            tables.accumulate([found.ids], [found.rows - 1])
            losses.append(float(np.square(found.rows - 1).mean()))
            tables.exchange_window(1.0)
            tables.apply_window(1.0)
        (found,) = tables.lookup([bags])
        # Not ru_maxrss, which starts with what the parent held.
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
        report = {
            "held": tables.nbytes,
            "peak": peak,
            "before": losses[-1],
            "after": float(np.square(found.rows - 1).mean()),
        }
        (folder / f"{engine.rank}.json").write_text(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
