"""Objectives of a feed ranker, their groups, and the utility that makes one score of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Group = Literal["passive", "active", "other"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True, slots=True)
class Objective:
    """One predicted member action.

    `passive` actions consume (click, dwell), `active` ones contribute (like, comment, reshare), and
    `other` is what fits neither, such as feedback of the creator. The passive tower predicts the
    first group, the active tower the other two.
    """

    name: str
    group: Group

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("objective: name is empty")
        if self.group not in GROUPS:
            raise ValueError(
                f"objective {self.name!r}: group must be one of {', '.join(GROUPS)}; "
                f"got {self.group!r}"
            )


def check_objectives(objectives: Sequence[Objective]) -> tuple[Objective, ...]:
    """The objectives as a tuple.

    Raises:
        ValueError: There is none, or two have one name.
    """
    if not objectives:
        raise ValueError("objectives: at least one is needed")
    seen: set[str] = set()
    for objective in objectives:
        if objective.name in seen:
            raise ValueError(f"objectives: {objective.name!r} occurs twice")
        seen.add(objective.name)
    return tuple(objectives)


def inverse_base_rates(
    labels: NDArray[np.float32], objectives: Sequence[Objective]
) -> NDArray[np.float32]:
    """Utility weights that make one action of every kind worth the same: w_k = defined_k /
    positives_k.

    An objective without a positive is weighted as if it had half of one, so that a short log gives
    a finite weight.

    Args:
        labels: [rows, objectives], 0, 1 or NaN where undefined.
        objectives: Name the columns.

    Returns:
        [objectives] float32, each >= 1.

    Raises:
        ValueError: The number of columns differs, or an objective has no defined label.
    """
    if labels.ndim != 2 or labels.shape[1] != len(objectives):
        raise ValueError(
            f"labels: shape {labels.shape} does not have one column for each of "
            f"{len(objectives)} objectives"
        )
    defined = np.count_nonzero(~np.isnan(labels), axis=0)
    for objective, count in zip(objectives, defined, strict=True):
        if count == 0:
            raise ValueError(f"objective {objective.name!r}: no row has a defined label")
    positives = np.maximum(np.nansum(labels, axis=0, dtype=np.float64), 0.5)
    weights: NDArray[np.float32] = (defined / positives).astype(np.float32)
    return weights


# Bound of the score of probabilities of 1, which float32 holds; kLargestUtility of the scorer.
LARGEST_UTILITY = 1e38


@dataclass(frozen=True, kw_only=True, slots=True)
class Utility:
    """Score of a candidate from its per-objective probabilities.

    utility = alpha * sum_passive(w_k p_k) + (1 - alpha) * sum_active(w_k p_k) + other_weight *
    sum_other(w_k p_k)

    It never falls when a probability rises: weights and `other_weight` are not negative and alpha
    is in [0, 1].

    Attributes:
        objectives: The heads, in the order of the probabilities.
        weights: w_k, one per objective, finite and >= 0.
        alpha: Balance of passive (1) against active (0) consumption.
        other_weight: The lambda of the formula.
    """

    objectives: tuple[Objective, ...]
    weights: tuple[float, ...]
    alpha: float = 0.5
    other_weight: float = 1.0

    def __post_init__(self) -> None:
        check_objectives(self.objectives)
        if len(self.weights) != len(self.objectives):
            raise ValueError(
                f"utility: {len(self.weights)} weights for {len(self.objectives)} objectives"
            )
        for objective, weight in zip(self.objectives, self.weights, strict=True):
            if not (math.isfinite(weight) and weight >= 0.0):
                raise ValueError(
                    f"utility: weight of {objective.name!r} must be finite and >= 0; got {weight}"
                )
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"utility: alpha must be in [0, 1]; got {self.alpha}")
        if not (math.isfinite(self.other_weight) and self.other_weight >= 0.0):
            raise ValueError(
                f"utility: other_weight must be finite and >= 0; got {self.other_weight}"
            )
        largest = sum(self._products())
        if not largest <= LARGEST_UTILITY:
            raise ValueError(
                "utility: weights times alpha, 1 - alpha and other_weight add up to "
                f"{largest:g}; allowed: at most {LARGEST_UTILITY:g}"
            )

    def coefficients(self) -> NDArray[np.float32]:
        """[objectives] float32: the group's factor times w_k, rounded once from float64."""
        return np.asarray(self._products(), dtype=np.float64).astype(np.float32)

    def _products(self) -> list[float]:
        factors = {"passive": self.alpha, "active": 1.0 - self.alpha, "other": self.other_weight}
        return [factors[o.group] * w for o, w in zip(self.objectives, self.weights, strict=True)]

    def score(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Utility of each candidate.

        One float32 accumulator per candidate, objectives ascending, multiply and add rounded apart:
        the bits do not depend on how many candidates are scored together.

        Args:
            probabilities: [candidates, objectives].

        Returns:
            [candidates] float32.

        Raises:
            ValueError: The number of columns is not the number of objectives.
        """
        if probabilities.ndim != 2 or probabilities.shape[1] != len(self.objectives):
            raise ValueError(
                f"probabilities: shape {probabilities.shape} does not have one column for each of "
                f"{len(self.objectives)} objectives"
            )
        score = np.zeros(probabilities.shape[0], dtype=np.float32)
        for column, coefficient in enumerate(self.coefficients()):
            score += coefficient * probabilities[:, column].astype(np.float32, copy=False)
        return score


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Tradeoff:
    """The balance between objectives for one request or a segment of members.

    What is None, or a name that is left out, is the model's. Contributors and consumers, say, get
    different lists from the same probabilities.

    Attributes:
        alpha: Balance of passive (1) against active (0) objectives.
        lambda_: Factor of the objectives of group `other`.
        weights: w_k, in the order of the objectives or by name.
    """

    alpha: float | None = None
    lambda_: float | None = None
    weights: Sequence[float] | Mapping[str, float] | None = None

    def of(self, utility: Utility) -> tuple[float, float, list[float]]:
        """(alpha, lambda, weights) with the model's values filled in.

        Raises:
            ValueError: A name is not one of the objectives. Ranges are checked where it is used.
            TypeError: The weights are text, whose digits would pass for numbers.
        """
        weights: Sequence[float] = utility.weights
        if isinstance(self.weights, str | bytes):
            raise TypeError(
                "weights must be numbers in the order of the objectives or by name; "
                f"got {type(self.weights).__name__}"
            )
        if isinstance(self.weights, Mapping):
            names = [objective.name for objective in utility.objectives]
            for name in self.weights:
                if name not in names:
                    raise ValueError(
                        f"weights: {name!r} is not an objective; allowed: {', '.join(names)}"
                    )
            weights = [
                self.weights.get(name, weight)
                for name, weight in zip(names, utility.weights, strict=True)
            ]
        elif self.weights is not None:
            weights = self.weights
        return (
            float(utility.alpha if self.alpha is None else self.alpha),
            float(utility.other_weight if self.lambda_ is None else self.lambda_),
            [float(weight) for weight in weights],
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tradeoff:
        """From the JSON values `alpha`, `lambda` and `weights`, each of which may be left out.

        Raises:
            ValueError: Another name, or a value that is no number.
        """
        unknown = sorted(set(values) - {"alpha", "lambda", "weights"})
        if unknown:
            raise ValueError(f"{unknown[0]!r} is unknown; allowed: alpha, lambda, weights")
        weights = values.get("weights")
        numbers = {
            name: values[name] for name in ("alpha", "lambda") if values.get(name) is not None
        }
        if isinstance(weights, Mapping):
            numbers |= {f"weights.{name}": weight for name, weight in weights.items()}
        elif isinstance(weights, list):
            numbers |= {f"weights[{index}]": weight for index, weight in enumerate(weights)}
        elif weights is not None:
            raise ValueError(f"weights must be a list or an object; got {weights!r}")
        for name, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError(f"{name} must be a number; got {number!r}")
        return cls(alpha=values.get("alpha"), lambda_=values.get("lambda"), weights=weights)


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class SegmentTradeoffs:
    """The balance between objectives by segment of members.

    Attributes:
        segments: By name of the segment.
        default: Of members without a segment, or of one that is not listed.
    """

    segments: Mapping[str, Tradeoff]
    default: Tradeoff = field(default_factory=Tradeoff)

    @classmethod
    def from_json(cls, text: str) -> SegmentTradeoffs:
        """Reads a document such as

            {"segments": {"creators": {"alpha": 0.1, "lambda": 2, "weights": {"share": 30}}},
             "default": {"alpha": 0.7}}

        Raises:
            ValueError: Not JSON, an unknown name, or a value of the wrong type; the message names
                segment and value.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"trade-offs: not JSON: {error}") from None

        def mapping(value: object, where: str) -> Mapping[str, Any]:
            if not isinstance(value, Mapping):
                raise ValueError(f"trade-offs: {where} must be an object; got {value!r}")
            return value

        def tradeoff(value: object, where: str) -> Tradeoff:
            values = mapping(value, where)
            try:
                return Tradeoff.from_dict(values)
            except ValueError as error:
                raise ValueError(f"trade-offs: {where}: {error}") from None

        unknown = sorted(set(mapping(document, "the document")) - {"segments", "default"})
        if unknown:
            raise ValueError(f"trade-offs: {unknown[0]!r} is unknown; allowed: segments, default")
        return cls(
            segments={
                name: tradeoff(value, f"segment {name!r}")
                for name, value in mapping(document.get("segments", {}), "segments").items()
            },
            default=tradeoff(document.get("default", {}), "default"),
        )

    def of(self, segment: str | None) -> Tradeoff:
        """The trade-off of a member of this segment."""
        return self.segments.get(segment, self.default) if segment is not None else self.default
