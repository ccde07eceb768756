"""Processes of many hosts, over Horovod: the only file that knows Horovod.

Horovod negotiates every exchange by name, and remembers what it agreed on as long as name, dtype
and local shape stay the same. So every exchange has the name its caller gave it, and an all-to-all
sends a buffer of constant size (`_ExchangeBuffer`).

Each exchange is one node of a graph that runs in a TensorFlow session of this engine's own. Its
node name is the name that Horovod uses, numpy buffers go in without a copy, and its threads are not
those of TensorFlow's eager runtime: an exchange inside a `tf.numpy_function` cannot wait for a
thread that waits for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.comm.engine import Engine, Item
from feedfast.comm.null import NullEngine

try:
    import horovod.tensorflow as hvd
    import tensorflow as tf
except ImportError as _error:
    raise ImportError(
        f"Horovod does not load ({_error}); build it for the installed TensorFlow with "
        "`make setup-horovod`"
    ) from None

# Read by Horovod when it starts; what the environment has wins.
_ENVIRONMENT = {
    # Process sets may be added after the start.
    "HOROVOD_DYNAMIC_PROCESS_SETS": "1",
    # A process that no longer answers is an error after this long; also how far apart the
    # processes may come to the start, where 30 s (Horovod's own) is little for loading TensorFlow.
    "HOROVOD_GLOO_TIMEOUT_SECONDS": "50",
    # An exchange that some process never joins is an error, not a warning for ever.
    "HOROVOD_STALL_CHECK_TIME_SECONDS": "60",
    "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "300",
}
# Most bytes of one exchange of this process: Horovod counts in int32.
_MOST_BYTES = 1 << 30
_FIRST_CAPACITY = 4096
_HEADER_BYTES = 8
# Between the names of two exchanges that begin together.
_AND = " and "
# Of the memory that TensorFlow allocates, in bytes.
_ALIGNMENT = 64

Bytes = NDArray[np.uint8]


class HorovodEngine(Engine):
    """An `Engine` between the processes that `horovodrun` or `mpirun` started.

    The start is collective. Horovod runs on Gloo or MPI, whichever it was built with and started
    by, and exchanges arrays of the host; where it was built with NCCL, that serves GPU tensors,
    which this engine has none of.

    Sums have the same bits in all processes, and may have others in another run.
    """

    def __init__(self) -> None:
        """Starts Horovod unless it runs already.

        Raises:
            RuntimeError: The other processes did not come in time.
        """
        self._started = not hvd.is_initialized()
        if self._started:
            for name, value in _ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            try:
                hvd.init()
            except Exception as error:  # Horovod raises what its back end does
                raise RuntimeError(f"Horovod does not start: {error}") from error
        super().__init__(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size())
        self._ranks: tuple[int, ...] = tuple(range(hvd.size()))
        self._sets: dict[tuple[int, ...], Any] = {self._ranks: hvd.global_process_set}
        self._open(hvd.global_process_set)

    def _open(self, process_set: Any) -> None:
        self._process_set = process_set
        self._runs: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self._buffers: dict[str, _ExchangeBuffer] = {}
        self._gathers: dict[str, _GatherBuffer] = {}
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(
            graph=self._graph,
            # Two threads of its own, and no GPU: the arrays are in the host's memory.
            config=tf.compat.v1.ConfigProto(
                use_per_session_threads=True,
                inter_op_parallelism_threads=2,
                intra_op_parallelism_threads=1,
                device_count={"GPU": 0},
            ),
        )

    def _all_reduce(self, array: NDArray[Any], name: str) -> None:
        flat = array.reshape(-1)
        step = _MOST_BYTES // array.itemsize
        for first in range(0, flat.size, step):
            chunk = flat[first : first + step]
            chunk[...] = self._run("all_reduce", name, chunk)

    def _all_gather(self, array: NDArray[Item], name: str) -> list[NDArray[Item]]:
        return self._gather_rest(
            array, name, self._run("all_gather", name, self._first(array, name))
        )

    def _reduce_and_gather(
        self, array: NDArray[Any], rows: NDArray[Item], names: tuple[str, str]
    ) -> list[NDArray[Item]]:
        # In one session run, so that Horovod agrees on both in the same cycle.
        flat = array.reshape(-1)
        if array.nbytes > _MOST_BYTES:
            return super()._reduce_and_gather(array, rows, names)
        both = _AND.join(map(_node, names))  # nodes have no spaces
        summed, received = self._run("reduce_and_gather", both, flat, self._first(rows, names[1]))
        flat[...] = summed
        return self._gather_rest(rows, names[1], received)

    def _first(self, array: NDArray[Any], name: str) -> Bytes:
        """What an all-gather sends first: the number of bytes, and as many of them as may go."""
        mine = _bytes_of(array)
        buffer = self._gathers.setdefault(name, _GatherBuffer())
        return buffer.pack(mine.size, mine[: _MOST_BYTES // self.size])

    def _gather_rest(self, array: NDArray[Item], name: str, received: Bytes) -> list[NDArray[Item]]:
        """The result of an all-gather whose first exchange gave `received`; does the others."""
        mine = _bytes_of(array)
        most = _MOST_BYTES // self.size
        pieces: list[list[Bytes]] = [[] for _ in range(self.size)]
        sizes = [0] * self.size
        header_bytes = _HEADER_BYTES
        first = 0
        while True:
            position = 0
            for rank in range(self.size):
                if header_bytes:
                    sizes[rank] = _first_int(received[position:])
                begin = position + header_bytes
                position = begin + max(0, min(sizes[rank] - first, most))
                pieces[rank].append(received[begin:position])
            first += most
            if first >= max(sizes):
                return [_as_rows(p, array) for p in pieces]
            header_bytes = 0
            received = self._run("all_gather", name, mine[first : first + most])

    def _all_to_all(self, parts: Sequence[NDArray[Item]], name: str) -> list[NDArray[Item]]:
        buffer = self._buffers.setdefault(name, _ExchangeBuffer(self.rank))
        payloads = [_bytes_of(part) for part in parts]
        payloads[self.rank] = np.empty(0, np.uint8)  # stays here
        most = _MOST_BYTES // self.size
        rounds = needed = max(1, -(-max(p.size for p in payloads) // most))
        pieces: list[list[Bytes]] = [[] for _ in parts]
        pieces[self.rank] = [_bytes_of(parts[self.rank]).copy()]
        index = 0
        while index < rounds:
            chunks = [p[index * most : (index + 1) * most] for p in payloads]
            received, sizes = self._run("all_to_all", name, *buffer.pack(chunks, needed))
            position = 0
            for rank, size in enumerate(sizes.tolist()):
                if rank != self.rank:
                    rounds = max(rounds, _first_int(received[position:]))
                    pieces[rank].append(received[position + _HEADER_BYTES : position + size])
                position += size
            index += 1
        return [_as_rows(p, parts[0]) for p in pieces]

    def _broadcast(self, array: NDArray[Any], root: int, name: str) -> None:
        flat = _bytes_of(array)
        sent = [
            # The root's result is its argument's memory.
            self._run(
                "broadcast", name, flat[first : first + _MOST_BYTES], root=self._ranks[root]
            ).copy()
            for first in range(0, flat.size, _MOST_BYTES)
        ]
        if self.rank != root and sent:
            array[...] = np.concatenate(sent).view(array.dtype).reshape(array.shape)

    def _barrier(self, name: str) -> None:
        self._run("all_reduce", name, np.zeros(1, np.float32))

    def _subgroup(self, ranks: tuple[int, ...], name: str) -> Engine | None:
        if self._process_set is not hvd.global_process_set:
            raise ValueError("Horovod has no subgroups of subgroups; make them of the whole group")
        hosts = self._all_gather(np.array([hvd.cross_rank()], np.int64), name)
        if len(ranks) > 1 and ranks not in self._sets:
            self._sets[ranks] = hvd.add_process_set(list(ranks))
        if self.rank not in ranks:
            return None
        if len(ranks) == 1:
            return NullEngine()
        neighbours = [r for r in ranks if hosts[r][0] == hosts[self.rank][0]]
        group = object.__new__(HorovodEngine)
        Engine.__init__(
            group,
            ranks.index(self.rank),
            len(ranks),
            neighbours.index(self.rank),
            len(neighbours),
        )
        group._started = False
        group._ranks, group._sets = ranks, self._sets
        group._open(self._sets[ranks])
        return group

    def _close(self) -> None:
        self._session.close()
        if self._started:
            hvd.shutdown()

    def _run(self, kind: str, name: str, array: NDArray[Any], *rest: Any, root: int = 0) -> Any:
        """Runs one exchange to its end.

        Raises:
            RuntimeError: Another process has ended or is late.
            ValueError: The processes called it with different shapes or kinds.
        """
        key = (kind, name, array.dtype.str, root)
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = self._make(kind, name, array.dtype, root)
        try:
            return run(array, *rest)
        except tf.errors.OpError as error:
            text = _reason(error)
            if "ismatched" in text:  # Horovod found different shapes or kinds under this name
                raise ValueError(f"{kind} {name!r}: {text}") from None
            raise RuntimeError(
                f"{kind} {name!r} of rank {self.rank} of {self.size}: another process has ended or "
                f"is late: {text}"
            ) from None

    def _make(self, kind: str, name: str, dtype: Any, root: int) -> Callable[..., Any]:
        options = {"ignore_name_scope": True, "process_set": self._process_set}
        # Horovod drops the scope, so one name may serve several dtypes: the scopes differ.
        with self._graph.as_default(), tf.name_scope(f"run{len(self._runs)}"):
            array = tf.compat.v1.placeholder(dtype, [None])
            feeds = [array]
            if kind == "all_reduce":
                result = hvd.allreduce(array, op=hvd.Sum, name=_node(name), **options)
            elif kind == "all_gather":
                result = hvd.allgather(array, name=_node(name), **options)
            elif kind == "reduce_and_gather":
                reduced, gathered = name.split(_AND)
                feeds.append(tf.compat.v1.placeholder(tf.uint8, [None]))
                result = [
                    hvd.allreduce(array, op=hvd.Sum, name=_node(reduced), **options),
                    hvd.allgather(feeds[1], name=_node(gathered), **options),
                ]
            elif kind == "broadcast":
                result = hvd.broadcast(array, root, name=_node(name), **options)
            else:
                feeds.append(tf.compat.v1.placeholder(tf.int32, [None]))
                splits = feeds[1]
                result = list(hvd.alltoall(array, splits=splits, name=_node(name), **options))
            run: Callable[..., Any] = self._session.make_callable(result, feeds)
            return run


class _ExchangeBuffer:
    """The bytes that one all-to-all sends: always as many, so that Horovod need not agree anew.

    Every other process gets 8 bytes (how many rounds this process needs) and its part. What is left
    of the capacity is addressed to this process itself and costs nothing on the wire, only a copy.
    The capacity grows in steps of a quarter until everything fits.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._bytes = _aligned(_FIRST_CAPACITY)

    def pack(self, chunks: Sequence[Bytes], rounds: int) -> tuple[Bytes, NDArray[np.int32]]:
        """The buffer, and how many of its bytes go to each process."""
        header = _bytes_of(np.array([rounds]))
        splits = np.array([_HEADER_BYTES + c.size for c in chunks], np.int32)
        splits[self._rank] = 0
        needed = int(splits.sum(dtype=np.int64))
        if needed > self._bytes.size:
            self._bytes = _aligned(_capacity(needed))
        splits[self._rank] = self._bytes.size - needed
        position = 0
        for rank, (chunk, size) in enumerate(zip(chunks, splits.tolist(), strict=True)):
            if rank != self._rank:
                self._bytes[position : position + _HEADER_BYTES] = header
                self._bytes[position + _HEADER_BYTES : position + size] = chunk
            position += size
        return self._bytes, splits


class _GatherBuffer:
    """The bytes that one all-gather sends, in memory that it keeps and that grows with them.

    New memory of that size costs more than the copy: the system clears its pages.
    """

    def __init__(self) -> None:
        self._bytes = _aligned(_FIRST_CAPACITY)

    def pack(self, size: int, chunk: Bytes) -> Bytes:
        """`size` in 8 bytes, and `chunk`; valid until the next call."""
        needed = _HEADER_BYTES + chunk.size
        if needed > self._bytes.size:
            self._bytes = _aligned(_capacity(needed))
        self._bytes[:_HEADER_BYTES] = _bytes_of(np.array([size]))
        self._bytes[_HEADER_BYTES:needed] = chunk
        return self._bytes[:needed]


def _capacity(needed: int) -> int:
    """At least `needed`, at most a quarter more: 4, 5, 6 or 7 times a power of two."""
    step = 1 << max(0, (needed - 1).bit_length() - 3)
    return -(-needed // step) * step


def _aligned(size: int) -> Bytes:
    """Memory that TensorFlow takes as it is; it copies what it is fed on other addresses."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size]


def _bytes_of(array: NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _node(name: str) -> str:
    """A name of a node in a graph, which is what Horovod calls the exchange."""
    node = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return node if re.match(r"[A-Za-z0-9.]", node) else f"x{node}"


def _first_int(received: Bytes) -> int:
    return int.from_bytes(received[:_HEADER_BYTES].tobytes(), "little")


def _as_rows(pieces: Sequence[Bytes], like: NDArray[Item]) -> NDArray[Item]:
    """Rows shaped as those of `like`, from the bytes of one process that came in `pieces`.

    A single piece that lies right is not copied: new memory costs more than the copy, because the
    system clears it.
    """
    row_bytes = like.itemsize * int(np.prod(like.shape[1:]))
    num_bytes = sum(p.size for p in pieces)
    if row_bytes and num_bytes % row_bytes:
        raise ValueError(f"{num_bytes} bytes are not rows of {row_bytes}")
    rows = num_bytes // row_bytes if row_bytes else 0
    whole = pieces[0] if len(pieces) == 1 else None
    if whole is None or not whole.flags.writeable or whole.ctypes.data % like.itemsize:
        # np.concatenate copies into memory of its own, aligned for any dtype.
        whole = np.concatenate(pieces)
    return whole.view(like.dtype).reshape(rows, *like.shape[1:])


def _reason(error: tf.errors.OpError) -> str:
    """Horovod's first sentence in a message of TensorFlow, which tells of graphs and nodes."""
    found = re.search(r"^Node: .*\n(.*)", error.message, re.MULTILINE)
    return (found[1] if found else error.message.strip().split("\n")[0]).split(". ")[0]
