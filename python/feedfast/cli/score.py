"""`feedfast score`: scores the requests of an impression log, offline, with the bits of serving."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from feedfast.cli.console import Console
from feedfast.objectives import SegmentTradeoffs, Tradeoff
from feedfast.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from feedfast.cli.console import Progress
    from feedfast.data import History, ImpressionLog
    from feedfast.request import RequestBatch

# Candidates whose requests are decoded, scored and written together: a row group of the output.
_BATCH = 65_536


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
    parser.add_argument(
        "--tradeoffs",
        type=Path,
        metavar="FILE",
        help='JSON: {"segments": {NAME: {"alpha": A, "lambda": L, "weights": {OBJECTIVE: W}}}, '
        '"default": {...}}; what is left out is the model\'s',
    )
    parser.add_argument(
        "--segment-column", metavar="COLUMN", help="column of the input with the viewer's segment"
    )


def run(args: argparse.Namespace) -> int:
    """Writes request_id, item, a column `p.<objective>` each, score and rank (0 is the top)."""
    import pyarrow as pa

    from feedfast.data.log import write_parquet_parts

    console = Console(as_json=args.json)
    scorer = Scorer.open(args.store, model=args.model, threads=args.threads, version=args.version)
    tradeoffs, unlisted = _tradeoffs(args, scorer)
    if unlisted:
        console.note(f"default trade-off for segments {', '.join(unlisted)}")
    log, history = _read(args.input, args.history, scorer)
    if log.report.num_dropped:
        console.note(str(log.report))
    missing = [f"shared.{name}" for name in scorer.shared_names if name not in log.shared_names]
    missing += [f"dense.{name}" for name in scorer.dense_names if name not in log.dense_names]
    if missing:
        console.note(f"the log has no {', '.join(missing)}: taken as missing")
    schema = pa.schema(
        [
            ("request_id", log.request_id.type),
            ("item", log.item.type),
            *((f"p.{objective}", pa.float32()) for objective in scorer.objectives),
            ("score", pa.float32()),
            ("rank", pa.int64()),
        ]
    )
    scored = _Scored(scorer, log, history, tradeoffs)
    with console.progress("score") as progress:
        write_parquet_parts(scored.tables(schema, progress), schema, args.output)
    per_second = log.num_rows / max(scored.seconds, 1e-9)
    console.note(
        f"{args.output}: {scored.num_requests:,} requests, {log.num_rows:,} candidates, "
        f"{per_second:,.0f} candidates/s"
    )
    console.result(
        {
            "output": str(args.output),
            "model": scorer.model,
            "version": scorer.version,
            "requests": scored.num_requests,
            "candidates": log.num_rows,
            "candidates_per_second": per_second,
            "missing_features": missing,
            "segments_with_default": unlisted,
        }
    )
    return 0


@dataclasses.dataclass
class _Scored:
    """The scores of a log, batch by batch, and what that took so far."""

    scorer: Scorer
    log: ImpressionLog
    history: History
    tradeoffs: Callable[[pa.Array], Tradeoff | Sequence[Tradeoff]]
    num_requests: int = 0
    seconds: float = 0.0

    def tables(self, schema: pa.Schema, progress: Progress) -> Iterator[pa.Table]:
        import pyarrow as pa

        from feedfast.data import request_batches

        done = 0
        for batch, rows in request_batches(self.log, self.history, max_candidates=_BATCH):
            first_rows = rows[np.asarray(batch.candidate_offsets)[:-1]]
            tradeoff = self.tradeoffs(self.log.request_id.take(pa.array(first_rows)))
            start = time.perf_counter()
            result = self.scorer.score_batch(self._by_name(batch), tradeoff=tradeoff)
            self.seconds += time.perf_counter() - start
            self.num_requests += len(result.candidate_offsets) - 1
            index = pa.array(rows)
            yield pa.Table.from_arrays(
                [
                    self.log.request_id.take(index),
                    self.log.item.take(index),
                    *(pa.array(column) for column in result.probabilities.T),
                    pa.array(result.score),
                    pa.array(result.rank()),
                ],
                schema=schema,
            )
            done += len(rows)
            progress.update(done, self.log.num_rows)

    def _by_name(self, batch: RequestBatch) -> RequestBatch:
        """Names the columns of a log whose features are not the model's, in its order."""

        def named(
            features: NDArray[np.float32], names: tuple[str, ...], wanted: tuple[str, ...]
        ) -> NDArray[np.float32] | Mapping[str, NDArray[np.float32]]:
            if names == wanted:
                return features
            return {name: features[:, i] for i, name in enumerate(names) if name in wanted}

        log, scorer = self.log, self.scorer
        return dataclasses.replace(
            batch,
            shared=named(np.asarray(batch.shared), log.shared_names, scorer.shared_names),
            dense=named(np.asarray(batch.dense), log.dense_names, scorer.dense_names),
        )


def _tradeoffs(
    args: argparse.Namespace, scorer: Scorer
) -> tuple[Callable[[pa.Array], Tradeoff | Sequence[Tradeoff]], list[str]]:
    """From request ids to the trade-off of all or of each; segments that have the default."""
    if (args.tradeoffs is None) != (args.segment_column is None):
        raise ValueError("--tradeoffs and --segment-column go together")
    if args.tradeoffs is None:
        one = Tradeoff(alpha=args.alpha, lambda_=args.lambda_)
        return (lambda requests: one), []
    if args.alpha is not None or args.lambda_ is not None:
        raise ValueError("--tradeoffs says what --alpha and --lambda say; give one of both")
    from feedfast.cli.score_segments import RequestTradeoffs

    try:
        tradeoffs = SegmentTradeoffs.from_json(args.tradeoffs.read_text())
        for tradeoff in (tradeoffs.default, *tradeoffs.segments.values()):
            tradeoff.of(scorer.utility)  # names that the model does not know
    except ValueError as error:
        raise ValueError(f"{args.tradeoffs}: {error}") from None
    by_request = RequestTradeoffs(tradeoffs, args.input, args.segment_column)
    return by_request.of, by_request.unlisted


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
