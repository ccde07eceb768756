"""`feedfast export`: a trained run into a model store, or as a SavedModel or ONNX file."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedfast.cli.console import Console, format_bytes
from feedfast.cli.datasets import add_dataset_arguments, load_dataset

if TYPE_CHECKING:
    from feedfast.precision_search import PrecisionChoice
    from feedfast.ranker.run import TrainedRun
    from feedfast.ranker.stored import LabelledRequests
    from feedfast.ranker_artifact import RankerArtifact, RankerEncoder

COLUMNS = ("section", "precision", "bytes", "% of fp32", "NE delta alone")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast export`."""
    parser.add_argument("--run", type=Path, required=True, help="folder of a complete run")
    parser.add_argument("--store", type=Path, help="model store; made when absent")
    parser.add_argument(
        "--format",
        choices=("store", "saved_model", "onnx"),
        default="store",
        help="store: what the scorer serves; saved_model: a TensorFlow SavedModel on the drop-in "
        "ops, from strings to probabilities; onnx: the towers alone",
    )
    parser.add_argument("--output", type=Path, help="SavedModel folder or ONNX file to write")
    parser.add_argument("--model", default="feed", help="name of the model in the store")
    parser.add_argument(
        "--precision",
        action="append",
        metavar="[NAME=]PRECISION",
        help="fp32, fp16, bf16, int8 or int4 for all tables, or for NAME: tables, layers (fp32, "
        "bf16, int8), or one of them such as member_table, passive/0 or cross; repeatable, or with "
        "commas",
    )
    parser.add_argument(
        "--range",
        choices=("minmax", "clip"),
        help="what the codes of int8 and int4 tables cover: all values of a row, or the interval "
        "with the least error; default: minmax for int8, clip for int4",
    )
    parser.add_argument(
        "--max-ne-delta",
        type=float,
        metavar="DELTA",
        help="choose the smallest precision of each table and layer with which the normalised "
        "entropy of every objective changes by at most this share on --data",
    )
    parser.add_argument(
        "--calibrate",
        action="append",
        metavar="[OBJECTIVE=]METHOD",
        help="fit calibrators to --data: isotonic, platt or none, for all objectives or for one; "
        "repeatable",
    )
    add_dataset_arguments(parser, default=None, required=False)
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads that score"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the model and prints its version, and with a budget what was chosen and measured."""
    from feedfast.ranker.export import artifact_of
    from feedfast.ranker.run import TrainedRun
    from feedfast.ranker_artifact import RankerEncoder
    from feedfast.ranker_precision import parse_precisions
    from feedfast.store import ModelStore

    console = Console(as_json=args.json)
    if args.format != "store":
        return _write_other_format(args, console)
    if args.output is not None:
        raise ValueError("--output goes with --format saved_model or onnx")
    if args.store is None:
        raise ValueError("name the model store to write to (--store)")
    if args.data is None and (args.max_ne_delta is not None or args.calibrate):
        option = "--calibrate" if args.calibrate else "--max-ne-delta"
        raise ValueError(f"{option} needs --data, the log to measure on")
    if args.data is not None and args.max_ne_delta is None and not args.calibrate:
        raise ValueError("--data is read with --max-ne-delta or --calibrate alone; give one")
    if args.max_ne_delta is not None and args.precision:
        raise ValueError("--max-ne-delta chooses the precisions; leave --precision out")
    trained = TrainedRun.open(args.run)
    artifact = artifact_of(trained.ranker)
    document: dict[str, Any] = {"store": str(args.store), "model": args.model}
    data = None if args.data is None else _labelled(args, console, trained)
    if data is not None and args.calibrate:
        artifact, document["calibration"] = _calibrate(args, console, artifact, data)
    encoder = RankerEncoder(artifact, range_method=args.range, threads=args.threads)
    if data is None or args.max_ne_delta is None:
        precisions = parse_precisions(args.precision or ["fp32"])
    else:
        choice = _search(args, console, data, encoder)
        precisions = dict(choice.precisions)
        document |= _print_choice(console, encoder, choice, args.max_ne_delta)
    version = encoder.publish(ModelStore(args.store), args.model, precisions)
    console.note(f"{args.store}: model {args.model!r}, version {version}")
    console.result({**document, "version": version})
    return 0


def _write_other_format(args: argparse.Namespace, console: Console) -> int:
    from feedfast.ranker.export import artifact_of
    from feedfast.ranker.run import TrainedRun

    if args.output is None:
        raise ValueError(f"--format {args.format} needs --output")
    of_store = (args.store, args.precision, args.range, args.calibrate, args.data)
    if any(of_store) or args.max_ne_delta is not None:
        raise ValueError(
            "--store, --precision, --range, --max-ne-delta, --calibrate and --data are those of a "
            "model store"
        )
    artifact = artifact_of(TrainedRun.open(args.run).ranker)
    if args.format == "saved_model":
        from feedfast.ranker.saved_model import save_model

        save_model(artifact, args.output)
    else:
        from feedfast.ranker.onnx_towers import save_towers

        save_towers(artifact, args.output)
    console.note(f"{args.output}: {args.format}")
    console.result({"output": str(args.output), "format": args.format})
    return 0


def _labelled(args: argparse.Namespace, console: Console, trained: TrainedRun) -> LabelledRequests:
    from feedfast.ranker.stored import LabelledRequests

    history = trained.config.history
    data = LabelledRequests.of(
        load_dataset(args, console).dataset,
        run=trained,
        max_members=history.max_members,
        max_hashtags=history.max_hashtags,
    )
    console.note(f"measured on {len(data.labels):,} impressions")
    return data


def _calibrate(
    args: argparse.Namespace, console: Console, artifact: RankerArtifact, data: LabelledRequests
) -> tuple[RankerArtifact, list[dict[str, object]]]:
    """The ranker with calibrators, and what they changed as JSON values."""
    from feedfast.ranker.calibrate import calibrated, resolve_methods

    objectives = [objective.name for objective in artifact.utility.objectives]
    methods = resolve_methods(args.calibrate, objectives)
    artifact, report = calibrated(artifact, data, methods, threads=args.threads)
    names = ("objective", "method", "knots", "O/E before", "O/E", "NE before", "NE")
    rows = [
        (
            each.objective,
            each.method,
            artifact.calibrators[each.objective].x.size,
            each.before.oe,
            each.after.oe,
            each.before.normalized_entropy,
            each.after.normalized_entropy,
        )
        for each in report
    ]
    console.table("calibrators, on the rows they were fitted to", names, rows)
    return artifact, [dict(zip(names, row, strict=True)) for row in rows]


def _search(
    args: argparse.Namespace, console: Console, data: LabelledRequests, encoder: RankerEncoder
) -> PrecisionChoice:
    from feedfast.ranker.stored import precisions_within_budget

    with console.progress("precisions") as progress:
        return precisions_within_budget(
            encoder,
            data,
            args.store,
            max_ne_delta=args.max_ne_delta,
            threads=args.threads,
            tell=progress.update,
        )


def _print_choice(
    console: Console, encoder: RankerEncoder, choice: PrecisionChoice, budget: float
) -> dict[str, Any]:
    """Prints chosen and measured precisions; the same as JSON values."""
    full = {section: encoder.num_bytes(section, "fp32") for section in choice.precisions}
    measured = [
        (m.section, m.precision, m.num_bytes, 100.0 * m.num_bytes / full[m.section], m.delta)
        for m in choice.measurements
    ]
    console.table("measured, all other sections in fp32", COLUMNS, measured)
    alone = {(section, "fp32"): 0.0 for section in choice.precisions}
    alone |= {(m.section, m.precision): m.delta for m in choice.measurements}
    rows: list[tuple[object, ...]] = []
    total = 0
    for section, precision in choice.precisions.items():
        num_bytes = encoder.num_bytes(section, precision)  # type: ignore[arg-type]
        total += num_bytes
        share = 100.0 * num_bytes / full[section]
        rows.append((section, precision, num_bytes, share, alone.get((section, precision))))
    everything = sum(full.values())
    rows.append(("all together", "", total, 100.0 * total / everything, choice.delta))
    console.table(
        f"chosen within {budget:g}: {format_bytes(total)} instead of {format_bytes(everything)}",
        COLUMNS,
        rows,
    )

    def entries(table: list[Any]) -> list[dict[str, object]]:
        names = ("section", "precision", "bytes", "percent", "ne_delta")
        return [
            {
                name: None if value == math.inf else value
                for name, value in zip(names, row, strict=True)
            }
            for row in table
        ]

    return {
        "max_ne_delta": budget,
        "ne_delta": choice.delta,
        "bytes": total,
        "fp32_bytes": everything,
        "sections": entries(rows[:-1]),
        "measured": entries(measured),
    }
