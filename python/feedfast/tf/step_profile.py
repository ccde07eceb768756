"""Where the time of a training step goes: by op of TensorFlow and by exchange between processes.

TensorFlow's profiler records when each op of a graph began and ended, on every thread. The time of
an op is what it spent itself, without what it called on its thread; ops on several threads run at
once, so their times may add up to more than the step. What no op and no exchange covers is Python,
the dispatch of functions and waiting.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

__all__ = ["StepProfile", "TimeShare", "exchange_mark", "profile_steps"]

Kind = Literal["op", "exchange", "outside"]

_EXCHANGE = "feedfast exchange "
_OP = re.compile(r"(?P<node>[^:\s][^:]*):(?P<type>\w+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeShare:
    """What one op, one exchange or the rest takes of a step.

    Attributes:
        kind: "op", "exchange", or "outside" of all of them.
        name: Of the node in its graph or of the exchange.
        type: Of the op; of an exchange the same as its kind.
        calls: Per step.
        microseconds: Per step, without what it called.
        share: Of the time of a step.
    """

    kind: Kind
    name: str
    type: str
    calls: float
    microseconds: float
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StepProfile:
    """A profile of steps.

    Attributes:
        num_steps: How many were measured.
        step_microseconds: Of one step, by the wall clock, with the profiler on.
        parts: Slowest first.
        events: As `traceEvents` of a Chrome trace.
    """

    num_steps: int
    step_microseconds: float
    parts: tuple[TimeShare, ...]
    events: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the events, JSON-ready."""
        return {
            "num_steps": self.num_steps,
            "step_microseconds": self.step_microseconds,
            "parts": [asdict(part) for part in self.parts],
        }

    def chrome_trace(self) -> str:
        """JSON for chrome://tracing or ui.perfetto.dev."""
        return json.dumps({"traceEvents": self.events, "displayTimeUnit": "ms"})


@contextmanager
def exchange_mark(name: str) -> Iterator[None]:
    """Makes what runs inside show up in profiles as the exchange `name`; costs nothing without."""
    with tf.profiler.experimental.Trace(_EXCHANGE + name):
        yield


def profile_steps(step: Callable[[], Any], *, num_steps: int = 20, warm_up: int = 3) -> StepProfile:
    """Runs steps under TensorFlow's profiler, of which a process can run one at a time.

    Args:
        step: One training step.
        num_steps: Steps that are measured.
        warm_up: Steps before them, which trace and compile.

    Raises:
        ValueError: `num_steps` is below 1 or `warm_up` negative.
    """
    if num_steps < 1 or warm_up < 0:
        raise ValueError(
            f"num_steps must be at least 1 and warm_up at least 0; got {num_steps} and {warm_up}"
        )
    for _ in range(warm_up):
        step()
    options = tf.profiler.experimental.ProfilerOptions(
        host_tracer_level=3, python_tracer_level=0, device_tracer_level=0
    )
    with tempfile.TemporaryDirectory(prefix="feedfast_profile_") as folder:
        tf.profiler.experimental.start(folder, options)
        try:
            start = time.perf_counter()
            for _ in range(num_steps):
                step()
            seconds = time.perf_counter() - start
        finally:
            tf.profiler.experimental.stop()
        events = [event for path in Path(folder).rglob("*.xplane.pb") for event in _events(path)]
    return _profile(events, seconds * 1e6, num_steps)


@dataclass(frozen=True, slots=True)
class _Event:
    """An interval on a thread, in microseconds."""

    kind: Kind
    name: str
    type: str
    begin: float
    end: float
    thread: int


def _events(path: Path) -> Iterator[_Event]:
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    for plane in space.planes:
        names = {key: metadata.name for key, metadata in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                name = names[event.metadata_id]
                kind: Kind
                if name.startswith(_EXCHANGE):
                    kind, node, op = "exchange", name.removeprefix(_EXCHANGE), "exchange"
                elif match := _OP.fullmatch(name):
                    kind, node, op = "op", match["node"], match["type"]
                else:
                    continue
                begin = line.timestamp_ns / 1e3 + event.offset_ps / 1e6
                yield _Event(kind, node, op, begin, begin + event.duration_ps / 1e6, line.id)


def _profile(events: Iterable[_Event], microseconds: float, num_steps: int) -> StepProfile:
    ordered = sorted(events, key=lambda event: (event.thread, event.begin, -event.end))
    taken: dict[tuple[Kind, str, str], list[float]] = {}
    for event, own in _own_times(ordered):
        calls_and_time = taken.setdefault((event.kind, event.name, event.type), [0.0, 0.0])
        calls_and_time[0] += 1
        calls_and_time[1] += own
    outside = max(0.0, microseconds - _covered(ordered))
    taken["outside", "no op and no exchange", "Python, dispatch, waiting"] = [num_steps, outside]
    parts = [
        TimeShare(
            kind=kind,
            name=name,
            type=op,
            calls=calls / num_steps,
            microseconds=time_taken / num_steps,
            share=time_taken / microseconds,
        )
        for (kind, name, op), (calls, time_taken) in taken.items()
    ]
    parts.sort(key=lambda part: (-part.microseconds, part.name))
    origin = min((event.begin for event in ordered), default=0.0)
    return StepProfile(
        num_steps=num_steps,
        step_microseconds=microseconds / num_steps,
        parts=tuple(parts),
        events=tuple(
            {
                "name": event.name,
                "cat": event.type,
                "ph": "X",
                "ts": event.begin - origin,
                "dur": event.end - event.begin,
                "pid": 0,
                "tid": event.thread,
            }
            for event in ordered
        ),
    )


def _own_times(ordered: list[_Event]) -> Iterator[tuple[_Event, float]]:
    """Each event with its time without the events inside it on its thread."""
    own = [event.end - event.begin for event in ordered]
    open_events: list[int] = []
    for i, event in enumerate(ordered):
        while open_events and (
            ordered[open_events[-1]].thread != event.thread
            or ordered[open_events[-1]].end <= event.begin
        ):
            open_events.pop()
        if open_events:
            own[open_events[-1]] -= event.end - event.begin
        open_events.append(i)
    return zip(ordered, (max(0.0, time_taken) for time_taken in own), strict=True)


def _covered(events: list[_Event]) -> float:
    """Length of the union of all intervals."""
    covered, end = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event.begin):
        covered += max(0.0, event.end - max(event.begin, end))
        end = max(end, event.end)
    return covered
