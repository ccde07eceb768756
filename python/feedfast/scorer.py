"""Scores feed requests natively: from strings to probabilities, utility and order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feedfast.config import HistoryConfig
from feedfast.objectives import Tradeoff, Utility
from feedfast.random_effects import RandomEffects
from feedfast.ranker_artifact import open_ranker
from feedfast.request import (
    BatchResult,
    Explanation,
    Request,
    RequestBatch,
    Result,
    StageTimes,
)
from feedfast.request_columns import (
    batch_of_one,
    checked_candidate_offsets,
    feature_table,
    keys_and_offsets,
    num_keys,
)
from feedfast.store import ModelStore, Verify

__all__ = [
    "BatchResult",
    "Explanation",
    "Request",
    "RequestBatch",
    "Result",
    "Scorer",
    "StageTimes",
]

# Parts of the input that an explanation leaves out; `item` only with random effects.
_GROUPS = (
    "viewer",
    "history_members",
    "history_hashtags",
    "shared",
    "actor",
    "root_actor",
    "hashtags",
    "leaves",
    "dense",
    "item",
)

_MAX_MINI_BATCH = 4096

_ALL_THE_FIRST = np.empty(0, dtype=np.int64)


class Scorer:
    """One version of a ranker, opened for scoring.

    The tables stay in the page cache, mapped read-only and shared by all processes that open them;
    TensorFlow is not needed. The same candidate of the same viewer gets the same bits in any
    request, any batch, any number of threads and any mini-batch size, on one CPU target.

    Safe to call from many threads; calls release the GIL. Safe to use in a child that was forked
    after it was opened, which shares all pages. Pickling keeps path and version: the other process
    opens the same version.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: str = "feed",
        threads: int = 1,
        version: str | int | None = None,
        *,
        verify: Verify = "header",
        mini_batch: int | None = None,
    ) -> None:
        """See `Scorer.open`."""
        _check_options(threads, mini_batch)
        opened = ModelStore(path).open(model, version, verify=verify)
        self._path = os.path.abspath(path)
        self._model = model
        self._version = opened.manifest.version
        self._threads = threads
        self._mini_batch = mini_batch
        self._opened = opened
        self._description, self._native = open_ranker(opened, verify=verify)
        self._other_effects: tuple[RandomEffects | None] | None = None
        self._effects_version = self._description.random_effects_version

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        model: str = "feed",
        threads: int = 1,
        version: str | int | None = None,
        *,
        verify: Verify = "header",
        mini_batch: int | None = None,
    ) -> Scorer:
        """Opens a ranker of a model store.

        Args:
            path: The store.
            model: Name of the model.
            threads: Threads that share the candidates of a request.
            version: Its number; None is the largest one at this moment.
            verify: `header`, `background` or `full`, see `ModelStore.open`.
            mini_batch: Candidates that go through the towers together, at most (1 to 4096); None:
                chosen by the candidates of a request and the threads. It decides speed alone.

        Raises:
            FileNotFoundError: No such model or version.
            ValueError: The model is damaged, of an unknown format version, or not a ranker; or
                `threads` or `mini_batch` is outside its range.
        """
        return cls(path, model, threads, version, verify=verify, mini_batch=mini_batch)

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._model

    @property
    def version(self) -> str:
        """Version that is open."""
        return self._version

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives, in the order of the probabilities."""
        return tuple(objective.name for objective in self.utility.objectives)

    @property
    def utility(self) -> Utility:
        """Objectives with their groups, weights and the default trade-off."""
        return self._description.utility

    @property
    def shared_names(self) -> tuple[str, ...]:
        """Features of a request, in order."""
        return self._description.shared_names

    @property
    def history(self) -> HistoryConfig:
        """Longest histories that the ranker was trained on."""
        return self._description.history

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Features of a candidate, in order."""
        return self._description.dense_names

    @property
    def random_effects_version(self) -> int:
        """Which training of random effects it scores with; 0: none."""
        return self._effects_version

    @property
    def verified(self) -> bool:
        """Whether every byte of the version has been compared with its digest, and was right."""
        return self._opened.verified

    def wait_verified(self, timeout_s: float | None = None) -> None:
        """Returns once every byte of the version is known to be right; see `OpenedModel`.

        Raises:
            ValueError: A blob is missing, truncated or altered; the message names it.
            TimeoutError: Verification goes on after so many seconds.
        """
        self._opened.wait_verified(timeout_s)

    def with_options(self, *, threads: int | None = None, mini_batch: int | None = None) -> Scorer:
        """The same opened model with other options; nothing is opened or copied.

        Raises:
            ValueError: As in `open`.
        """
        other = self._twin()
        if threads is not None:
            other._threads = threads
        if mini_batch is not None:
            other._mini_batch = mini_batch
        _check_options(other._threads, other._mini_batch)
        return other

    def with_random_effects(self, effects: RandomEffects | None) -> Scorer:
        """The same opened model with other random effects, such as those of a newer training.

        Nothing is opened or copied. Pickling takes the effects along.

        Args:
            effects: Coefficients in the order of `objectives`; None: none.

        Raises:
            ValueError: They are not of as many objectives as the model has.
        """
        if effects is not None and effects.coefficients.shape[1] != len(self.objectives):
            raise ValueError(
                f"random effects have {effects.coefficients.shape[1]} objectives; "
                f"the model has {len(self.objectives)}"
            )
        other = self._twin()
        other._native = self._native.with_random_effects(
            None if effects is None else (effects.vocabulary._native, effects.coefficients)
        )
        other._other_effects = (effects,)
        other._effects_version = 0 if effects is None else effects.version
        return other

    def _twin(self) -> Scorer:
        other = object.__new__(Scorer)  # copying would open the version again, as unpickling does
        other.__dict__.update(self.__dict__)
        return other

    def score(
        self,
        request: Request | Mapping[str, Any],
        *,
        tradeoff: Tradeoff | None = None,
        alpha: float | None = None,
        lambda_: float | None = None,
        weights: Sequence[float] | Mapping[str, float] | None = None,
        top_k: int | None = None,
        timing: bool = False,
    ) -> Result:
        """Scores and orders the candidates of one request.

        Args:
            request: Viewer and candidates, of which there may be none; or its fields by name.
            tradeoff: Balance between objectives for this request, such as that of the viewer's
                segment; instead of it:
            alpha: Balance of passive (1) against active (0) objectives for this request.
            lambda_: Factor of the objectives of group `other` for this request.
            weights: [objectives] weights for this request, or some by name. All default to the
                model's.
            top_k: Length of the order; None is all.
            timing: Whether the result says where the time went.

        Raises:
            ValueError: Columns disagree in length, an offset falls, a feature, field or objective
                is unknown, a key is null, a trade-off is outside its range or given twice. The
                message names argument, position, value and limit.
            TypeError: `request` is no `Request`, or a column is of another type.
        """
        start = time.perf_counter_ns()
        batch, offsets = batch_of_one(_as_request(request))
        native = self._score(
            batch,
            offsets,
            start=start,
            tradeoffs=[_one_tradeoff(tradeoff, alpha, lambda_, weights)],
            top_k=top_k,
            timing=timing,
        )
        return Result(
            objectives=self.objectives,
            probabilities=native.probabilities,
            score=native.score,
            order=native.order if top_k is None else native.order[:top_k],
            timing=native.timing,
        )

    def score_batch(
        self,
        requests: RequestBatch,
        *,
        tradeoff: Tradeoff | Iterable[Tradeoff] | None = None,
        alpha: float | None = None,
        lambda_: float | None = None,
        weights: Sequence[float] | Mapping[str, float] | None = None,
        timing: bool = False,
    ) -> BatchResult:
        """Scores many requests, each by one thread, with the bits that `score` gives each alone.

        Args:
            requests: The requests as columns.
            tradeoff: For all of them, or one for each; instead of it:
            alpha, lambda_, weights: As in `score`, for all of them.
            timing: Whether the result says where the time went.

        Raises:
            ValueError, TypeError: As in `score`.
        """
        if not isinstance(requests, RequestBatch):
            raise TypeError(f"requests must be a RequestBatch; got {type(requests).__name__}")
        start = time.perf_counter_ns()
        offsets = checked_candidate_offsets(
            requests.candidate_offsets, num_keys("item", requests.item)
        )
        tradeoffs, tradeoff_of = _distinct(tradeoff, alpha, lambda_, weights)
        if tradeoff_of is not None and len(tradeoff_of) != len(offsets) - 1:
            raise ValueError(
                f"tradeoff has {len(tradeoff_of)} values; there are {len(offsets) - 1} requests"
            )
        native = self._score(
            requests,
            offsets,
            start=start,
            tradeoffs=tradeoffs,
            tradeoff_of=tradeoff_of,
            timing=timing,
        )
        return BatchResult(
            objectives=self.objectives,
            probabilities=native.probabilities,
            score=native.score,
            order=native.order,
            candidate_offsets=offsets,
            timing=native.timing,
        )

    def explain(
        self,
        request: Request | Mapping[str, Any],
        candidates: ArrayLike | None = None,
        *,
        tradeoff: Tradeoff | None = None,
        alpha: float | None = None,
        lambda_: float | None = None,
        weights: Sequence[float] | Mapping[str, float] | None = None,
    ) -> Explanation:
        """Why candidates of a request score as they do; see `Explanation`.

        Costs as much as scoring these candidates once for each group of inputs, and twice more.

        Args:
            request: As in `score`.
            candidates: Positions in the request; None: all.
            tradeoff, alpha, lambda_, weights: As in `score`.

        Raises:
            ValueError, TypeError: As in `score`; or a candidate is not one of the request's.
        """
        batch, offsets = batch_of_one(_as_request(request))
        chosen = (
            np.arange(offsets[-1]) if candidates is None else np.asarray(candidates).reshape(-1)
        )
        if chosen.size and chosen.dtype.kind not in "iu":
            raise TypeError(f"candidates must be integers; got {chosen.dtype}")
        chosen = np.ascontiguousarray(chosen, dtype=np.int64)
        balance = _one_tradeoff(tradeoff, alpha, lambda_, weights)
        groups = _GROUPS if self.random_effects_version else _GROUPS[:-1]

        def score(without: Sequence[str] = ()) -> _Scored:
            return self._score(
                batch, offsets, tradeoffs=[balance], candidates=chosen, without=without
            )

        whole, nothing = score(), score(groups)
        parts = [score([group]) for group in groups]
        alpha, lambda_, utility_weights = balance.of(self.utility)
        coefficients = Utility(
            objectives=self.utility.objectives,
            weights=tuple(utility_weights),
            alpha=alpha,
            other_weight=lambda_,
        ).coefficients()
        total = whole.score.astype(np.float64)
        by_group = np.stack([total - part.score for part in parts], axis=1)
        return Explanation(
            objectives=self.objectives,
            groups=groups,
            candidates=chosen,
            probabilities=whole.probabilities,
            score=whole.score,
            by_objective=coefficients * whole.probabilities,
            by_group=by_group,
            probabilities_by_group=np.stack(
                [whole.probabilities.astype(np.float64) - part.probabilities for part in parts],
                axis=1,
            ),
            baseline=nothing.score.astype(np.float64),
            interaction=total - nothing.score - by_group.sum(axis=1),
        )

    def _score(
        self,
        batch: RequestBatch,
        offsets: NDArray[np.int64],
        *,
        tradeoffs: Sequence[Tradeoff],
        tradeoff_of: NDArray[np.int64] | None = None,
        candidates: NDArray[np.int64] | None = None,
        without: Sequence[str] = (),
        top_k: int | None = None,
        timing: bool = False,
        start: int = 0,
    ) -> _Scored:
        """With timing, `start` is when the call began."""
        num_requests, num_candidates = len(offsets) - 1, int(offsets[-1])
        members, member_offsets = keys_and_offsets(
            "history_members", "history_member_offsets", batch.history_members, num_requests
        )
        hashtags, hashtag_offsets = keys_and_offsets(
            "history_hashtags", "history_hashtag_offsets", batch.history_hashtags, num_requests
        )
        candidate_hashtags, candidate_hashtag_offsets = keys_and_offsets(
            "hashtags", "hashtag_offsets", batch.hashtags, num_candidates
        )
        probabilities, score, order, times = self._native.score(
            candidate_offsets=offsets,
            viewer=batch.viewer,
            history_members=members,
            history_member_offsets=member_offsets,
            history_hashtags=hashtags,
            history_hashtag_offsets=hashtag_offsets,
            shared=feature_table("shared", batch.shared, self.shared_names, num_requests),
            item=batch.item,
            actor=batch.actor,
            root_actor=batch.actor if batch.root_actor is None else batch.root_actor,
            hashtags=candidate_hashtags,
            hashtag_offsets=candidate_hashtag_offsets,
            dense=feature_table("dense", batch.dense, self.dense_names, num_candidates),
            tradeoffs=[tradeoff.of(self.utility) for tradeoff in tradeoffs],
            tradeoff_of=_ALL_THE_FIRST if tradeoff_of is None else tradeoff_of,
            candidates=candidates,
            without=without,
            top_k=top_k,
            threads=self._threads,
            mini_batch=self._mini_batch or 0,
            timing=timing,
        )
        taken = None
        if times is not None:
            (strings, trees, lookups, dense, rest), native_wall = times
            wall = time.perf_counter_ns() - start
            taken = StageTimes(
                strings=1e-9 * strings,
                trees=1e-9 * trees,
                lookups=1e-9 * lookups,
                dense=1e-9 * dense,
                rest=1e-9 * (rest + wall - native_wall),
                wall=1e-9 * wall,
            )
        return _Scored(probabilities, score, order, taken)

    def __reduce__(self) -> tuple[Callable[..., Scorer], tuple[Any, ...]]:
        arguments = (self._path, self._model, self._threads, self._version, self._mini_batch)
        return _reopen, (*arguments, self._other_effects)

    def __repr__(self) -> str:
        return (
            f"Scorer({self._path!r}, model={self._model!r}, threads={self._threads}, "
            f"version={self._version!r})"
        )


def _reopen(
    path: str,
    model: str,
    threads: int,
    version: str,
    mini_batch: int | None,
    other_effects: tuple[RandomEffects | None] | None,
) -> Scorer:
    scorer = Scorer(path, model, threads, version, mini_batch=mini_batch)
    return scorer if other_effects is None else scorer.with_random_effects(*other_effects)


class _Scored(NamedTuple):
    probabilities: NDArray[np.float32]
    score: NDArray[np.float32]
    order: NDArray[np.int64]
    timing: StageTimes | None


def _check_options(threads: int, mini_batch: int | None) -> None:
    if threads < 1:
        raise ValueError(f"threads must be >= 1; got {threads}")
    if mini_batch is not None and not 1 <= mini_batch <= _MAX_MINI_BATCH:
        raise ValueError(f"mini_batch must be in [1, {_MAX_MINI_BATCH}]; got {mini_batch}")


def _as_request(request: Request | Mapping[str, Any]) -> Request:
    if isinstance(request, Request):
        return request
    if isinstance(request, Mapping):
        return Request.from_dict(request)
    raise TypeError(f"request must be a Request or a mapping; got {type(request).__name__}")


def _one_tradeoff(
    tradeoff: Tradeoff | None,
    alpha: float | None,
    lambda_: float | None,
    weights: Sequence[float] | Mapping[str, float] | None,
) -> Tradeoff:
    if tradeoff is None:
        return Tradeoff(alpha=alpha, lambda_=lambda_, weights=weights)
    if not isinstance(tradeoff, Tradeoff):
        raise TypeError(f"tradeoff must be a Tradeoff; got {type(tradeoff).__name__}")
    if alpha is not None or lambda_ is not None or weights is not None:
        raise ValueError("tradeoff is given beside alpha, lambda_ or weights; allowed: one of both")
    return tradeoff


def _distinct(
    tradeoff: Tradeoff | Iterable[Tradeoff] | None,
    alpha: float | None,
    lambda_: float | None,
    weights: Sequence[float] | Mapping[str, float] | None,
) -> tuple[list[Tradeoff], NDArray[np.int64] | None]:
    """(different trade-offs, which of them each request has; None: all the first)."""
    if tradeoff is None or isinstance(tradeoff, Tradeoff):
        return [_one_tradeoff(tradeoff, alpha, lambda_, weights)], None
    given = [_one_tradeoff(each, alpha, lambda_, weights) for each in tradeoff]
    places: dict[int, int] = {}
    tradeoff_of = [places.setdefault(id(each), len(places)) for each in given]
    different = {id(each): each for each in given}
    return list(different.values()) or [Tradeoff()], np.array(tradeoff_of, dtype=np.int64)
