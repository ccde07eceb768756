"""`feedfast evaluate`: quality of a trained run on its held-out part, beside the baseline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from feedfast.cli.console import Console
from feedfast.cli.datasets import add_dataset_arguments, load_dataset
from feedfast.cli.progress import show_stages

if TYPE_CHECKING:
    from feedfast.training import EvaluationReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast evaluate`."""
    add_dataset_arguments(parser, default=None)
    parser.add_argument("--run", type=Path, required=True, help="folder of a complete run")


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
    from feedfast.training import TrainedRun, evaluate

    console = Console(as_json=args.json)
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
