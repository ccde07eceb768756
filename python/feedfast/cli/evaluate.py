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
    *("objective", "group", "base rate", "AUC", "baseline AUC", "oracle AUC"),
    *("NE", "baseline NE", "log loss", "O/E", "95% interval"),
)


def evaluation_rows(report: EvaluationReport) -> list[list[object]]:
    """One row per objective: the model, the baseline and, where it is known, the truth."""
    rows: list[list[object]] = []
    for objective in report.objectives:
        model, baseline, oracle = objective.model, objective.baseline, objective.oracle
        rows.append(
            [
                objective.name,
                objective.group,
                model.base_rate,
                model.auc,
                baseline.auc if baseline else None,
                oracle.auc if oracle else None,
                model.normalized_entropy,
                baseline.normalized_entropy if baseline else None,
                model.log_loss,
                round(model.oe, 3),
                f"[{model.oe_low:.3f}, {model.oe_high:.3f}]",
            ]
        )
    return rows


def print_evaluation(console: Console, report: EvaluationReport) -> None:
    """The table of `evaluation_rows` and what the baseline is."""
    title = f"{report.dataset}: {report.num_test_rows:,} held-out impressions"
    console.table(title, COLUMNS, evaluation_rows(report))
    console.note(f"baseline: {report.baseline_note}")


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
