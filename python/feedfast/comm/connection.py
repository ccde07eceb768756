"""Finds out which processes this one works with."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Literal

from feedfast.comm.engine import Engine
from feedfast.comm.null import NullEngine
from feedfast.comm.shared_memory import SharedMemoryEngine

Kind = Literal["auto", "null", "shm", "horovod"]

SHARED_MEMORY_VARIABLES = ("FEEDFAST_RANK", "FEEDFAST_SIZE", "FEEDFAST_RENDEZVOUS")
HOROVOD_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK")


def connect(kind: Kind = "auto") -> Engine:
    """The engine of the job that this process was started for.

    Args:
        kind: "null", one process; "shm", processes of one host, as the environment variables
            FEEDFAST_RANK, FEEDFAST_SIZE and FEEDFAST_RENDEZVOUS (the group's name) say, and
            FEEDFAST_TIMEOUT (seconds) may; "horovod", what horovodrun or mpirun started; "auto",
            shared memory or Horovod where its variables are set, else one process.

    Raises:
        ValueError: Another kind, or a variable that is missing or no number.
        ImportError: Horovod is needed and not installed.
        RuntimeError, MemoryError: As `SharedMemoryEngine`.
    """
    if kind == "auto":
        kind = detected_kind()
    if kind == "null":
        return NullEngine()
    if kind == "shm":
        return _shared_memory(os.environ)
    if kind == "horovod":
        module = importlib.import_module("feedfast.comm.horovod_engine")
        engine: Engine = module.HorovodEngine()
        return engine
    raise ValueError(f"kind = {kind!r} is not 'auto', 'null', 'shm' or 'horovod'")


def detected_kind() -> Kind:
    """What "auto" stands for in this process."""
    if any(variable in os.environ for variable in SHARED_MEMORY_VARIABLES):
        return "shm"
    if any(variable in os.environ for variable in HOROVOD_VARIABLES):
        return "horovod"
    return "null"


def _shared_memory(environment: Mapping[str, str]) -> SharedMemoryEngine:
    missing = [variable for variable in SHARED_MEMORY_VARIABLES if variable not in environment]
    if missing:
        raise ValueError(f"the environment has no {', '.join(missing)}")
    return SharedMemoryEngine(
        environment["FEEDFAST_RENDEZVOUS"],
        rank=int(_number(environment, "FEEDFAST_RANK")),
        size=int(_number(environment, "FEEDFAST_SIZE")),
        timeout=_number(environment, "FEEDFAST_TIMEOUT", default="300"),
    )


def _number(environment: Mapping[str, str], variable: str, default: str = "") -> float:
    text = environment.get(variable, default)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{variable} = {text!r} is no number") from None
