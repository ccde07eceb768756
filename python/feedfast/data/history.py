"""What a viewer engaged with before each impression, derived point in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feedfast.data.keys import KeyBags, expand_ranges, key_codes, offsets_from_lengths, to_numpy
from feedfast.data.log import ImpressionLog
from feedfast.data.point_in_time import Timeline


@dataclass(frozen=True, eq=False, slots=True)
class History:
    """Distinct keys a viewer engaged with before each impression, newest first; values are
    dictionary-encoded.

    Attributes:
        members: [n] bags of actors.
        hashtags: [n] bags of hashtags.
    """

    members: KeyBags
    hashtags: KeyBags

    def take(self, indices: NDArray[np.int64]) -> History:
        """The bags of the rows at `indices`, to go with `ImpressionLog.take`."""
        return History(self.members.take_bags(indices), self.hashtags.take_bags(indices))


def derive_history(
    log: ImpressionLog, *, engaged: NDArray[np.bool_], max_members: int = 50, max_hashtags: int = 20
) -> History:
    """The viewer's most recent distinct actors and hashtags, for every impression.

    Only engaged rows of the same viewer with a timestamp strictly before the impression count, so a
    row never sees itself, what was shown with it, or anything later. Newest first: by timestamp,
    then by later row, then by place in the row's hashtag list. A key that occurs again counts where
    it is newest.

    Takes O(n log n + keys returned * log n) however often a viewer repeats a key.

    Args:
        log: Needs no order.
        engaged: [n], rows that enter the history.
        max_members: Longest bag of actors, >= 0.
        max_hashtags: Longest bag of hashtags, >= 0.

    Raises:
        ValueError: `engaged` is not [n] bool, or a maximum is negative.
    """
    if engaged.shape != (log.num_rows,) or engaged.dtype != np.bool_:
        raise ValueError(
            f"engaged: must be bool of shape {(log.num_rows,)}; "
            f"got {engaged.dtype} of shape {engaged.shape}"
        )
    for name, limit in (("max_members", max_members), ("max_hashtags", max_hashtags)):
        if limit < 0:
            raise ValueError(f"{name} must be >= 0; got {limit}")

    viewers = key_codes(log.viewer)
    timeline = Timeline.build(viewers, log.timestamp)
    # Engaged events in the order (viewer, timestamp, row). Row i may see those in [first[i],
    # end[i]).
    engaged_before = offsets_from_lengths(engaged[timeline.order].astype(np.int64))
    first = timeline.to_row_order(engaged_before[timeline.start])
    end = timeline.to_row_order(engaged_before[timeline.group])
    events = timeline.order[engaged[timeline.order]]

    members = log.actor.dictionary_encode()
    members_history = _recent_distinct(
        to_numpy(members.indices)[events].astype(np.int64),
        viewers[events],
        first,
        end,
        max_members,
    )
    # The same events, each replaced by its hashtags; a list is reversed so that reading backwards
    # gives list order.
    hashtags = log.hashtags.values.dictionary_encode()
    lengths = log.hashtags.lengths()[events]
    event_offsets = offsets_from_lengths(lengths)
    forwards = expand_ranges(log.hashtags.offsets[:-1][events], lengths)
    backwards = np.repeat(2 * log.hashtags.offsets[:-1][events] + lengths - 1, lengths) - forwards
    hashtags_history = _recent_distinct(
        to_numpy(hashtags.indices)[backwards].astype(np.int64),
        np.repeat(viewers[events], lengths),
        event_offsets[first],
        event_offsets[end],
        max_hashtags,
    )
    return History(
        _bags(members_history, members.dictionary), _bags(hashtags_history, hashtags.dictionary)
    )


def _recent_distinct(
    keys: NDArray[np.int64],
    owners: NDArray[np.int64],
    first: NDArray[np.int64],
    end: NDArray[np.int64],
    limit: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The last `limit` distinct keys of keys[first[i]:end[i]], newest first, for every query i.

    An event j < end is the newest of its key before `end` exactly when the same owner's next event
    with that key is at `end` or later. Each round steps every query to its next such event: the
    event at hand if it is one, else by binary lifting over running maxima of `next`.

    Args:
        keys: [m] key codes, grouped by owner.
        owners: [m], one group of consecutive events each.
        first: [n], start of the owner's events.
        end: [n], end of what the query may see, first <= end.
        limit: Most keys per query.

    Returns:
        (codes [nnz], lengths [n]).
    """
    # `end` names a query that may see something: event end - 1 tells its owner. Candidates of a
    # request share theirs.
    seeing = np.flatnonzero(end > first)
    distinct, query_of_seeing = np.unique(end[seeing], return_inverse=True)
    start = np.empty(len(distinct), dtype=np.int64)
    start[query_of_seeing] = first[seeing]
    next_same = _next_same(keys, owners)
    longest = int(np.max(distinct - start, initial=0))
    lifts = _running_maxima(next_same, longest)

    counts = np.zeros(len(distinct), dtype=np.int64)
    rounds: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    active = np.arange(len(distinct), dtype=np.int64)
    place = distinct - 1
    for _ in range(limit):
        keep = place >= start[active]
        active, place = active[keep], place[keep]
        hidden = np.flatnonzero(next_same[place] < distinct[active])
        place[hidden] = _step_back(lifts, place[hidden], distinct[active[hidden]])
        keep = place >= start[active]
        active, place = active[keep], place[keep]
        if len(active) == 0:
            break
        rounds.append((active, keys[place]))
        counts[active] += 1
        place = place - 1

    # Keys of round r go to place r of their query.
    query_offsets = offsets_from_lengths(counts)
    codes = np.empty(int(query_offsets[-1]), dtype=np.int64)
    for number, (queries, found) in enumerate(rounds):
        codes[query_offsets[queries] + number] = found
    lengths = np.zeros(len(end), dtype=np.int64)
    lengths[seeing] = counts[query_of_seeing]
    return codes[expand_ranges(query_offsets[query_of_seeing], lengths[seeing])], lengths


def _next_same(keys: NDArray[np.int64], owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """[m]: the next event of the same owner with the same key, m where there is none."""
    order = np.lexsort((keys, owners))
    same = (keys[order[1:]] == keys[order[:-1]]) & (owners[order[1:]] == owners[order[:-1]])
    next_same = np.full(len(keys), len(keys), dtype=np.int64)
    next_same[order[:-1][same]] = order[1:][same]
    return next_same


def _running_maxima(next_same: NDArray[np.int64], longest: int) -> list[NDArray[np.int64]]:
    """Level l: maximum of next_same over the 2^l events up to and including each, clipped at event
    0."""
    levels = [next_same]
    while (1 << len(levels)) <= longest:
        below, step = levels[-1], 1 << (len(levels) - 1)
        level = below.copy()
        np.maximum(below[step:], below[:-step], out=level[step:])
        levels.append(level)
    return levels


def _step_back(
    lifts: list[NDArray[np.int64]], place: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The last event at or before `place` with next_same >= end, if the owner has one.

    Else the result lies before the owner's first event: the last event of the owner before has
    next_same = m, so the search cannot run past it; before the first owner it ends below 0.
    """
    place = place.copy()
    for level in reversed(range(len(lifts))):
        skip = lifts[level][np.maximum(place, 0)] < end
        place -= np.where(skip & (place >= 0), 1 << level, 0)
    return place


def _bags(history: tuple[NDArray[np.int64], NDArray[np.int64]], dictionary: pa.Array) -> KeyBags:
    codes, lengths = history
    indices = pa.array(codes.astype(np.int32))
    return KeyBags(
        pa.DictionaryArray.from_arrays(indices, dictionary), offsets_from_lengths(lengths)
    )
