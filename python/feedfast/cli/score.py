"""`feedfast score`: scores the requests of an impression log, offline, with the bits of serving."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from feedfast.cli.console import Console
from feedfast.scorer import Scorer

if TYPE_CHECKING:
    from feedfast.data import History, ImpressionLog


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast score`."""
    parser.add_argument("--store", type=Path, required=True, help="folder of a model store")
    parser.add_argument("--model", default="feed", help="name of the model")
    parser.add_argument("--version", help="version of the model; default: the newest")
    parser.add_argument("--input", type=Path, required=True, help="log with the requests, Parquet")
    parser.add_argument(
        "--history",
        type=Path,
        help="log with earlier impressions, Parquet: viewers' histories come from it and from the "
        "labelled rows of the input, each strictly before the request",
    )
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--threads", type=int, default=1, help="threads of the scorer")
    parser.add_argument("--alpha", type=float, help="balance of passive against active objectives")
    parser.add_argument("--lambda", dest="lambda_", type=float, help="factor of other objectives")


def run(args: argparse.Namespace) -> int:
    """Writes request_id, item, a column `p.<objective>` each, score and rank (0 is the top)."""
    import pyarrow as pa

    from feedfast.data import requests_of_log
    from feedfast.data.log import write_parquet

    console = Console(as_json=args.json)
    scorer = Scorer.open(args.store, model=args.model, threads=args.threads, version=args.version)
    log, history = _read(args.input, args.history, scorer)
    if log.report.num_dropped:
        console.note(str(log.report))
    batch, rows = requests_of_log(log, history)

    start = time.perf_counter()
    result = scorer.score_batch(batch, alpha=args.alpha, lambda_=args.lambda_)
    seconds = time.perf_counter() - start

    ordered = log.take(rows)
    columns = {"request_id": ordered.request_id, "item": ordered.item}
    for index, objective in enumerate(result.objectives):
        columns[f"p.{objective}"] = pa.array(result.probabilities[:, index])
    columns["score"] = pa.array(result.score)
    columns["rank"] = pa.array(result.rank())
    write_parquet(pa.table(columns), args.output)
    num_requests = len(result.candidate_offsets) - 1
    console.note(
        f"{args.output}: {num_requests:,} requests, {len(rows):,} candidates, "
        f"{len(rows) / max(seconds, 1e-9):,.0f} candidates/s"
    )
    console.result(
        {
            "output": str(args.output),
            "model": scorer.model,
            "version": scorer.version,
            "requests": num_requests,
            "candidates": len(rows),
            "candidates_per_second": len(rows) / max(seconds, 1e-9),
        }
    )
    return 0


def _read(path: Path, earlier: Path | None, scorer: Scorer) -> tuple[ImpressionLog, History]:
    """The requested log, which needs no labels, and the histories of its rows."""
    from feedfast.data import concat_logs, derive_history, load_engagement

    objectives = scorer.utility.objectives
    log, engaged = load_engagement(path, objectives)
    events = _without_features(log)
    if earlier is not None:
        before, engaged_before = load_engagement(earlier, objectives)
        events = concat_logs([events, _without_features(before)])
        engaged = np.concatenate([engaged, engaged_before])
    history = derive_history(
        events,
        engaged=engaged,
        max_members=scorer.history.max_members,
        max_hashtags=scorer.history.max_hashtags,
    )
    return log, history.take(np.arange(log.num_rows))


def _without_features(log: ImpressionLog) -> ImpressionLog:
    """What histories are made of: two logs need not agree in features and labels."""
    nothing = np.empty((log.num_rows, 0), dtype=np.float32)
    return dataclasses.replace(
        log,
        shared=nothing,
        shared_names=(),
        dense=nothing,
        dense_names=(),
        labels=nothing,
        objective_names=(),
    )
