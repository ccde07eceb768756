from __future__ import annotations

import itertools
import pickle

import numpy as np
import pyarrow as pa
import pytest
from impression_tables import impression_table

from feedfast.data import (
    History,
    ImpressionLog,
    derive_history,
    request_batches,
    request_of_rows,
    requests_of_log,
)


def log_with_requests(num_rows: int, **replaced: object) -> tuple[ImpressionLog, History]:
    """Requests of up to three rows, one viewer each, their rows shuffled."""
    rng = np.random.default_rng(7)
    request = rng.permutation(num_rows) // 3
    log = ImpressionLog.from_table(
        impression_table(
            num_rows,
            request_id=pa.array([f"request:{r}" for r in request], pa.string()),
            viewer=pa.array([f"member:{r % 4}" for r in request], pa.string()),
            **replaced,
        )
    )
    return log, derive_history(log, engaged=log.label("click") == 1)


def test_every_row_is_a_candidate_of_its_request_once() -> None:
    log, history = log_with_requests(50)
    batch, rows = requests_of_log(log, history)
    assert sorted(rows.tolist()) == list(range(50))
    ids = log.request_id.to_pylist()
    offsets = np.asarray(batch.candidate_offsets)
    seen = []
    for begin, end in itertools.pairwise(offsets):
        of_request = rows[begin:end].tolist()
        assert of_request == sorted(of_request)
        assert len({ids[row] for row in of_request}) == 1
        seen.append(ids[of_request[0]])
    assert seen == list(dict.fromkeys(ids))
    assert pa.array(batch.item).to_pylist() == log.item.take(pa.array(rows)).to_pylist()


def test_the_earliest_row_speaks_for_the_viewer() -> None:
    log, history = log_with_requests(50)
    batch, rows = requests_of_log(log, history)
    offsets = np.asarray(batch.candidate_offsets)
    members, member_offsets = batch.history_members  # type: ignore[misc]
    lists = history.members.decoded()
    for request, (begin, end) in enumerate(itertools.pairwise(offsets)):
        of_request = rows[begin:end]
        first = of_request[np.argmin(log.timestamp[of_request])]
        assert np.array_equal(np.asarray(batch.shared)[request], log.shared[first])
        want = lists.values[lists.offsets[first] : lists.offsets[first + 1]].to_pylist()
        got = members[member_offsets[request] : member_offsets[request + 1]].to_pylist()
        assert got == want


@pytest.mark.parametrize("max_candidates", [1, 3, 7, 50, 1000])
def test_batches_are_the_whole_in_pieces(max_candidates: int) -> None:
    log, history = log_with_requests(50)
    whole, all_rows = requests_of_log(log, history)
    sizes, items, viewers, tags, rows = [], [], [], [], []
    for batch, of_batch in request_batches(log, history, max_candidates=max_candidates):
        lengths = np.diff(np.asarray(batch.candidate_offsets))
        assert lengths.sum() == len(of_batch) <= max(max_candidates, 3)
        sizes += lengths.tolist()
        items += pa.array(batch.item).to_pylist()
        viewers += pa.array(batch.viewer).to_pylist()
        tags += batch.hashtags[0].to_pylist()  # type: ignore[index,union-attr]
        rows += of_batch.tolist()
    assert rows == all_rows.tolist()
    assert sizes == np.diff(np.asarray(whole.candidate_offsets)).tolist()
    assert items == pa.array(whole.item).to_pylist()
    assert viewers == pa.array(whole.viewer).to_pylist()
    assert tags == whole.hashtags[0].to_pylist()  # type: ignore[index,union-attr]


def test_one_request_of_chosen_rows_can_be_pickled() -> None:
    log, history = log_with_requests(9)
    request = pickle.loads(pickle.dumps(request_of_rows(log, history, np.array([4, 2, 4]))))
    assert request.viewer == log.viewer[4].as_py()
    assert request.item == [log.item[row].as_py() for row in (4, 2, 4)]
    assert np.array_equal(request.dense, log.dense[[4, 2, 4]], equal_nan=True)
    tags, offsets = request.hashtags
    lists = log.hashtags
    for candidate, row in enumerate((4, 2, 4)):
        want = lists.values[lists.offsets[row] : lists.offsets[row + 1]].to_pylist()
        assert tags[offsets[candidate] : offsets[candidate + 1]] == want


def test_a_log_without_rows_has_no_requests() -> None:
    log, history = log_with_requests(0)
    batch, rows = requests_of_log(log, history)
    assert np.asarray(batch.candidate_offsets).tolist() == [0]
    assert len(rows) == 0


def test_two_viewers_of_one_request_are_named() -> None:
    log = ImpressionLog.from_table(
        impression_table(2, request_id=pa.array(["r", "r"]), viewer=pa.array(["a", "b"]))
    )
    history = derive_history(log, engaged=np.zeros(2, dtype=bool))
    with pytest.raises(ValueError, match="request 'r' has viewer 'a' in row 0 and 'b' in row 1"):
        requests_of_log(log, history)
