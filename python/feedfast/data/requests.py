"""Logged impressions as requests to a scorer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feedfast.data.history import History
from feedfast.data.keys import KeyBags, key_codes, offsets_from_lengths
from feedfast.data.log import ImpressionLog
from feedfast.request import Request, RequestBatch


def requests_of_log(log: ImpressionLog, history: History) -> tuple[RequestBatch, NDArray[np.int64]]:
    """The requests of a log, in the order of their first rows, and where their candidates are.

    The earliest row of a request speaks for the viewer: its shared features and its history.

    Args:
        log: Rows of one request id belong to one viewer; they need not be neighbours.
        history: Of these rows.

    Returns:
        (requests, rows [n] int64): candidate c of the batch is row rows[c] of the log; within a
        request, rows ascend.

    Raises:
        ValueError: Two rows of one request have different viewers.
    """
    order = _RequestOrder.of(log)
    return order.batch(log, history, 0, order.num_requests)


def request_batches(
    log: ImpressionLog, history: History, *, max_candidates: int
) -> Iterator[tuple[RequestBatch, NDArray[np.int64]]]:
    """What `requests_of_log` gives, in batches of whole requests that are decoded one at a time.

    Args:
        log, history: As there.
        max_candidates: Of a batch; one request with more is a batch of its own.

    Raises:
        ValueError: As there; before the first batch.
    """
    order = _RequestOrder.of(log)
    first = 0
    while first < order.num_requests:
        limit = order.offsets[first] + max_candidates
        end = max(int(np.searchsorted(order.offsets, limit, side="right")) - 1, first + 1)
        yield order.batch(log, history, first, end)
        first = end


@dataclass(frozen=True, eq=False, slots=True)
class _RequestOrder:
    """Request r, numbered by first occurrence, has rows[offsets[r]] to rows[offsets[r + 1] - 1],
    of which speaking[r] is the earliest."""

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]
    speaking: NDArray[np.int64]

    @classmethod
    def of(cls, log: ImpressionLog) -> _RequestOrder:
        request_of_row = key_codes(log.request_id)
        rows = np.argsort(request_of_row, kind="stable")
        offsets = offsets_from_lengths(np.bincount(request_of_row))
        _check_viewers(log, rows, offsets)
        by_time = np.lexsort((log.timestamp, request_of_row))
        return cls(rows, offsets, by_time[offsets[:-1]])

    @property
    def num_requests(self) -> int:
        return len(self.offsets) - 1

    def batch(
        self, log: ImpressionLog, history: History, first: int, end: int
    ) -> tuple[RequestBatch, NDArray[np.int64]]:
        """The requests [first, end) and the rows of their candidates."""
        offsets = self.offsets[first : end + 1] - self.offsets[first]
        rows = self.rows[self.offsets[first] : self.offsets[end]]
        speaking = self.speaking[first:end]
        candidates = log.take(rows)
        viewer_side = history.take(speaking)
        requests = RequestBatch(
            candidate_offsets=offsets,
            viewer=log.viewer.take(pa.array(speaking)),
            history_members=viewer_side.members.decoded(),
            history_hashtags=viewer_side.hashtags.decoded(),
            shared=log.shared[speaking],
            item=candidates.item,
            actor=candidates.actor,
            root_actor=candidates.root_actor,
            hashtags=candidates.hashtags.decoded(),
            dense=candidates.dense,
        )
        return requests, rows


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


def request_of_rows(log: ImpressionLog, history: History, rows: NDArray[np.int64]) -> Request:
    """One request of any rows of a log: the first of them speaks for the viewer.

    Keys are lists of str or bytes, so that the request can be pickled and read without pyarrow.

    Args:
        log: Any impressions.
        history: Of these rows.
        rows: [candidates] int64, at least one; repeats are allowed.

    Raises:
        ValueError: There is no row.
    """
    if len(rows) == 0:
        raise ValueError("a request needs at least one candidate; got no rows")
    candidates = log.take(rows)
    viewer_side = history.take(rows[:1])
    return Request(
        viewer=candidates.viewer[0].as_py(),
        history_members=viewer_side.members.decoded().values.to_pylist(),
        history_hashtags=viewer_side.hashtags.decoded().values.to_pylist(),
        shared=candidates.shared[0],
        item=candidates.item.to_pylist(),
        actor=candidates.actor.to_pylist(),
        root_actor=candidates.root_actor.to_pylist(),
        hashtags=_listed(candidates.hashtags),
        dense=candidates.dense,
    )


def _listed(bags: KeyBags) -> tuple[list[str | bytes], NDArray[np.int64]]:
    return bags.decoded().values.to_pylist(), bags.offsets


def _check_viewers(log: ImpressionLog, rows: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
    viewers = key_codes(log.viewer)[rows]
    expected = np.repeat(viewers[offsets[:-1]], np.diff(offsets))
    wrong = np.flatnonzero(viewers != expected)
    if len(wrong):
        row = int(rows[wrong[0]])
        request = np.searchsorted(offsets, wrong[0], side="right") - 1
        first = int(rows[offsets[request]])
        raise ValueError(
            f"request {log.request_id[row].as_py()!r} has viewer {log.viewer[first].as_py()!r} in "
            f"row {first} and {log.viewer[row].as_py()!r} in row {row}; a request has one viewer"
        )
