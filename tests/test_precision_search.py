from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from feedfast.precision_search import SectionOptions, smallest_precisions

BYTES = {"int4": 10, "int8": 20, "bf16": 40, "fp32": 80}


def sections(*names: str) -> list[SectionOptions]:
    return [SectionOptions(name=name, num_bytes=BYTES) for name in names]


class Additive:
    """A model whose losses of single sections add up."""

    def __init__(self, losses: Mapping[str, Mapping[str, float]]) -> None:
        self.losses = losses
        self.calls: list[dict[str, str]] = []

    def __call__(self, precisions: Mapping[str, str]) -> float:
        self.calls.append(dict(precisions))
        return sum(self.losses[name].get(p, 0.0) for name, p in precisions.items())


def test_each_section_gets_the_smallest_that_holds() -> None:
    model = Additive({"a": {"int4": 9.0, "int8": 0.2}, "b": {"int4": 0.1}})
    told: list[tuple[int, int]] = []
    choice = smallest_precisions(
        sections("a", "b"),
        model,
        max_delta=1.0,
        tell=lambda done, most, _: told.append((done, most)),
    )
    assert choice.precisions == {"a": "int8", "b": "int4"}
    assert choice.delta == pytest.approx(0.3)
    assert [(m.section, m.precision, m.num_bytes, m.delta) for m in choice.measurements] == [
        ("a", "int4", 10, 9.0),
        ("a", "int8", 20, 0.2),
        ("b", "int4", 10, 0.1),
    ]
    assert choice.num_joint == 1
    assert [done for done, _ in told] == list(range(1, len(model.calls) + 1))
    assert all(done <= most for done, most in told)


def test_sections_that_only_fail_together_go_up_by_loss_per_byte() -> None:
    model = Additive(
        {"a": {"int4": 0.9, "int8": 0.05}, "b": {"int4": 0.6, "int8": 0.5}, "c": {"int4": 0.01}}
    )
    choice = smallest_precisions(sections("a", "b", "c"), model, max_delta=1.0)
    assert choice.precisions == {"a": "int8", "b": "int4", "c": "int4"}
    assert choice.delta == pytest.approx(0.66)


def test_one_reduced_section_needs_no_joint_measurement() -> None:
    model = Additive({"a": {"int4": 0.5}, "b": {"int4": 9, "int8": 9, "bf16": 9}})
    choice = smallest_precisions(sections("a", "b"), model, max_delta=1.0)
    assert choice.precisions == {"a": "int4", "b": "fp32"}
    assert (choice.delta, choice.num_joint) == (0.5, 0)


def test_nothing_holds_a_budget_of_zero_but_exact_sections() -> None:
    model = Additive({"a": {"int4": 1, "int8": math.nan, "bf16": math.inf}})
    choice = smallest_precisions(sections("a"), model, max_delta=0.0)
    assert choice.precisions == {"a": "fp32"}
    assert choice.delta == 0.0
    assert smallest_precisions([], model, max_delta=0.0).precisions == {}


@pytest.mark.parametrize("budget", [-1.0, math.nan])
def test_refuses_budgets(budget: float) -> None:
    with pytest.raises(ValueError, match="max_delta must be >= 0; got"):
        smallest_precisions([], lambda _: 0.0, max_delta=budget)


def test_any_model_ends_within_its_budget() -> None:
    rng = np.random.default_rng(20_261_122)
    for _ in range(200):
        names = [f"s{i}" for i in range(int(rng.integers(1, 6)))]
        losses = {n: {p: float(rng.exponential()) for p in ("int4", "int8", "bf16")} for n in names}

        def measure(precisions: Mapping[str, str], losses: Mapping = losses) -> float:
            parts = [losses[n][p] for n, p in precisions.items() if p != "fp32"]
            return float(sum(parts) * rng.uniform(0.5, 1.5)) if len(parts) > 1 else sum(parts)

        budget = float(rng.exponential())
        choice = smallest_precisions(sections(*names), measure, max_delta=budget)
        assert choice.delta <= budget
        assert set(choice.precisions) == set(names)
