"""`feedfast score`: scores the requests of an impression log, offline, with the bits of serving."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from feedfast.cli.console import Console
from feedfast.scorer import Scorer


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

    from feedfast.data import concat_logs, derive_history, load_log, requests_of_log
    from feedfast.data.log import write_parquet

    console = Console(as_json=args.json)
    scorer = Scorer.open(args.store, model=args.model, threads=args.threads, version=args.version)
    requested = load_log(args.input)
    log, engaged = requested.log, requested.engaged()
    if args.history is not None:
        earlier = load_log(args.history)
        log = concat_logs([log, earlier.log])
        engaged = np.concatenate([engaged, earlier.engaged()])
    own = np.arange(requested.log.num_rows)
    history = derive_history(
        log,
        engaged=engaged,
        max_members=scorer.history.max_members,
        max_hashtags=scorer.history.max_hashtags,
    ).take(own)
    if log.report.num_dropped:
        console.note(str(log.report))
    batch, rows = requests_of_log(requested.log, history)

    start = time.perf_counter()
    result = scorer.score_batch(batch, alpha=args.alpha, lambda_=args.lambda_)
    seconds = time.perf_counter() - start

    ordered = requested.log.take(rows)
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
