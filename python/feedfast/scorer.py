"""Scores feed requests natively: from strings to probabilities, utility and order."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feedfast.bags import as_float32
from feedfast.config import HistoryConfig
from feedfast.objectives import Utility
from feedfast.ranker_artifact import open_ranker
from feedfast.request import BatchResult, KeyBags, Request, RequestBatch, Result
from feedfast.store import ModelStore, Verify

__all__ = ["BatchResult", "Request", "RequestBatch", "Result", "Scorer"]

# 4% less CPU time than 128 at 500 candidates and two towers of 512-256-128; 500 saves 3% more.
MINI_BATCH = 256
_MAX_MINI_BATCH = 4096


class Scorer:
    """One version of a ranker, opened for scoring.

    The tables stay in the page cache, mapped read-only and shared by all processes that open them;
    TensorFlow is not needed. The same candidate of the same viewer gets the same bits in any
    request, any batch, any number of threads and any mini-batch size, on one CPU target.

    Safe to call from many threads; calls release the GIL. Pickling keeps path and version: the
    other process opens the same version.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: str = "feed",
        threads: int = 1,
        version: str | int | None = None,
        *,
        verify: Verify = "header",
        mini_batch: int = MINI_BATCH,
    ) -> None:
        """See `Scorer.open`."""
        if threads < 1:
            raise ValueError(f"threads must be >= 1; got {threads}")
        if not 1 <= mini_batch <= _MAX_MINI_BATCH:
            raise ValueError(f"mini_batch must be in [1, {_MAX_MINI_BATCH}]; got {mini_batch}")
        opened = ModelStore(path).open(model, version, verify=verify)
        self._path = os.path.abspath(path)
        self._model = model
        self._version = opened.manifest.version
        self._threads = threads
        self._mini_batch = mini_batch
        self._description, self._native = open_ranker(opened, verify=verify)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        model: str = "feed",
        threads: int = 1,
        version: str | int | None = None,
        *,
        verify: Verify = "header",
        mini_batch: int = MINI_BATCH,
    ) -> Scorer:
        """Opens a ranker of a model store.

        Args:
            path: The store.
            model: Name of the model.
            threads: Threads that share the candidates of a request.
            version: Its number; None is the largest one at this moment.
            verify: `header` or `full`, see `ModelStore.open`.
            mini_batch: Candidates that go through the towers together, at most (1 to 4096). It
                decides speed alone.

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

    def score(
        self,
        request: Request,
        *,
        alpha: float | None = None,
        lambda_: float | None = None,
        weights: Sequence[float] | None = None,
        top_k: int | None = None,
    ) -> Result:
        """Scores and orders the candidates of one request.

        Args:
            request: Viewer and candidates; there may be none.
            alpha: Balance of passive (1) against active (0) objectives for this request.
            lambda_: Factor of the objectives of group `other` for this request.
            weights: [objectives] weights for this request. All three default to the model's.
            top_k: Length of the order; None is all.

        Raises:
            ValueError: Columns disagree in length, an offset falls, a feature name is unknown, a
                key is null, a trade-off is outside its range. The message names argument, position,
                value and limit.
            TypeError: `request` is no `Request`, or a column is of another type.
        """
        if not isinstance(request, Request):
            raise TypeError(f"request must be a Request; got {type(request).__name__}")
        offsets_of_one = np.array([0, _length("item", request.item)], dtype=np.int64)
        probabilities, score, order = self._score(
            RequestBatch(
                candidate_offsets=offsets_of_one,
                viewer=None if request.viewer is None else [request.viewer],
                history_members=_bag_of_one("history_members", request.history_members),
                history_hashtags=_bag_of_one("history_hashtags", request.history_hashtags),
                shared=_row_of_one(request.shared),
                item=request.item,
                actor=request.actor,
                root_actor=request.root_actor,
                hashtags=request.hashtags,
                dense=request.dense,
            ),
            offsets_of_one,
            alpha=alpha,
            lambda_=lambda_,
            weights=weights,
            top_k=top_k,
        )
        return Result(
            objectives=self.objectives,
            probabilities=probabilities,
            score=score,
            order=order if top_k is None else order[:top_k],
        )

    def score_batch(
        self,
        requests: RequestBatch,
        *,
        alpha: float | None = None,
        lambda_: float | None = None,
        weights: Sequence[float] | None = None,
    ) -> BatchResult:
        """Scores many requests, each by one thread, with the bits that `score` gives each alone.

        Args:
            requests: The requests as columns.
            alpha, lambda_, weights: As in `score`, for all of them.

        Raises:
            ValueError, TypeError: As in `score`.
        """
        if not isinstance(requests, RequestBatch):
            raise TypeError(f"requests must be a RequestBatch; got {type(requests).__name__}")
        offsets = _candidate_offsets(requests.candidate_offsets, _length("item", requests.item))
        probabilities, score, order = self._score(
            requests, offsets, alpha=alpha, lambda_=lambda_, weights=weights, top_k=None
        )
        return BatchResult(
            objectives=self.objectives,
            probabilities=probabilities,
            score=score,
            order=order,
            candidate_offsets=offsets,
        )

    def _score(
        self,
        batch: RequestBatch,
        offsets: NDArray[np.int64],
        *,
        alpha: float | None,
        lambda_: float | None,
        weights: Sequence[float] | None,
        top_k: int | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        num_requests, num_candidates = len(offsets) - 1, int(offsets[-1])
        members, member_offsets = _bags(
            "history_members", "history_member_offsets", batch.history_members, num_requests
        )
        hashtags, hashtag_offsets = _bags(
            "history_hashtags", "history_hashtag_offsets", batch.history_hashtags, num_requests
        )
        candidate_hashtags, candidate_hashtag_offsets = _bags(
            "hashtags", "hashtag_offsets", batch.hashtags, num_candidates
        )
        utility = self.utility
        return self._native.score(
            candidate_offsets=offsets,
            viewer=batch.viewer,
            history_members=members,
            history_member_offsets=member_offsets,
            history_hashtags=hashtags,
            history_hashtag_offsets=hashtag_offsets,
            shared=_features("shared", batch.shared, self.shared_names, num_requests),
            item=batch.item,
            actor=batch.actor,
            root_actor=batch.actor if batch.root_actor is None else batch.root_actor,
            hashtags=candidate_hashtags,
            hashtag_offsets=candidate_hashtag_offsets,
            dense=_features("dense", batch.dense, self.dense_names, num_candidates),
            alpha=utility.alpha if alpha is None else alpha,
            lambda_=utility.other_weight if lambda_ is None else lambda_,
            weights=utility.weights if weights is None else weights,
            top_k=top_k,
            threads=self._threads,
            mini_batch=self._mini_batch,
        )

    def __reduce__(self) -> tuple[Callable[..., Scorer], tuple[Any, ...]]:
        return _reopen, (self._path, self._model, self._threads, self._version, self._mini_batch)

    def __repr__(self) -> str:
        return (
            f"Scorer({self._path!r}, model={self._model!r}, threads={self._threads}, "
            f"version={self._version!r})"
        )


def _reopen(path: str, model: str, threads: int, version: str, mini_batch: int) -> Scorer:
    return Scorer(path, model, threads, version, mini_batch=mini_batch)


def _length(name: str, keys: object) -> int:
    if isinstance(keys, str | bytes):  # a column of its letters otherwise
        raise TypeError(f"{name} must be a column of keys; got one {type(keys).__name__}")
    try:
        return len(keys)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be keys with a length; got {type(keys).__name__}") from None


def _bag_of_one(name: str, keys: Any) -> KeyBags | None:
    return None if keys is None else (keys, [0, _length(name, keys)])


def _row_of_one(features: Any) -> Any:
    if features is None:
        return None
    if isinstance(features, Mapping):
        return {name: [value] for name, value in features.items()}
    return as_float32("shared", features)[np.newaxis]


def _offsets(name: str, offsets: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(offsets)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size > 0):
        raise ValueError(
            f"{name} must be integers with 1 dimension; got {array.dtype} of shape {array.shape}"
        )
    return np.ascontiguousarray(array, dtype=np.int64)


def _candidate_offsets(offsets: ArrayLike, num_items: int) -> NDArray[np.int64]:
    """Checked offsets: columns are sized by them before the native checks."""
    name = "candidate_offsets"
    array = _offsets(name, offsets)
    if array.size == 0:
        raise ValueError(f"{name} is empty; one more value than requests is needed")
    if array[0] != 0:
        raise ValueError(f"{name}[0] = {array[0]}; must be 0")
    falls = np.flatnonzero(array[1:] < array[:-1])
    if falls.size:
        at = int(falls[0]) + 1
        raise ValueError(f"{name}[{at}] = {array[at]} is below {name}[{at - 1}] = {array[at - 1]}")
    if array[-1] != num_items:
        raise ValueError(f"{name}[{array.size - 1}] = {array[-1]}; item has {num_items} keys")
    return array


def _bags(
    name: str, offsets_name: str, bags: KeyBags | None, num_bags: int
) -> tuple[Any, NDArray[np.int64]]:
    if bags is None:
        return None, np.zeros(num_bags + 1, dtype=np.int64)
    if not isinstance(bags, tuple) or len(bags) != 2:
        raise TypeError(f"{name} must be a pair (keys, offsets); got {type(bags).__name__}")
    return bags[0], _offsets(offsets_name, bags[1])


def _features(
    name: str, features: Any, names: tuple[str, ...], num_rows: int
) -> NDArray[np.float32]:
    """[num_rows, len(names)], NaN where nothing is given."""
    shape = (num_rows, len(names))
    if features is None:
        return np.full(shape, np.nan, dtype=np.float32)
    if not isinstance(features, Mapping):
        array = as_float32(name, features)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
        return array
    table = np.full(shape, np.nan, dtype=np.float32)
    for key, column in features.items():
        if key not in names:
            raise ValueError(f"{name}: {key!r} is not a feature; allowed: {', '.join(names)}")
        values = as_float32(f"{name}[{key!r}]", column)
        if values.shape != (num_rows,):
            raise ValueError(f"{name}[{key!r}] has shape {values.shape}; expected {(num_rows,)}")
        table[:, names.index(key)] = values
    return table
