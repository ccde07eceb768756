"""What processes that train one model do together beside exchanging gradients."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import keras
import numpy as np

from feedfast.comm import Engine
from feedfast.comm.traced import PeerLostError

# Far below the time after which engines give a process up.
_BEAT_S = 5.0
_BUSY, _DONE, _FAILED = 0, 1, 2
# Odd, so that the seeds of all ranks differ.
_SEED_STRIDE = 0x9E3779B1

_T = TypeVar("_T")


def share_of(num_rows: int, engine: Engine) -> slice:
    """The rows of a batch of `num_rows` that this process takes; all ranks together take all."""
    first = num_rows * engine.rank // engine.size
    return slice(first, num_rows * (engine.rank + 1) // engine.size)


def on_rank_0(engine: Engine, work: Callable[[], _T]) -> _T | None:
    """Does something in rank 0 alone while the other processes wait, however long it takes.

    Returns:
        What `work` returned; None in other processes.

    Raises:
        PeerLostError: Rank 0 failed, in the others; or a process has ended.
    """
    if engine.size == 1:
        return work()
    state = np.zeros(1, np.int64)
    if engine.rank != 0:
        while state[0] == _BUSY:
            engine.broadcast(state, name="rank_0")
        if state[0] == _FAILED:
            raise PeerLostError("rank 0 failed")
        return None
    finished = threading.Event()
    lost: list[RuntimeError] = []

    def beat() -> None:
        try:
            while not finished.wait(_BEAT_S):
                engine.broadcast(np.array([_BUSY], np.int64), name="rank_0")
        except RuntimeError as error:
            lost.append(error)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    outcome = _FAILED
    try:
        result = work()
        outcome = _DONE
    finally:
        finished.set()
        thread.join()
        if not lost:
            engine.broadcast(np.array([outcome], np.int64), name="rank_0")
    if lost:
        raise lost[0]
    return result


def broadcast_json(engine: Engine, document: Any) -> Any:
    """Rank 0's JSON document, in all processes; that of others does not count."""
    if engine.size == 1:
        return document
    text = json.dumps(document).encode()
    length = np.array([len(text)])
    engine.broadcast(length, name="document_bytes")
    sent = np.resize(np.frombuffer(text, np.uint8), int(length[0]))
    engine.broadcast(sent, name="document")
    return json.loads(sent.tobytes())


def require_equal(engine: Engine, documents: Mapping[str, str]) -> None:
    """Refuses processes that were given different things; one exchange.

    Args:
        engine: Of the processes.
        documents: By what they are, in the same order on all ranks.

    Raises:
        ValueError: Those of a rank differ from those of rank 0; on all ranks, and names it.
    """
    if engine.size == 1:
        return
    digests = [hashlib.sha256(text.encode()).digest() for text in documents.values()]
    mine = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
    first, *others = engine.all_gather(mine, name="fingerprints")
    for rank, theirs in enumerate(others, 1):
        for what, a, b in zip(documents, first, theirs, strict=True):
            if not np.array_equal(a, b):
                raise ValueError(
                    f"rank {rank} has another {what} than rank 0; all ranks must have the same"
                )


def part_dropout(model: keras.Model, engine: Engine) -> None:
    """Gives each rank dropout masks of its own; rank 0 keeps those it would have alone.

    Before, all ranks have the same seeds and counters.
    """
    for state in _seeds(model) if engine.rank else ():
        seed, count = state.numpy().tolist()
        state.assign(np.array([(seed + engine.rank * _SEED_STRIDE) % 2**31, count], np.int64))


def settle(model: keras.Model, engine: Engine) -> None:
    """Replaces moving averages (of batch norms) by their mean over the processes."""
    averages = [v for v in model.non_trainable_variables if v.dtype == "float32"]
    if engine.size == 1 or not averages:
        return
    flat = np.concatenate([v.numpy().reshape(-1) for v in averages]).astype(np.float64)
    engine.all_reduce(flat, name="moving_averages")
    flat /= engine.size
    first = 0
    for variable in averages:
        size = int(np.prod(variable.shape))
        variable.assign(flat[first : first + size].reshape(variable.shape))
        first += size


def _seeds(model: keras.Model) -> Sequence[keras.Variable]:
    """Seed and counter of each dropout layer: the integers among what is not trained."""
    return [v for v in model.non_trainable_variables if v.dtype == "int64"]
