"""What each process of tests/distributed/test_horovod_engine.py does; run by horovodrun."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from feedfast.comm import Engine, Traffic, connect
from feedfast.comm import horovod_engine as module


def of_rank(rank: int, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(rank).standard_normal(shape).astype(dtype)


def exchange_everything(engine: Engine) -> None:
    rank, ranks = engine.rank, range(engine.size)
    for shape, dtype in (((3, 5), "float32"), ((0, 4), "float32"), ((30_001,), "float64")):
        array = of_rank(rank, shape, dtype)
        engine.all_reduce(array, name="sum")
        # Two addends have one order.
        want = sum(of_rank(other, shape, dtype) for other in ranks)
        np.testing.assert_array_equal(array, want)
    for name, received in (
        ("rows", engine.all_gather(of_rank(rank, (rank * 1000, 3)), name="rows")),
        ("rows", engine.all_gather(of_rank(rank, (rank * 1000, 3)), name="rows")),
    ):
        for other in ranks:
            np.testing.assert_array_equal(received[other], of_rank(other, (other * 1000, 3)), name)
    # Within the first capacity, above it, and below it again.
    for factor in (1, 700, 0, 3):
        parts = [np.full((factor * (rank + 2 * to), 2), rank * 10 + to) for to in ranks]
        received = engine.all_to_all(parts, name="swap")
        for other in ranks:
            want = np.full((factor * (other + 2 * rank), 2), other * 10 + rank)
            np.testing.assert_array_equal(received[other], want)
    for dtype in ("uint16", "int8", "float64", "bool"):
        parts = engine.all_to_all([np.full(rank + 1, to, dtype) for to in ranks], name="dtypes")
        assert [(p.dtype, p.tolist()) for p in parts] == [
            (np.dtype(dtype), np.full(other + 1, rank, dtype).tolist()) for other in ranks
        ]
    for root in ranks:
        sent = of_rank(rank, (4, 2), "float64")
        engine.broadcast(sent, root=root)
        np.testing.assert_array_equal(sent, of_rank(root, (4, 2), "float64"))
    array = of_rank(rank, (101, 3))
    engine.all_reduce(array, name="half", wire="bf16")
    rounded = [of_rank(other, (101, 3)).astype(ml_dtypes.bfloat16) for other in ranks]
    want = sum(each.astype(np.float32) for each in rounded)
    np.testing.assert_array_equal(array, want.astype(ml_dtypes.bfloat16).astype(np.float32))
    engine.barrier()


def count(engine: Engine) -> None:
    before = engine.traffic
    engine.all_reduce(np.zeros(300, np.float64), name="dense")
    engine.all_to_all([np.zeros(10 * (to + 1), np.uint8) for to in range(2)], name="ids")
    sent = 2400 + 10 * (2 - engine.rank)
    assert engine.traffic == Traffic(before.exchanges + 2, before.bytes_sent + sent)


def divide(engine: Engine) -> None:
    pair = engine.subgroup([0, 1], name="pair")
    singles = [engine.subgroup([rank]) for rank in range(2)]
    assert pair is not None
    assert (pair.rank, pair.size, pair.local_rank) == (engine.rank, 2, engine.local_rank)
    exchange_everything(pair)
    pair.close()
    assert [single is not None for single in singles] == [engine.rank == 0, engine.rank == 1]
    engine.barrier()


def differ(engine: Engine) -> str:
    try:
        engine.all_reduce(np.ones(3 + engine.rank, np.float32), name="bad")
    except ValueError as error:
        engine.barrier()
        return str(error)
    return "no error"


def main(results: Path) -> None:
    engine = connect()
    assert type(engine) is module.HorovodEngine
    assert (engine.size, engine.local_rank, engine.local_size) == (2, engine.rank, 2)
    exchange_everything(engine)
    count(engine)
    divide(engine)
    found = {"differ": differ(engine)}
    module._MOST_BYTES = 1 << 12  # many rounds
    exchange_everything(engine)
    # horovodrun ends the others when it sees one die; this one wants to tell what it saw.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    engine.barrier()
    if engine.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    try:
        engine.all_reduce(np.ones(5, np.float32), name="lost")
    except RuntimeError as error:
        found["lost"] = str(error)
    found["seconds"] = time.monotonic() - began
    (results / "rank0.json").write_text(json.dumps(found))
    os._exit(1)


main(Path(sys.argv[1]))
