"""An engine whose exchanges show up in profiles."""

from __future__ import annotations

from contextlib import AbstractContextManager

from feedfast.comm import Engine
from feedfast.comm.traced import WrappedEngine
from feedfast.tf.step_profile import exchange_mark

__all__ = ["TimedEngine"]


class TimedEngine(WrappedEngine):
    """Does what `engine` does, and marks every exchange with its name for `profile_steps`.

    Subgroups are marked too.

    Args:
        engine: What exchanges; closed with this one.
    """

    def around(self, kind: str, name: str, num_bytes: int) -> AbstractContextManager[None]:
        """Marks."""
        return exchange_mark(name)

    def _subgroup(self, ranks: tuple[int, ...], name: str) -> Engine | None:
        inner = super()._subgroup(ranks, name)
        return None if inner is None else TimedEngine(inner)
