"""The job in which a toy DLRM trains: one start of Horovod for all parts that are asked for."""

from __future__ import annotations

import functools
import uuid
from typing import Any

from distributed_parts.horovod_job import run_job
from feedfast.bench import BenchOptions

# Rounds of each part.
_ROUNDS = {"training": 31, "sweep": 11, "crossover": 15}
_QUICK_ROUNDS = 3
_QUICK_SCALE = 8


def document_of(part: str, options: BenchOptions) -> Any:
    """What the job measured for `part`; None without Horovod.

    Unless `options.only` names one, the job of the first part measures the others too.
    """
    parts = tuple(_ROUNDS) if options.only is None else (part,)
    documents = _run(parts, options.quick)
    return None if documents is None else documents[part]


@functools.cache
def _run(parts: tuple[str, ...], quick: bool) -> dict[str, Any] | None:
    rounds = {part: _QUICK_ROUNDS if quick else _ROUNDS[part] for part in parts}
    documents: dict[str, Any] | None = run_job(
        "distributed_training.py",
        ",".join(f"{part}={count}" for part, count in rounds.items()),
        f"bench-{uuid.uuid4().hex}",
        str(_QUICK_SCALE if quick else 1),
    )
    return documents
