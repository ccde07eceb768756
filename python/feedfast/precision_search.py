"""The smallest number formats that keep a model's quality on given data; plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionOptions:
    """One part of a model and the formats it may have.

    Attributes:
        name: Name of the part.
        num_bytes: Bytes by precision; the last entry is the reference, in which the part is exact.
    """

    name: str
    num_bytes: Mapping[str, int]

    @property
    def ladder(self) -> tuple[str, ...]:
        """The precisions, smallest first; the reference last."""
        *smaller, reference = self.num_bytes
        return (*sorted(smaller, key=lambda precision: self.num_bytes[precision]), reference)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One part in one precision, all others exact.

    Attributes:
        section, precision: Which.
        num_bytes: Of the part.
        delta: Figure of merit against the exact model, see `smallest_precisions`.
    """

    section: str
    precision: str
    num_bytes: int
    delta: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionChoice:
    """What a search found.

    Attributes:
        precisions: By section.
        delta: Of the model with all of them.
        measurements: Of single sections, in the order in which they were made.
        num_joint: Models with several sections that were measured.
    """

    precisions: Mapping[str, str]
    delta: float
    measurements: tuple[Measurement, ...]
    num_joint: int


Tell = Callable[[int, int, str], None]


def smallest_precisions(
    sections: Sequence[SectionOptions],
    measure: Callable[[Mapping[str, str]], float],
    *,
    max_delta: float,
    tell: Tell | None = None,
) -> PrecisionChoice:
    """The smallest precision of each section with which the whole model stays within a budget.

    Each section takes the smallest precision that holds the budget while all others are exact. All
    of them together may lose more: then, one step at a time, the section goes one precision up
    that loses most per byte which the step costs, until the whole model holds the budget. With
    every section exact it does, whatever the budget.

    Args:
        sections: The parts.
        measure: Loss of a model with these precisions by section (absent: exact) against the exact
            one, >= 0; NaN counts as unbounded.
        max_delta: The budget, >= 0.
        tell: Called with (measurements done, an upper bound on their number, what was found).

    Raises:
        ValueError: The budget is negative or NaN.
    """
    if not max_delta >= 0.0:
        raise ValueError(f"max_delta must be >= 0; got {max_delta}")
    most = sum(len(section.ladder) - 1 for section in sections) + 1
    done = 0

    def measured(precisions: Mapping[str, str]) -> float:
        nonlocal done
        delta = measure(precisions)
        done += 1
        if tell is not None:
            what = ", ".join(f"{name} {precision}" for name, precision in precisions.items())
            tell(done, max(most, done), f"{what if len(precisions) == 1 else 'all'}: {delta:.2e}")
        return math.inf if math.isnan(delta) else delta

    measurements: list[Measurement] = []
    loss_alone: dict[tuple[str, str], float] = {}

    def alone(section: SectionOptions, precision: str) -> float:
        key = (section.name, precision)
        if precision == section.ladder[-1]:
            return 0.0
        if key not in loss_alone:
            loss_alone[key] = measured({section.name: precision})
            num_bytes = section.num_bytes[precision]
            measurements.append(
                Measurement(
                    section=section.name,
                    precision=precision,
                    num_bytes=num_bytes,
                    delta=loss_alone[key],
                )
            )
        return loss_alone[key]

    rung = {
        section.name: next(
            index
            for index, precision in enumerate(section.ladder)
            if alone(section, precision) <= max_delta
        )
        for section in sections
    }

    def price(section: SectionOptions) -> float:
        """Loss that one step up takes away, per byte."""
        here, above = section.ladder[rung[section.name] : rung[section.name] + 2]
        cost = section.num_bytes[above] - section.num_bytes[here]
        return alone(section, here) / max(cost, 1)

    num_joint = 0
    while True:
        chosen = {section.name: section.ladder[rung[section.name]] for section in sections}
        reduced = [s for s in sections if rung[s.name] < len(s.ladder) - 1]
        if len(reduced) > 1:
            delta = measured({s.name: chosen[s.name] for s in reduced})
            num_joint += 1
        else:
            delta = max((alone(s, chosen[s.name]) for s in reduced), default=0.0)
        if delta <= max_delta:
            return PrecisionChoice(
                precisions=chosen,
                delta=delta,
                measurements=tuple(measurements),
                num_joint=num_joint,
            )
        rung[max(reduced, key=price).name] += 1
