"""Exchanges between the processes that train one model.

An `Engine` moves numpy arrays between `size` processes of numbers (ranks) 0 to `size - 1`. Every
process makes the same calls in the same order. `connect` gives the engine of this process.

- `NullEngine`: one process, which exchanges with itself.
- `SharedMemoryEngine`: processes of one host, over shared memory.
- `horovod_engine`: processes of many hosts, over Horovod.

`sparse_rows` sums, packs and unpacks the rows of tables that go through an engine.
"""

from __future__ import annotations

from feedfast.comm.connection import connect
from feedfast.comm.engine import Engine, Wire
from feedfast.comm.null import NullEngine
from feedfast.comm.shared_memory import SharedMemoryEngine
from feedfast.comm.traffic import Traffic

__all__ = ["Engine", "NullEngine", "SharedMemoryEngine", "Traffic", "Wire", "connect"]
