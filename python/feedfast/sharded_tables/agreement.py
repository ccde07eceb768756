"""Errors of one rank that all ranks raise, so that none waits for another that gave up."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from feedfast.comm import Engine
from feedfast.comm.traced import PeerLostError

Result = TypeVar("Result")


def all_or_none(
    engine: Engine, name: str, work: Callable[[], Result], *, share: Callable[[Result], str]
) -> tuple[Result, list[str]]:
    """Does `work` on every rank; one exchange.

    Args:
        engine: Of the ranks.
        name: Of the exchange.
        work: What may fail.
        share: A text about the result for all ranks.

    Returns:
        The result of this rank, and the texts of all.

    Raises:
        Exception: That of this rank's work.
        PeerLostError: The work of other ranks failed; says how.
    """
    failure: Exception | None = None
    result: Any = None
    text = ""
    try:
        result = work()
        text = "1" + share(result)
    except Exception as error:
        failure = error
        text = "0" + traceback.format_exception_only(error)[-1].strip()
    # Names of files need not be UTF-8, and an error here would leave the others waiting.
    encoded = text.encode(errors="backslashreplace")
    gathered = engine.all_gather(np.frombuffer(encoded, np.uint8), name=name)
    if failure is not None:
        raise failure
    texts = [part.tobytes().decode() for part in gathered]
    failed = [f"rank {rank}: {text[1:]}" for rank, text in enumerate(texts) if text[0] == "0"]
    if failed:
        raise PeerLostError("; ".join(failed))
    return result, [text[1:] for text in texts]
