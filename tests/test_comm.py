"""Engines: the same exchanges in processes of their own, against what numpy computes in one."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import resource
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from feedfast.comm import Engine, NullEngine, SharedMemoryEngine, Traffic, connect
from feedfast.comm.connection import HOROVOD_VARIABLES, SHARED_MEMORY_VARIABLES
from feedfast.comm.traced import TracedEngine
from leftovers import shared_memory_files

Work = Callable[[Engine], Any]


def run_ranks(work: Work, size: int, **options: Any) -> list[Any]:
    """What `work` returned, or the text of what it raised, in each of `size` processes."""
    # One server imports what the ranks need, and they are forks of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    name = f"test-{uuid.uuid4().hex}"
    pipes, processes = [], []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=run_rank, args=(theirs, work, name, rank, size, options))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    results = []
    for pipe, process in zip(pipes, processes, strict=True):
        try:
            results.append(pipe.recv() if pipe.poll(60) else "no answer")
        except EOFError:
            results.append("ended")
        process.join(10)
        assert process.exitcode is not None
    return results


def run_rank(
    pipe: Any, work: Work, name: str, rank: int, size: int, options: dict[str, Any]
) -> None:
    try:
        engine = SharedMemoryEngine(name, rank=rank, size=size, **options)
        pipe.send(work(engine))
        engine.close()
    except (RuntimeError, ValueError, TypeError, MemoryError, KeyboardInterrupt) as error:
        pipe.send(f"{type(error).__name__}: {error}")


def of_rank(rank: int, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(rank).standard_normal(shape).astype(dtype)


def reduce_arrays(engine: Engine) -> list[np.ndarray]:
    results = []
    for shape, dtype in (((3, 5), "float32"), ((0, 4), "float32"), ((30_001,), "float64")):
        array = of_rank(engine.rank, shape, dtype)
        engine.all_reduce(array)
        results.append(array)
    return results


@pytest.mark.parametrize("size", [1, 3])
def test_all_reduce_gives_all_the_same_bits(size: int) -> None:
    results = run_ranks(reduce_arrays, size, buffer_bytes=8192)
    for result in results:
        for got, (shape, dtype) in zip(
            result,
            (((3, 5), "float32"), ((0, 4), "float32"), ((30_001,), "float64")),
            strict=True,
        ):
            want = of_rank(0, shape, dtype)
            for rank in range(1, size):
                want += of_rank(rank, shape, dtype)
            np.testing.assert_array_equal(got, want)


def gather_and_swap(engine: Engine) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    gathered = engine.all_gather(of_rank(engine.rank, (engine.rank * 1000, 3)))
    total = np.ones(7, np.float32)
    again = engine.reduce_and_gather(total, gathered[engine.rank], names=("total", "again"))
    assert np.all(total == engine.size)
    assert all(np.array_equal(*each) for each in zip(gathered, again, strict=True))
    parts = [np.full((engine.rank + 2 * to, 2), engine.rank * 10 + to) for to in range(engine.size)]
    swapped = engine.all_to_all(parts)
    sent = of_rank(engine.rank, (4, 2), "float64")
    engine.broadcast(sent, root=engine.size - 1)
    engine.barrier()
    return gathered, swapped, sent


@pytest.mark.parametrize("size", [1, 3])
def test_gathers_swaps_and_broadcasts(size: int) -> None:
    for me, (gathered, swapped, sent) in enumerate(
        run_ranks(gather_and_swap, size, buffer_bytes=8192)
    ):
        for rank in range(size):
            np.testing.assert_array_equal(gathered[rank], of_rank(rank, (rank * 1000, 3)))
            np.testing.assert_array_equal(
                swapped[rank], np.full((rank + 2 * me, 2), rank * 10 + me)
            )
        np.testing.assert_array_equal(sent, of_rank(size - 1, (4, 2), "float64"))


def die_in_rank_1(engine: Engine) -> None:
    engine.barrier()
    if engine.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    engine.all_reduce(np.ones(10, np.float32))


def test_a_killed_process_is_named_and_leaves_nothing() -> None:
    before = shared_memory_files()
    started = time.monotonic()
    first, second, third = run_ranks(die_in_rank_1, 3)
    assert second == "ended"
    for message in (first, third):
        assert "is broken: rank 1 of 3 has ended" in message
    assert time.monotonic() - started < 30
    assert shared_memory_files() <= before


def fail_before_exchanging(engine: Engine) -> None:
    engine.all_reduce(np.ones(3, np.int32 if engine.rank == 0 else np.float32))


def test_a_process_that_fails_alone_ends_the_wait_of_the_others() -> None:
    first, *others = run_ranks(fail_before_exchanging, 3)
    assert first == "TypeError: array is int32; all_reduce takes float32 and float64"
    for message in others:
        assert "is broken: rank 0 of 3 has ended" in message


def exchange_without_memory(engine: Engine, kind: str) -> None:
    parts = [np.zeros(1 << 27 if engine.rank == 0 else 1, np.uint8) for _ in range(engine.size)]
    engine.barrier()
    if engine.rank == 1:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + (1 << 26),) * 2)
    if kind == "all_gather":
        engine.all_gather(parts[0])
    else:
        engine.all_to_all([*parts[:2], parts[1][:0]])


@pytest.mark.parametrize("kind", ["all_gather", "all_to_all"])
def test_a_process_without_memory_leaves_the_group(kind: str) -> None:
    """It would take what the others send next for something else."""
    work = functools.partial(exchange_without_memory, kind=kind)
    first, second, third = run_ranks(work, 3, buffer_bytes=65536)
    assert second.startswith("MemoryError: no memory for the 1342")
    assert second.endswith("bytes that the processes send here; this process has left the group")
    for message in (first, third):
        assert "is broken: rank 1 of 3 has left" in message


def interrupt_a_wait(engine: Engine) -> str:
    if engine.rank == 1:
        time.sleep(1.0)  # the others wait meanwhile
    else:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    try:
        engine.all_reduce(np.ones(10, np.float32), name="long")
    except KeyboardInterrupt:
        assert time.monotonic() - began < 30
        try:
            engine.barrier()
        except RuntimeError as error:
            return f"interrupted, then {error}"
    return "not interrupted"


def test_ctrl_c_ends_a_wait() -> None:
    first, second = run_ranks(interrupt_a_wait, 2)
    assert first.startswith("interrupted, then group")
    assert first.endswith("is broken: rank 0 of 2 has left")
    assert second.endswith("is broken: rank 0 of 2 has left")


def test_ctrl_c_ends_the_wait_for_others_to_join() -> None:
    for rank in (0, 1):
        alarm = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        alarm.start()
        with pytest.raises(KeyboardInterrupt):
            SharedMemoryEngine(uuid.uuid4().hex, rank=rank, size=2, timeout=60)
        alarm.join()


def test_ctrl_c_ends_the_wait_for_the_answer_of_rank_0() -> None:
    name = uuid.uuid4().hex
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.bind(f"\0ff-{os.getuid():08x}{name}")
        silent.listen()
        alarm = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        alarm.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            SharedMemoryEngine(name, rank=1, size=2, timeout=30)
        assert time.monotonic() - began < 10
        alarm.join()


def test_subgroups_stand_in_the_timeline_on_lines_of_their_own(tmp_path: Path) -> None:
    timeline = tmp_path / "trace.json"
    engine = TracedEngine(NullEngine(), timeline=timeline)
    groups = [engine.subgroup([0], name="divide") for _ in range(2)]
    for group in groups:
        assert isinstance(group, TracedEngine)
        group.barrier(name="inside")
        group.close()
    engine.barrier(name="outside")
    engine.close()
    events = json.loads(timeline.read_text().removesuffix(",\n") + "]")
    assert [(event["name"], event["tid"]) for event in events] == [
        ("divide", 0),
        ("divide", 0),
        ("inside", 1),
        ("inside", 2),
        ("outside", 0),
    ]


def reduce_other_sizes(engine: Engine) -> None:
    engine.all_reduce(np.ones(3 + engine.rank, np.float32), name="dense")


def gather_other_rows(engine: Engine) -> None:
    engine.all_gather(np.ones((4, 2 + engine.rank % 2), np.int64), name="rows")


def make_other_calls(engine: Engine) -> None:
    if engine.rank == 0:
        engine.barrier(name="step")
    else:
        engine.all_to_all([np.ones(3)] * 2, name="step")


def reduce_integers(engine: Engine) -> None:
    engine.all_reduce(np.ones(3, np.int32))


def test_bad_calls_say_what_is_wrong() -> None:
    first, second = run_ranks(reduce_other_sizes, 2)
    assert first == second
    assert "rank 0 calls all_reduce(dense, float32, 3 elements), rank 1 calls " in first
    assert "all_reduce(dense, float32, 4 elements)" in first
    for message in run_ranks(gather_other_rows, 3):
        assert "rank 0 calls all_gather(rows, int64[*, 2]), rank 1 calls " in message
        assert "all_gather(rows, int64[*, 3])" in message
    for message in run_ranks(make_other_calls, 2):
        assert "rank 0 calls barrier(step), rank 1 calls all_to_all(step, float64[*])" in message
    assert run_ranks(reduce_integers, 1) == [
        "TypeError: array is int32; all_reduce takes float32 and float64"
    ]


def test_a_missing_process_is_an_error_in_time() -> None:
    with pytest.raises(RuntimeError, match=r"rank 1, 2 of 3 did not join in time"):
        SharedMemoryEngine(uuid.uuid4().hex, rank=0, size=3, timeout=0.2)
    with pytest.raises(RuntimeError, match="rank 0 did not join in time"):
        SharedMemoryEngine(uuid.uuid4().hex, rank=1, size=2, timeout=0.2)


def divide(engine: Engine) -> tuple[Any, ...]:
    ends = engine.subgroup([0, 2])
    middle = engine.subgroup([1], name="middle")
    mine = ends or middle
    assert mine is not None
    array = np.full(5, 10.0**engine.rank)
    mine.all_reduce(array)
    engine.barrier()
    mine.close()
    return ends is None, middle is None, mine.rank, mine.size, array[0], mine.traffic


def test_subgroups_exchange_among_themselves() -> None:
    assert run_ranks(divide, 3) == [
        (False, True, 0, 2, 101.0, Traffic(1, 40)),
        (True, False, 0, 1, 10.0, Traffic(1, 0)),
        (False, True, 1, 2, 101.0, Traffic(1, 40)),
    ]


def round_on_the_wire(engine: Engine) -> tuple[np.ndarray, list[np.ndarray], Traffic]:
    array = of_rank(engine.rank, (101, 3))
    engine.all_reduce(array, wire="bf16")
    parts = engine.all_to_all([of_rank(engine.rank, (7, 2))] * engine.size, wire="bf16")
    return array, parts, engine.traffic


@pytest.mark.parametrize("size", [1, 3])
def test_bf16_wire_rounds_what_travels(size: int) -> None:
    def rounded(values: np.ndarray) -> np.ndarray:
        return values.astype(ml_dtypes.bfloat16).astype(np.float32)

    want = rounded(of_rank(0, (101, 3)))
    for rank in range(1, size):
        want += rounded(of_rank(rank, (101, 3)))
    for me, (array, parts, traffic) in enumerate(run_ranks(round_on_the_wire, size)):
        np.testing.assert_array_equal(
            array, rounded(want) if size > 1 else of_rank(0, (101, 3)), strict=True
        )
        for rank, part in enumerate(parts):
            sent = of_rank(rank, (7, 2))
            np.testing.assert_array_equal(part, sent if rank == me else rounded(sent))
        others = size - 1
        assert traffic == Traffic(2, 606 * 2 * others // size + 28 * others)


def count_traffic(engine: Engine) -> tuple[Traffic, dict[str, Traffic]]:
    engine.all_reduce(np.zeros(300, np.float64), name="dense")
    engine.all_reduce(np.zeros(300, np.float64), name="dense")
    engine.all_gather(np.zeros((engine.rank, 2), np.int32), name="rows")
    engine.all_to_all([np.zeros(10 * to, np.uint8) for to in range(3)], name="ids")
    engine.broadcast(np.zeros(4), root=1)
    engine.barrier()
    return engine.traffic, engine.exchanges_by_name


def test_traffic_counts_what_others_get() -> None:
    for rank, (traffic, by_name) in enumerate(run_ranks(count_traffic, 3)):
        assert by_name == {
            "dense": Traffic(2, 6400),
            "rows": Traffic(1, 16 * rank),
            "ids": Traffic(1, 30 - 10 * rank),
            "broadcast": Traffic(1, 64 if rank == 1 else 0),
            "barrier": Traffic(1, 0),
        }
        assert traffic == Traffic(6, sum(each.bytes_sent for each in by_name.values()))


def use_from_two_threads(engine: Engine) -> str:
    if engine.rank == 1:
        time.sleep(1.0)
        engine.barrier()
        return ""
    waiting = threading.Thread(target=engine.barrier)
    waiting.start()
    time.sleep(0.3)
    message = ""
    try:
        engine.barrier()
    except RuntimeError as error:
        message = str(error)
    waiting.join()
    return message


def test_a_second_thread_is_an_error() -> None:
    assert "two threads use the group at once" in run_ranks(use_from_two_threads, 2)[0]


def die_at_random(engine: Engine, victim: int, delay: float) -> None:
    """Kills one rank in the middle of a mix of exchanges."""
    if engine.rank == victim:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    data = np.ones(200_000, np.float32)
    while True:
        engine.all_reduce(data)
        engine.all_gather(data[: engine.rank * 10])
        engine.all_to_all([data[:50_000]] * engine.size)
        engine.broadcast(data, root=1)
        engine.barrier()
        data[:] = 1


def test_random_deaths_end_every_rank_with_the_name() -> None:
    before = shared_memory_files()
    rng = np.random.default_rng(5)
    for _ in range(int(os.environ.get("FEEDFAST_TEST_DEATHS", "12"))):
        victim = int(rng.integers(3))
        work = functools.partial(die_at_random, victim=victim, delay=float(rng.uniform(0, 0.02)))
        started = time.monotonic()
        results = run_ranks(work, 3, buffer_bytes=65536)
        assert results.pop(victim) == "ended"
        for message in results:
            assert f"is broken: rank {victim} of 3 has ended" in message
        assert time.monotonic() - started < 30
    assert shared_memory_files() <= before


def test_connect_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*SHARED_MEMORY_VARIABLES, *HOROVOD_VARIABLES):
        monkeypatch.delenv(variable, raising=False)
    assert isinstance(connect(), NullEngine)
    monkeypatch.setenv("FEEDFAST_RANK", "0")
    with pytest.raises(ValueError, match="the environment has no FEEDFAST_SIZE, FEEDFAST_REN"):
        connect()
    monkeypatch.setenv("FEEDFAST_SIZE", "1")
    monkeypatch.setenv("FEEDFAST_RENDEZVOUS", uuid.uuid4().hex)
    with connect() as engine:
        assert isinstance(engine, SharedMemoryEngine)
        assert (engine.rank, engine.size, engine.local_rank, engine.local_size) == (0, 1, 0, 1)
    monkeypatch.setenv("FEEDFAST_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="FEEDFAST_TIMEOUT = 'soon' is no number"):
        connect("shm")
    assert isinstance(connect("null"), NullEngine)
    with pytest.raises(ValueError, match="kind = 'mpi' is not"):
        connect("mpi")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a/b"}, "name 'a/b' is not 1 to 96 letters"),
        ({"rank": 2}, r"rank = 2 is not in 0\.\.0"),
        ({"size": 0}, r"size = 0 is not in 1\.\.256"),
        ({"buffer_bytes": 5}, "buffer_bytes = 5 is not a multiple of 8192"),
        ({"timeout": float("nan")}, r"timeout = nan s is not in \(0, 1e9\]"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    options = {"name": "x", "rank": 0, "size": 1, **change}
    with pytest.raises(ValueError, match=message):
        SharedMemoryEngine(options.pop("name"), **options)


def test_one_process_exchanges_with_itself() -> None:
    alone = SharedMemoryEngine(uuid.uuid4().hex, rank=0, size=1)
    engines: tuple[Engine, ...] = (NullEngine(), alone)
    for engine in engines:
        assert (engine.rank, engine.size) == (0, 1)
        array = np.arange(6.0, dtype=np.float32).reshape(2, 3)
        engine.all_reduce(array)
        np.testing.assert_array_equal(array, np.arange(6).reshape(2, 3))
        for got in (engine.all_gather(array), engine.all_to_all([array])):
            np.testing.assert_array_equal(got[0], array)
            got[0][...] = 0  # a copy
        assert array[1, 2] == 5
        engine.broadcast(array)
        engine.barrier()
        with pytest.raises(ValueError, match="2 parts for 1 processes"):
            engine.all_to_all([array, array])
        with pytest.raises(ValueError, match=r"root = 1 is not in 0\.\.0"):
            engine.broadcast(array, root=1)
        with pytest.raises(ValueError, match=r"ranks = \[1\] are not all in 0\.\.0"):
            engine.subgroup([1])
        with pytest.raises(ValueError, match=r"ranks = \[\] must be ascending"):
            engine.subgroup([])
        with pytest.raises(ValueError, match="array must be C-contiguous"):
            engine.all_reduce(array.T)
        with pytest.raises(ValueError, match="wire = 'fp8' is not 'exact' or 'bf16'"):
            engine.all_reduce(array, wire="fp8")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="wire = 'bf16' takes float32; got float64"):
            engine.all_reduce(np.ones(2), wire="bf16")
        with pytest.raises(ValueError, match="array has no dimension"):
            engine.all_gather(np.float32(1))  # type: ignore[arg-type]
        engine.close()
    with pytest.raises(RuntimeError, match="the group is closed"):
        alone.barrier()
