"""What a scorer is asked and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feedfast.vocab import Keys


@runtime_checkable
class ArrowLists(Protocol):
    """An Arrow array of lists of strings, such as `pyarrow.ListArray`."""

    def flatten(self) -> Any:
        """The keys of all lists, behind each other."""
        ...

    def value_lengths(self) -> Any:
        """Keys of each list; null for null."""
        ...


KeyBags = tuple[Keys, ArrayLike] | Sequence[Sequence[str | bytes]] | ArrowLists
"""Bags of keys. In CSR form a tuple (keys, offsets [bags + 1]), where offsets[b] is where bag b
starts; or a list of lists; or an Arrow array of lists, whose nulls are empty bags. Keys of the
first and the last are not copied."""


@dataclass(frozen=True, eq=False, slots=True)
class Request:
    """One feed request: a viewer and the candidates to be ranked for them.

    Keys are str or bytes in a list, a numpy array or Arrow strings (`feedfast.vocab.Keys`); those
    that the model has never seen are looked up as unknown. Everything but `item` may be None, which
    means what is said below; a float feature that is missing is NaN and is handled as in training.

    Attributes:
        viewer: Member id of the viewer; None: unknown.
        history_members: Members the viewer engaged with, newest first; None: none.
        history_hashtags: Hashtags the viewer engaged with, newest first; None: none.
        shared: [S] features of viewer and request in the model's order, or values by name where
            names that are left out are missing; None: all missing.
        item: [candidates] item ids. They select random effects; a model without any ignores them.
        actor: [candidates] who brought the item to the feed; None: unknown.
        root_actor: [candidates] who made it; None: the actor.
        hashtags: Bags of each candidate's hashtags; None: no candidate has any.
        dense: [candidates, F] features in the model's order, or [candidates] columns by name where
            names that are left out are missing; None: all missing.
    """

    viewer: str | bytes | None
    history_members: Keys | None
    history_hashtags: Keys | None
    shared: ArrayLike | Mapping[str, float] | None
    item: Keys
    actor: Keys | None = None
    root_actor: Keys | None = None
    hashtags: KeyBags | None = None
    dense: ArrayLike | Mapping[str, ArrayLike] | None = None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Request:
        """A request of named fields; all but `item` may be missing, which is None.

        Raises:
            ValueError: A name is none of the attributes, or `item` is missing.
        """
        return cls(
            **(
                {"viewer": None, "history_members": None, "history_hashtags": None, "shared": None}
                | _checked_fields(cls, fields)
            )
        )


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class StageTimes:
    """Where the time of a call went, in seconds.

    All but `wall` are seconds of threads: with one thread they add up to `wall`, but for a few
    microseconds between the stages; with more, those of all threads add up.

    Attributes:
        strings: Keys to rows: string views and vocabulary lookups.
        trees: Features to leaves.
        lookups: Rows of tables to pooled vectors.
        dense: The towers, with the part that all candidates share.
        rest: Checks, normaliser, utility, order, and what Python does around the native call.
        wall: The whole call.
    """

    strings: float
    trees: float
    lookups: float
    dense: float
    rest: float
    wall: float

    def stages(self) -> dict[str, float]:
        """Everything but `wall`, by name."""
        stages = dataclasses.asdict(self)
        del stages["wall"]
        return stages


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class RequestBatch:
    """Any number of requests as columns: the form for scoring logged requests offline.

    Candidate columns hold the candidates of all requests behind each other. None means the same as
    in `Request`, for every request.

    Attributes:
        candidate_offsets: [requests + 1], ascending from 0: request r has the candidates
            candidate_offsets[r] to candidate_offsets[r + 1] - 1.
        viewer: [requests].
        history_members: Bags, one per request.
        history_hashtags: Bags, one per request.
        shared: [requests, S], or [requests] columns by name.
        item: [candidates].
        actor: [candidates].
        root_actor: [candidates].
        hashtags: Bags, one per candidate.
        dense: [candidates, F], or [candidates] columns by name.
    """

    candidate_offsets: ArrayLike
    viewer: Keys | None
    history_members: KeyBags | None
    history_hashtags: KeyBags | None
    shared: ArrayLike | Mapping[str, ArrayLike] | None
    item: Keys
    actor: Keys | None = None
    root_actor: Keys | None = None
    hashtags: KeyBags | None = None
    dense: ArrayLike | Mapping[str, ArrayLike] | None = None


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Result:
    """Scores of the candidates of one request.

    Attributes:
        objectives: Names of the columns of `probabilities`.
        probabilities: [candidates, objectives] float32, calibrated, in [0, 1].
        score: [candidates] float32, the utility that the order follows.
        order: [min(candidates, top_k)] int64, candidates by descending score, equal scores in the
            order of the request.
        timing: Where the time went, when asked for.
    """

    objectives: tuple[str, ...]
    probabilities: NDArray[np.float32]
    score: NDArray[np.float32]
    order: NDArray[np.int64]
    timing: StageTimes | None = None


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class BatchResult:
    """Scores of the candidates of many requests.

    Attributes:
        objectives: Names of the columns of `probabilities`.
        probabilities: [candidates, objectives] float32.
        score: [candidates] float32.
        order: [candidates] int64: from candidate_offsets[r] on, the positions of request r's
            candidates within the request, best first.
        candidate_offsets: [requests + 1] int64, as asked.
        timing: Where the time went, when asked for.
    """

    objectives: tuple[str, ...]
    probabilities: NDArray[np.float32]
    score: NDArray[np.float32]
    order: NDArray[np.int64]
    candidate_offsets: NDArray[np.int64]
    timing: StageTimes | None = None

    def rank(self) -> NDArray[np.int64]:
        """[candidates] int64: place of each candidate in its request, the best has 0."""
        starts = np.repeat(self.candidate_offsets[:-1], np.diff(self.candidate_offsets))
        rank = np.empty(len(self.order), dtype=np.int64)
        rank[starts + self.order] = np.arange(len(self.order)) - starts
        return rank


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Explanation:
    """Why candidates of one request score as they do.

    By objective the score is a sum: `by_objective` adds up to `score`, bit for bit when added in
    float32 from the first objective on. By group of inputs it is not, since the towers are not
    linear: `by_group` is what the score loses when that group alone is left out, and `interaction`
    is what the groups have only together, so that
    score = baseline + by_group.sum(axis=1) + interaction.

    Left out means: `viewer`, `actor`, `root_actor` and `item` like an unknown id; histories and
    `hashtags` empty; `shared` and `dense` at their mean of the training rows, while the forest
    still reads them; `leaves` those of a candidate without any feature.

    Attributes:
        objectives: Names of the objectives.
        groups: Names of the groups of inputs; `item` is among them when the model has random
            effects.
        candidates: [n] int64, positions in the request.
        probabilities: [n, objectives] float32.
        score: [n] float32, with the bits of `Scorer.score`.
        by_objective: [n, objectives] float32, coefficient times probability.
        by_group: [n, groups] float64, score minus the score without the group.
        probabilities_by_group: [n, groups, objectives] float64, the same of the probabilities.
        baseline: [n] float64, the score with all groups left out.
        interaction: [n] float64.
    """

    objectives: tuple[str, ...]
    groups: tuple[str, ...]
    candidates: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    score: NDArray[np.float32]
    by_objective: NDArray[np.float32]
    by_group: NDArray[np.float64]
    probabilities_by_group: NDArray[np.float64]
    baseline: NDArray[np.float64]
    interaction: NDArray[np.float64]


def _checked_fields(cls: type[Request], fields: Mapping[str, Any]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(cls)]
    for name in fields:
        if name not in names:
            raise ValueError(f"request: {name!r} is not a field; allowed: {', '.join(names)}")
    if "item" not in fields:
        raise ValueError("request: 'item' is missing")
    return dict(fields)
