from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from feedfast.comm import NullEngine
from feedfast.tf.distributed import AccumulatingGradientTape
from feedfast.tf.distributed.timed_engine import TimedEngine
from feedfast.tf.step_profile import (
    StepProfile,
    TimeShare,
    _covered,
    _Event,
    _own_times,
    profile_steps,
)

PLANTED_US = 20_000.0


def slow_step() -> Any:
    """A training step with a slow op in its forward pass."""
    weight = tf.Variable(tf.ones([32, 32]))

    def wait(array: np.ndarray) -> np.ndarray:
        time.sleep(PLANTED_US / 1e6)
        return array

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            hidden = tf.matmul(tf.ones([8, 32]), weight)
            hidden += tf.stop_gradient(
                tf.numpy_function(wait, [hidden], tf.float32, name="planted")
            )
            loss = tf.reduce_sum(hidden)
        weight.assign_sub(tape.gradient(loss, weight))

    return step


def test_a_planted_slow_op_is_first() -> None:
    profile = profile_steps(slow_step(), num_steps=3)
    first = profile.parts[0]
    assert (first.kind, first.name, first.type) == ("op", "planted", "PyFunc")
    assert first.calls == 1.0
    assert PLANTED_US <= first.microseconds <= profile.step_microseconds
    assert first.share == pytest.approx(first.microseconds / profile.step_microseconds)
    assert any("MatMul" in part.type for part in profile.parts[1:])
    times = [part.microseconds for part in profile.parts]
    assert times == sorted(times, reverse=True)


def test_reports_are_json() -> None:
    profile = profile_steps(slow_step(), num_steps=2, warm_up=1)
    document = json.loads(json.dumps(profile.as_dict()))
    assert set(document) == {"num_steps", "step_microseconds", "parts"}
    assert document["parts"][0]["name"] == "planted"
    trace = json.loads(profile.chrome_trace())["traceEvents"]
    planted = [event for event in trace if event["name"] == "planted"]
    assert len(planted) == 2
    assert all(event["dur"] >= PLANTED_US for event in planted)


class SlowEngine(NullEngine):
    def _all_reduce(self, array: Any, name: str) -> None:
        time.sleep(PLANTED_US / 1e6)


def test_exchanges_stand_among_the_ops() -> None:
    engine = TimedEngine(SlowEngine())
    weight = tf.Variable(tf.ones([4]))
    tape = AccumulatingGradientTape(2, engine=engine)
    train = tape.training_step(lambda: tf.reduce_sum(weight * 2.0), [weight], lambda g: None)

    def step() -> None:
        train()
        engine.all_reduce(np.ones(3, np.float32), name="planted")

    first = profile_steps(step, num_steps=4).parts[0]
    assert (first.kind, first.name, first.calls) == ("exchange", "planted", 1.0)
    assert engine.exchanges_by_name["planted"].exchanges == 7


def event(name: str, begin: float, end: float, thread: int = 0) -> _Event:
    return _Event("op", name, "Op", begin, end, thread)


def test_own_time_is_without_what_runs_inside_on_the_same_thread() -> None:
    events = [
        event("outer", 0, 10),
        event("inner", 1, 4),
        event("innermost", 2, 3),
        event("second", 5, 9),
        event("after", 12, 13),
        event("other", 0, 20, thread=1),
    ]
    got = {e.name: own for e, own in _own_times(events)}
    assert got == {
        "outer": 3,
        "inner": 2,
        "innermost": 1,
        "second": 4,
        "after": 1,
        "other": 20,
    }
    assert _covered(events) == 20
    assert _covered([event("a", 0, 2), event("b", 5, 6)]) == 3
    assert _covered([]) == 0


@pytest.mark.parametrize(("num_steps", "warm_up"), [(0, 3), (3, -1)])
def test_counts_are_checked(num_steps: int, warm_up: int) -> None:
    with pytest.raises(ValueError, match=f"got {num_steps} and {warm_up}"):
        profile_steps(lambda: None, num_steps=num_steps, warm_up=warm_up)


def test_a_step_without_ops_is_all_outside() -> None:
    profile = profile_steps(lambda: time.sleep(0.001), num_steps=2, warm_up=0)
    assert isinstance(profile, StepProfile)
    only = profile.parts[0]
    assert isinstance(only, TimeShare)
    assert (only.kind, round(only.share, 6)) == ("outside", 1.0)
