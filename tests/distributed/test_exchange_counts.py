"""Exchanges per window and micro-batch, counted in the timelines of both engines."""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import timeline_ranks
from processes import run_ranks
from test_horovod_engine import horovodrun, needs_horovod
from timeline_ranks import NUM_TABLES, WINDOWS, K

# Of every section, whatever its number of tables: once at its start, then per window one dense
# exchange and at most two of rows, and for the divided tables one all-to-all per window and two per
# micro-batch.
WANT = {
    ("sharded_layout", "all_gather"): 1,
    ("feedfast_layout", "all_gather"): 1,
    ("feedfast_window_dense", "all_reduce"): WINDOWS,
    ("feedfast_window_rows", "all_gather"): WINDOWS,
    ("sharded_ids", "all_to_all"): WINDOWS * K,
    ("sharded_rows", "all_to_all"): WINDOWS * K,
    ("sharded_gradients", "all_to_all"): WINDOWS,
}
HOROVOD_KINDS = {"ALLREDUCE": "all_reduce", "ALLGATHER": "all_gather", "ALLTOALL": "all_to_all"}


def events_of(timeline: Path) -> list[dict[str, Any]]:
    """Of a file in Chrome's format, which may lack its end."""
    text = timeline.read_text().rstrip().removesuffix("]").rstrip().removesuffix(",")
    events: list[dict[str, Any]] = json.loads(f"{text}]")
    return events


def assert_counts(exchanges: list[tuple[str, str]]) -> None:
    """Of (name, kind) in the order of time."""
    names = [name for name, _ in exchanges]
    marks = [*(f"tables{n}" for n in NUM_TABLES), "end"]
    starts = [names.index(mark) for mark in marks]
    for begin, end in pairwise(starts):
        assert Counter(exchanges[begin + 1 : end]) == WANT


@needs_horovod
def test_horovods_timeline_counts_what_is_promised(tmp_path: Path) -> None:
    timeline = tmp_path / "timeline.json"
    ranks = [sys.executable, timeline_ranks.__file__, str(tmp_path)]
    done = horovodrun(["--timeline-filename", str(timeline), *ranks], timeout=240)
    assert done.returncode == 0, done.stdout[-4000:]
    events = events_of(timeline)
    names = {
        event["pid"]: event["args"]["name"]
        for event in events
        if event["ph"] == "M" and "name" in event["args"]
    }
    begun = [e for e in events if e["ph"] == "B" and e["name"] in HOROVOD_KINDS]
    begun.sort(key=lambda event: event["ts"])
    assert_counts([(names[e["pid"]], HOROVOD_KINDS[e["name"]]) for e in begun])


def test_the_trace_of_shared_memory_counts_the_same(tmp_path: Path) -> None:
    timeline = tmp_path / "timeline.json"
    run_ranks("timeline_ranks.py", 2, str(tmp_path), str(timeline), timeout=240)
    exchanges: list[tuple[str, str]] = []
    for event in events_of(timeline):
        if event["cat"] == "reduce_and_gather":  # two that begin together, on one line
            exchanges += zip(
                event["name"].split(" and "), ("all_reduce", "all_gather"), strict=True
            )
        else:
            exchanges.append((event["name"], event["cat"]))
    assert_counts(exchanges)
