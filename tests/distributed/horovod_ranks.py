"""What each process of tests/distributed/test_horovod_engine.py does; run by horovodrun."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    for count in (1000, 0, 3000):
        array, rows = of_rank(rank, (5,)), of_rank(rank, (rank * count, 3))
        received = engine.reduce_and_gather(array, rows, names=("sum and rows", "both"))
        np.testing.assert_array_equal(array, sum(of_rank(other, (5,)) for other in ranks))
        for other in ranks:
            np.testing.assert_array_equal(received[other], of_rank(other, (other * count, 3)))
    # Within the first capacity, above it, and below it again.
    for factor in (1, 700, 0, 3):
        parts = [np.full((factor * (rank + 2 * to), 2), rank * 10 + to) for to in ranks]
        received = engine.all_to_all(parts, name="swap")
        assert not np.shares_memory(received[rank], parts[rank])
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


@contextmanager
def recorded(engine: Engine) -> Iterator[list[tuple[str, str, int]]]:
    """Kind, name and bytes of the arrays that the engine hands to Horovod."""
    seen: list[tuple[str, str, int]] = []
    run = engine._run  # type: ignore[attr-defined]

    def record(kind: str, name: str, array: np.ndarray, *rest: Any, **options: Any) -> Any:
        seen.append((kind, name, array.nbytes))
        return run(kind, name, array, *rest, **options)

    engine._run = record  # type: ignore[attr-defined]
    yield seen
    engine._run = run  # type: ignore[attr-defined]


def grow(engine: Engine) -> None:
    """The buffer of an all-to-all grows until a part fits, and stays; its name never changes."""
    counts = [10 * (engine.rank + 1), 6000, 5, 6001, 70_000 * (engine.rank + 1), 20]
    with recorded(engine) as seen:
        for count in counts:
            engine.all_to_all([np.zeros(count, np.uint8)] * 2, name="grow")
    assert [(kind, name) for kind, name, _ in seen] == [("all_to_all", "grow")] * len(counts)
    capacities = [num_bytes for *_, num_bytes in seen]
    assert capacities[0] == 4096
    # 8 bytes tell the other process how many rounds this one needs; at most a quarter is to spare.
    assert 6008 <= capacities[1] == capacities[2] == capacities[3] <= 6008 * 5 // 4
    assert counts[4] + 8 <= capacities[4] == capacities[5] <= (counts[4] + 8) * 5 // 4


def divide_into_chunks(engine: Engine) -> None:
    """No array that Horovod gets is above the limit, which stands for the one of its int32."""
    limit = module._MOST_BYTES
    with recorded(engine) as seen:
        array = of_rank(engine.rank, (30_001,), "float64")
        engine.all_reduce(array, name="chunked_sum")
        np.testing.assert_array_equal(
            array, of_rank(0, (30_001,), "float64") + of_rank(1, (30_001,), "float64")
        )
        sizes = (20_000, 70_000)
        for rank, rows in enumerate(
            engine.all_gather(of_rank(engine.rank, (sizes[engine.rank],)), name="chunked_rows")
        ):
            np.testing.assert_array_equal(rows, of_rank(rank, (sizes[rank],)))
        for rank, part in enumerate(
            engine.all_to_all([of_rank(engine.rank, (n,)) for n in sizes], name="chunked_parts")
        ):
            np.testing.assert_array_equal(part, of_rank(rank, (sizes[engine.rank],)))
        sent = of_rank(engine.rank, (30_001,))
        engine.broadcast(sent, name="chunked_sent")
        np.testing.assert_array_equal(sent, of_rank(0, (30_001,)))
    assert {name for _, name, _ in seen} == {
        "chunked_sum",
        "chunked_rows",
        "chunked_parts",
        "chunked_sent",
    }
    assert max(num_bytes for *_, num_bytes in seen) <= limit
    assert len(seen) > (30_001 * 8 + 70_000 * 4 * 2 + 30_001 * 4) // limit


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
    grow(engine)
    module._MOST_BYTES = 1 << 12  # many rounds
    divide_into_chunks(engine)
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
