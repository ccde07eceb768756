"""Logged impressions as requests of the native scorer; loads no TensorFlow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feedfast.data import History, ImpressionLog
from feedfast.request import Request, RequestBatch


def request_of(log: ImpressionLog, history: History, rows: NDArray[np.int64]) -> Request:
    """The candidates of the given rows as one request of the first row's viewer.

    Args:
        log: Impressions.
        history: Of these impressions.
        rows: [candidates] int64, at least one; viewer, history and shared features are those of
            the first.

    Raises:
        ValueError: There is no row.
        IndexError: A row is outside the log.
    """
    if len(rows) == 0:
        raise ValueError("a request needs at least one candidate; got no rows")
    candidates, first = log.take(rows), history.take(rows[:1])
    return Request(
        viewer=candidates.viewer[0].as_py(),
        history_members=first.members.decoded().values,
        history_hashtags=first.hashtags.decoded().values,
        shared=candidates.shared[0],
        item=candidates.item,
        actor=candidates.actor,
        root_actor=candidates.root_actor,
        hashtags=candidates.hashtags.decoded(),
        dense=candidates.dense,
    )


def row_requests(log: ImpressionLog, history: History) -> RequestBatch:
    """Every impression as a request of one candidate, with the history of its own moment.

    Args:
        log: Impressions.
        history: Of these impressions.
    """
    return RequestBatch(
        candidate_offsets=np.arange(log.num_rows + 1, dtype=np.int64),
        viewer=log.viewer,
        history_members=history.members.decoded(),
        history_hashtags=history.hashtags.decoded(),
        shared=log.shared,
        item=log.item,
        actor=log.actor,
        root_actor=log.root_actor,
        hashtags=log.hashtags.decoded(),
        dense=log.dense,
    )
