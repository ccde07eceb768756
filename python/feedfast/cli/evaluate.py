"""`feedfast evaluate`: quality of a trained run beside the baseline, or of an exported model."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from feedfast.cli.console import Console, format_bytes
from feedfast.cli.datasets import add_dataset_arguments, load_dataset
from feedfast.cli.progress import show_stages

if TYPE_CHECKING:
    from feedfast.ranker.stored import StoredEvaluation
    from feedfast.training import EvaluationReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast evaluate`."""
    add_dataset_arguments(parser, default=None)
    parser.add_argument(
        "--run",
        type=Path,
        help="folder of a complete run: evaluates it; with --store: only its held-out rows",
    )
    parser.add_argument("--store", type=Path, help="model store: evaluates an exported model")
    parser.add_argument("--model", default="feed", help="name of the model in the store")
    parser.add_argument("--version", help="its version; default: the newest")
    parser.add_argument(
        "--against", type=Path, metavar="STORE", help="store of a model to compare scores with"
    )
    parser.add_argument("--against-model", help="name of that model; default: the same")
    parser.add_argument("--against-version", help="its version; default: the newest")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads that score"
    )


COLUMNS = (
    *(
        "objective",
        "group",
        "rate in training",
        "base rate",
        "AUC",
        "baseline AUC",
        "NE",
        "baseline NE",
    ),
    *("log loss", "O/E", "95% interval"),
)
# Outside of it a note compares with the drift of the data.
OE_BAND = (0.9, 1.1)
# Where the true probabilities are known: of the oracle, and the share of its gain in NE reached.
ORACLE_COLUMNS = ("oracle AUC", "oracle NE", "% of its gain")


def evaluation_table(report: EvaluationReport) -> tuple[list[str], list[list[object]]]:
    """(columns, rows): the model, the baseline and, where it is known, the truth."""
    columns, rows = list(COLUMNS), []
    if any(objective.oracle for objective in report.objectives):
        columns += ORACLE_COLUMNS
    for objective in report.objectives:
        model, baseline, oracle = objective.model, objective.baseline, objective.oracle
        row: list[object] = [
            objective.name,
            objective.group,
            objective.train_base_rate,
            model.base_rate,
            model.auc,
            baseline.auc if baseline else None,
            model.normalized_entropy,
            baseline.normalized_entropy if baseline else None,
            model.log_loss,
            round(model.oe, 3),
            f"[{model.oe_low:.3f}, {model.oe_high:.3f}]",
        ]
        if oracle:
            row += [oracle.auc, oracle.normalized_entropy, 100.0 * objective.oracle_share]
        rows.append(row)
    return columns, rows


def evaluation_notes(report: EvaluationReport) -> list[str]:
    """What the baseline is, and what drift has to do with every O/E outside `OE_BAND`."""
    notes = [f"baseline: {report.baseline_note}"]
    low, high = OE_BAND
    for objective in report.objectives:
        model, before = objective.model, objective.train_base_rate
        if before > 0.0 and not low <= model.oe <= high:
            notes.append(
                f"{objective.name}: O/E {model.oe:.3f} is outside [{low}, {high}]; its rate went "
                f"from {before:.4g} in the training rows to {model.base_rate:.4g} in these, a "
                f"factor of {model.base_rate / before:.3f} that training rows alone do not tell"
            )
    return notes


def print_evaluation(console: Console, report: EvaluationReport) -> None:
    """The table of `evaluation_table` and what the baseline is."""
    title = f"{report.dataset}: {report.num_test_rows:,} held-out impressions"
    console.table(title, *evaluation_table(report))
    for note in evaluation_notes(report):
        console.note(note)


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints one row per objective."""
    console = Console(as_json=args.json)
    if args.store is not None:
        return _run_stored(args, console)
    if args.run is None:
        raise ValueError("name the folder of a run (--run) or a model store (--store)")
    if args.against is not None:
        raise ValueError("--against goes with --store")
    from feedfast.training import TrainedRun, evaluate

    trained = TrainedRun.open(args.run)
    data = load_dataset(args, console)
    with show_stages(console) as progress:
        report = evaluate(
            trained,
            data.dataset,
            true_probabilities=data.true_probabilities,
            progress=progress,
        )
    print_evaluation(console, report)
    console.result(report.to_dict())
    return 0


STORED_COLUMNS = ("objective", "group", "base rate", "AUC", "NE", "log loss", "O/E", "95% interval")
DELTA_COLUMNS = ("NE delta", "greatest score delta", "mean score delta")


def stored_table(evaluation: StoredEvaluation) -> tuple[list[str], list[list[object]]]:
    """(columns, rows) of an exported model, with its deltas when it was compared."""
    columns, rows = list(STORED_COLUMNS), []
    if evaluation.against is not None:
        columns += DELTA_COLUMNS
    for objective in evaluation.objectives:
        report, delta = objective.report, objective.delta
        row: list[object] = [
            objective.name,
            objective.group,
            report.base_rate,
            report.auc,
            report.normalized_entropy,
            report.log_loss,
            round(report.oe, 3),
            f"[{report.oe_low:.3f}, {report.oe_high:.3f}]",
        ]
        if delta is not None:
            row += [delta.normalized_entropy, delta.greatest, delta.mean]
        rows.append(row)
    return columns, rows


def _run_stored(args: argparse.Namespace, console: Console) -> int:
    from feedfast.ranker.run import TrainedRun
    from feedfast.ranker.stored import LabelledRequests, evaluate_stored
    from feedfast.scorer import Scorer
    from feedfast.store import ModelStore

    def open_scorer(store: Path, model: str, version: str | None) -> tuple[Scorer, int]:
        scorer = Scorer.open(store, model=model, version=version, threads=args.threads)
        sizes = ModelStore(store).open(model, scorer.version).section_sizes()
        return scorer, sum(size.num_bytes for size in sizes)

    scorer, num_bytes = open_scorer(args.store, args.model, args.version)
    against, against_bytes = None, 0
    if args.against is not None:
        other = args.against_model or args.model
        against, against_bytes = open_scorer(args.against, other, args.against_version)
    data = LabelledRequests.of(
        load_dataset(args, console).dataset,
        run=None if args.run is None else TrainedRun.open(args.run),
        max_members=scorer.history.max_members,
        max_hashtags=scorer.history.max_hashtags,
    )
    evaluation = evaluate_stored(
        scorer, data, num_bytes=num_bytes, against=against, against_bytes=against_bytes
    )
    console.table(
        f"{args.store}: {scorer.model} {scorer.version}, {format_bytes(num_bytes)}, on "
        f"{evaluation.num_rows:,} impressions",
        *stored_table(evaluation),
    )
    if evaluation.against is not None:
        model, version, other_bytes = evaluation.against
        console.note(
            f"against {args.against}: {model} {version}, {format_bytes(other_bytes)}: "
            f"{100.0 * num_bytes / other_bytes:.1f}% of its bytes; "
            f"worst NE delta {evaluation.worst_delta:.2e}"
        )
    console.result(evaluation.to_dict())
    return 0
