"""What a scorer is asked and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feedfast.vocab import Keys

KeyBags = tuple[Keys, ArrayLike]
"""Bags of keys in CSR form: (keys, offsets [bags + 1]); offsets[b] is where bag b starts."""


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
    """

    objectives: tuple[str, ...]
    probabilities: NDArray[np.float32]
    score: NDArray[np.float32]
    order: NDArray[np.int64]


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
    """

    objectives: tuple[str, ...]
    probabilities: NDArray[np.float32]
    score: NDArray[np.float32]
    order: NDArray[np.int64]
    candidate_offsets: NDArray[np.int64]

    def rank(self) -> NDArray[np.int64]:
        """[candidates] int64: place of each candidate in its request, the best has 0."""
        starts = np.repeat(self.candidate_offsets[:-1], np.diff(self.candidate_offsets))
        rank = np.empty(len(self.order), dtype=np.int64)
        rank[starts + self.order] = np.arange(len(self.order)) - starts
        return rank
