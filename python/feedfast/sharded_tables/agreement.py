"""What all ranks must say alike, and errors of one that all raise, so that none waits in vain."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from feedfast.comm import Engine
from feedfast.comm.traced import PeerLostError
from feedfast.sharded_tables.table_spec import RowOptimization, TableSpec
from feedfast.sharding import ShardingPlan

Result = TypeVar("Result")
_MOST_SHOWN = 200


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


def check_agreement(
    specs: Sequence[TableSpec],
    plan: ShardingPlan,
    engine: Engine,
    *,
    initialize: bool,
    divide: Callable[[], Mapping[str, str]],
) -> None:
    """Ranks that cut or train tables in different ways would misread each other; one exchange.

    Compared are the plan, names, sizes, the options of the optimizers (of a schedule its first
    learning rate) and, of tables that are to be initialized, the values of row 0; and what `divide`
    says, by name.

    Raises:
        ValueError: Ranks differ; names the first field that does, on all ranks alike.
        Exception: What `divide` or an initializer raises on this rank.
        PeerLostError: One of these on another rank.
    """

    def describe() -> dict[str, str]:
        said = {
            "the plan": plan.to_json(),
            "the tables": ", ".join(spec.name for spec in specs),
            "initialize": str(initialize),
            **divide(),
        }
        for spec in specs:
            optimizer: RowOptimization = spec.optimizer
            options = {
                "rows": spec.rows,
                "dim": spec.dim,
                "dtype": spec.dtype,
                "pooling": spec.pooling,
                **dataclasses.asdict(optimizer),
                "learning_rate": optimizer.rate_at(0),
            }
            if initialize:
                first = np.ascontiguousarray(spec.initializer(spec.name, 0, 1, spec.dim))
                options["first values"] = hashlib.sha256(first.tobytes()).hexdigest()[:16]
            said.update({f"{name} of {spec.name!r}": str(value) for name, value in options.items()})
        return said

    _, texts = all_or_none(engine, "sharded_layout", describe, share=json.dumps)
    first = json.loads(texts[0])
    for rank, text in enumerate(texts[1:], 1):
        if text == texts[0]:
            continue
        other = json.loads(text)
        # In the order of what is said, so that the tables' names come before their options.
        for field, value in first.items():
            if other.get(field) != value:
                raise ValueError(
                    f"rank {rank} differs in {field}: {_short(other.get(field))} where rank 0 has "
                    f"{_short(value)}"
                )


def _short(value: str | None) -> str:
    text = "nothing" if value is None else value
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."
