"""`feedfast demo`: from an impression log to a ranked feed, with a report to look at."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from feedfast.cli.console import Console
from feedfast.cli.datasets import add_dataset_arguments, load_dataset
from feedfast.cli.evaluate import evaluation_notes, evaluation_table, print_evaluation
from feedfast.cli.inspect import COLUMNS as SECTION_COLUMNS
from feedfast.cli.inspect import section_rows
from feedfast.cli.progress import show_stages
from feedfast.cli.rank_process import Ranking, rank_in_new_process
from feedfast.ranker_precision import Precision

if TYPE_CHECKING:
    from feedfast.data import Dataset, ImpressionLog
    from feedfast.scorer import Request
    from feedfast.training import EvaluationReport, TrainedRun

# Name of the model in the demo's store for each precision of its tables.
MODELS: dict[Precision, str] = {"fp32": "feed", "int8": "feed-int8"}
NUM_LATENCY_CANDIDATES = 500
NUM_LATENCY_REQUESTS = 300
NUM_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast demo`."""
    add_dataset_arguments(parser, default="simulated")
    parser.add_argument(
        "--out", type=Path, help="folder for everything; default: demo/<name of the data>"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one epoch, and a small feed where it is simulated: shows that it runs",
    )


def run(args: argparse.Namespace) -> int:
    """Trains, evaluates, exports, ranks in a process without TensorFlow, and writes the report."""
    console = Console(as_json=args.json)
    if args.out is None:
        args.out = Path("demo") / (Path(args.data).stem + ("-quick" if args.quick else ""))
    args.out.mkdir(parents=True, exist_ok=True)
    if args.data == "openbandit":
        return _report_logged_policies(args, console)
    return _train_and_rank(args, console)


def _train_and_rank(args: argparse.Namespace, console: Console) -> int:
    from feedfast.config import RankerConfig
    from feedfast.ranker.export import export
    from feedfast.training import evaluate, train

    start = time.monotonic()
    options: dict[str, int] = {}
    if args.quick and args.data == "simulated":
        options = {"num_members": 2_000, "num_requests": 2_000}
    data = load_dataset(args, console, **options)
    dataset = data.dataset
    config = RankerConfig()
    if args.quick:
        training = dataclasses.replace(config.training, max_epochs=1)
        config = dataclasses.replace(config, training=training)
    with show_stages(console) as progress:
        trained = train(dataset, config, args.out / "run", progress=progress)
        evaluation = evaluate(
            trained, dataset, true_probabilities=data.true_probabilities, progress=progress
        )
    print_evaluation(console, evaluation)

    store = args.out / "store"
    versions = {
        model: export(trained.ranker, store, name=model, precision=precision)
        for precision, model in MODELS.items()
    }
    log, request, latency_request = _requests(trained, dataset)
    rankings = {
        precision: rank_in_new_process(
            store,
            model,
            [request, latency_request],
            repeats=NUM_LATENCY_REQUESTS,
            scratch=args.out,
        )
        for precision, model in MODELS.items()
    }
    _print_ranking(console, log, rankings["fp32"])
    sections = {precision: section_rows(store, model) for precision, model in MODELS.items()}
    for precision, rows in sections.items():
        console.table(f"store, {precision} tables", SECTION_COLUMNS, rows)
    console.table(
        f"one request of {NUM_LATENCY_CANDIDATES} candidates, 1 thread, without TensorFlow",
        LATENCY_COLUMNS,
        _latency_rows(rankings),
    )
    report = args.out / "report.html"
    _write_report(report, dataset, evaluation, log, rankings, sections)
    console.note(f"report: {report}    store: {store}    {time.monotonic() - start:.0f} s")
    console.result(
        {
            "dataset": dataset.name,
            "evaluation": evaluation.to_dict(),
            "versions": versions,
            "latency_ms": {
                precision: dict(zip(("p50", "p99"), _percentiles(ranking), strict=True))
                for precision, ranking in rankings.items()
            },
            "heavy_packages": rankings["fp32"].heavy_packages,
            "store_bytes": {p: sum(row[1] for row in rows) for p, rows in sections.items()},
            "report": str(report),
            "seconds": time.monotonic() - start,
        }
    )
    return 0


def _requests(trained: TrainedRun, dataset: Dataset) -> tuple[ImpressionLog, Request, Request]:
    """The items one member was shown in held-out rows as one request, and a long request.

    The member is the one who engaged most; viewer features and history are those at the first
    held-out impression, and an item's features those at its first. The second request repeats
    held-out impressions of all members.

    Returns:
        (log of the member's impressions, their request, the request to time).
    """
    from feedfast.data import request_of_rows
    from feedfast.data.keys import key_codes
    from feedfast.ranker.rows import history_of, split_rows

    test = split_rows(dataset.log, trained.config).test
    history = history_of(dataset, trained.config)
    codes = key_codes(dataset.log.viewer)[test]
    most_engaged = np.bincount(codes, weights=dataset.engaged()[test]).argmax()
    chosen = test[codes == most_engaged]
    chosen = chosen[np.argsort(dataset.log.timestamp[chosen], kind="stable")]
    items = key_codes(dataset.log.item)[chosen]
    chosen = chosen[np.sort(np.unique(items, return_index=True)[1])]
    many = np.concatenate([chosen, test])
    many = np.resize(many, NUM_LATENCY_CANDIDATES)
    return (
        dataset.log.take(chosen),
        request_of_rows(dataset.log, history, chosen),
        request_of_rows(dataset.log, history, many),
    )


def _engagement(log: ImpressionLog, row: int) -> str:
    """What the member did, as names of objectives."""
    happened = [n for n, y in zip(log.objective_names, log.labels[row], strict=True) if y == 1]
    return ", ".join(happened) or "nothing"


def _ranking_table(log: ImpressionLog, ranking: Ranking) -> tuple[list[str], list[list[object]]]:
    items = log.item.to_pylist()
    columns = ["item", "score", *ranking.objectives, "what the member did"]
    rows = [
        [
            items[candidate],
            float(ranking.score[candidate]),
            *(float(p) for p in ranking.probabilities[candidate]),
            _engagement(log, candidate),
        ]
        for candidate in ranking.order[:NUM_SHOWN].tolist()
    ]
    return columns, rows


def _print_ranking(console: Console, log: ImpressionLog, ranking: Ranking) -> None:
    viewer = log.viewer[0].as_py()
    columns, rows = _ranking_table(log, ranking)
    console.table(
        f"top {len(rows)} of {log.num_rows} held-out candidates of {viewer}", columns, rows
    )
    loaded = ", ".join(ranking.heavy_packages) or "none"
    console.note(f"heavy packages loaded by the serving process: {loaded}")


LATENCY_COLUMNS = ("tables", "p50 ms", "p99 ms", "open ms")


def _percentiles(ranking: Ranking) -> tuple[float, float]:
    p50, p99 = np.percentile(ranking.latency_ms, [50, 99])
    return float(p50), float(p99)


def _latency_rows(rankings: dict[Precision, Ranking]) -> list[list[object]]:
    return [
        [precision, *_percentiles(ranking), ranking.open_ms]
        for precision, ranking in rankings.items()
    ]


def _write_report(
    path: Path,
    dataset: Dataset,
    evaluation: EvaluationReport,
    log: ImpressionLog,
    rankings: dict[Precision, Ranking],
    sections: dict[Precision, list[tuple[str, int, float]]],
) -> None:
    from feedfast.cli import plots
    from feedfast.cli.report import Section, write_report

    ranking = rankings["fp32"]
    quality_columns, quality_rows = evaluation_table(evaluation)
    ranking_columns, ranking_rows = _ranking_table(log, ranking)
    engaged = np.asarray(np.nan_to_num(log.labels).any(axis=1))
    write_report(
        path,
        f"feedfast demo: {dataset.name}",
        notes=[f"{dataset.log.num_rows:,} impressions", *dataset.notes],
        sections=[
            Section(
                title="Quality on held-out impressions",
                text=" ".join(f"{note}." for note in evaluation_notes(evaluation)),
                columns=quality_columns,
                rows=quality_rows,
            ),
            Section(
                title="Calibration",
                text="Observed rate against mean prediction in equal-sized bins, 95% intervals.",
                svg=plots.calibration(evaluation.objectives),
            ),
            Section(
                title=f"Ranked feed of {log.viewer[0].as_py()}",
                columns=ranking_columns,
                rows=ranking_rows,
            ),
            Section(title="Scores of this feed", svg=plots.scores(ranking.score, engaged)),
            Section(
                title=f"Latency of a request of {NUM_LATENCY_CANDIDATES} candidates",
                text="One thread, in a process without TensorFlow.",
                columns=LATENCY_COLUMNS,
                rows=_latency_rows(rankings),
                svg=plots.latency({p: r.latency_ms for p, r in rankings.items()}),
            ),
            *(
                Section(title=f"Store, {precision} tables", columns=SECTION_COLUMNS, rows=rows)
                for precision, rows in sections.items()
            ),
        ],
    )


def _report_logged_policies(args: argparse.Namespace, console: Console) -> int:
    """Click rates by policy and position: the logs hold too few clicks to train on."""
    from feedfast.cli import plots
    from feedfast.cli.report import Section, write_report
    from feedfast.data import ctr_report

    dataset = load_dataset(args, console).dataset
    rows = ctr_report(dataset.log)
    columns = ["policy", "position", "impressions", "clicks", "click rate", "95% interval"]
    table = [
        [
            row.policy,
            "all" if row.position is None else row.position,
            row.impressions,
            row.clicks,
            row.rate,
            f"[{row.low:.5f}, {row.high:.5f}]",
        ]
        for row in rows
    ]
    console.table(f"{dataset.name}: click rate by policy and position", columns, table)
    report = args.out / "report.html"
    write_report(
        report,
        f"feedfast demo: {dataset.name}",
        notes=dataset.notes,
        sections=[
            Section(
                title="Click rate by policy and position",
                columns=columns,
                rows=table,
                svg=plots.ctr_by_position(rows),
            )
        ],
    )
    console.note(f"report: {report}")
    console.result(
        {
            "dataset": dataset.name,
            "click_rates": [dataclasses.asdict(row) for row in rows],
            "report": str(report),
        }
    )
    return 0
