"""Impression logs: schema, reading, point-in-time history, splits, adapters to public data, and a
simulated feed.

Needs pyarrow, which the base install lacks; importing `feedfast` alone does not import this
package.
"""

from __future__ import annotations

try:
    import pyarrow  # noqa: F401
except ImportError as error:
    raise ImportError(
        "feedfast.data needs pyarrow; install it with: pip install 'feedfast[data]'"
    ) from error

from feedfast.data.adapters.movielens import load_movielens
from feedfast.data.adapters.openbandit import CtrRow, ctr_report, load_openbandit
from feedfast.data.dataset import ANY_ENGAGEMENT, Dataset
from feedfast.data.history import History, derive_history
from feedfast.data.key_columns import DistinctKeys, distinct_keys, read_keys
from feedfast.data.keys import KeyBags
from feedfast.data.loading import load, load_engagement, load_log
from feedfast.data.log import ImpressionLog, concat_logs, superset_label
from feedfast.data.report import BadRow, BadRows, ReadReport
from feedfast.data.requests import request_batches, request_of_rows, requests_of_log, row_requests
from feedfast.data.schema import LogSchema, SchemaError, check_schema
from feedfast.data.simulate import Simulation, simulate
from feedfast.data.splits import Split, split_by_time, split_random

__all__ = [
    "ANY_ENGAGEMENT",
    "BadRow",
    "BadRows",
    "CtrRow",
    "Dataset",
    "DistinctKeys",
    "History",
    "ImpressionLog",
    "KeyBags",
    "LogSchema",
    "ReadReport",
    "SchemaError",
    "Simulation",
    "Split",
    "check_schema",
    "concat_logs",
    "ctr_report",
    "derive_history",
    "distinct_keys",
    "load",
    "load_engagement",
    "load_log",
    "load_movielens",
    "load_openbandit",
    "read_keys",
    "request_batches",
    "request_of_rows",
    "requests_of_log",
    "row_requests",
    "simulate",
    "split_by_time",
    "split_random",
    "superset_label",
]
