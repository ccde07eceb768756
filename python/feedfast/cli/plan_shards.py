"""`feedfast plan shards`: placements of embedding tables, why, and what a step would take."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from feedfast.cli.console import Console, format_bytes
from feedfast.sharding import (
    KINDS,
    PRESETS,
    Alternative,
    Placement,
    Planned,
    TableShape,
    Topology,
    Workload,
    plan_tables,
    preset,
)
from feedfast.sharding.published import compare_published
from feedfast.sharding.sharding_plan import table_from_json
from feedfast.store import ModelStore

# Of the table of choices: more rows than that are summed up by kind.
_MAX_TABLES = 60
# Of a placement: more ranks than that are not listed one by one.
_MAX_RANKS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast plan shards`."""
    cluster = parser.add_argument_group("cluster")
    cluster.add_argument("--hosts", type=int, help="hosts; default: 1, or as measured")
    cluster.add_argument("--gpus", type=int, help="ranks of a host; default: 8, or as measured")
    cluster.add_argument(
        "--cluster",
        default="a100",
        metavar="NAME|FILE",
        help=f"{' or '.join(PRESETS)}, or a file of feedfast plan calibrate",
    )
    cluster.add_argument("--memory", type=float, metavar="GIB", help="of a rank; default: its own")
    model = parser.add_argument_group("tables")
    model.add_argument(
        "--tables",
        type=Path,
        metavar="FILE",
        help="JSON list of objects with name, rows, dim and, if known, bytes_per_element, "
        "lookups_per_example, zipf, order, optimizer",
    )
    model.add_argument("--store", type=Path, help="take the tables of a published model here")
    model.add_argument("--model", help="name of the model in the store; default: feed")
    model.add_argument("--version", help="its version; default: the newest")
    step = parser.add_argument_group("training step")
    step.add_argument("--batch", type=int, default=1024, help="examples of a rank in a micro-batch")
    step.add_argument("--window", type=int, default=1, help="micro-batches of an update")
    step.add_argument(
        "--exchange", choices=("rows", "pooled"), default="rows", help="what owners send back"
    )
    step.add_argument("--bf16", action="store_true", help="numbers on the wire take 2 bytes")
    step.add_argument("--dense-ms", type=float, default=0.0, help="everything but the tables")
    step.add_argument("--dense-mb", type=float, default=0.0, help="dense gradients to sum, MB")
    step.add_argument(
        "--kinds", default=",".join(KINDS), metavar="LIST", help="placements that may be used"
    )
    step.add_argument("--min-columns", type=int, default=4, help="narrowest part of a row")
    step.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the plan as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write an SVG")
    parser.add_argument(
        "--published",
        action="store_true",
        help="instead: predictions of the a100 preset beside published step times",
    )


def run(args: argparse.Namespace, console: Console) -> None:
    """Prints the placements with their reasons, the step by part, and load and memory by rank."""
    if args.published:
        _published(console)
        return
    topology = _topology(args)
    tables = _tables(args)
    if not 0 <= args.dense_mb < math.inf:
        raise ValueError(f"--dense-mb must be finite and >= 0; got {args.dense_mb}")
    work = Workload(
        batch_per_rank=args.batch,
        window=args.window,
        exchange=args.exchange,
        wire_bytes=2 if args.bf16 else 4,
        dense_seconds=args.dense_ms / 1e3,
        dense_bytes=int(args.dense_mb * 1e6),
    )
    kinds = _kinds(args.kinds)
    with console.progress("plan shards") as progress:
        planned = plan_tables(
            tables,
            topology,
            work,
            kinds=[kind for kind in KINDS if kind in kinds],
            min_columns=args.min_columns,
            seed=args.seed,
            report=lambda stage, done, total: progress.update(done, total, stage),
        )
    _show_choices(planned, console)
    _show_step(planned, topology, console)
    _show_ranks(planned, topology, console)
    if args.out is not None:
        args.out.write_text(planned.plan.to_json() + "\n")
    if args.plot is not None:
        from feedfast.cli import plots

        args.plot.write_text(plots.shard_plan(planned.prediction, topology.memory_bytes))
    console.result(_document(planned, topology, work))


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"--kinds: {kind!r} is no kind; allowed: {', '.join(KINDS)}")
    return kinds


def _topology(args: argparse.Namespace) -> Topology:
    if args.cluster in PRESETS:
        topology = preset(
            args.cluster,
            num_hosts=1 if args.hosts is None else args.hosts,
            ranks_per_host=8 if args.gpus is None else args.gpus,
        )
    else:
        path = Path(args.cluster)
        if not path.is_file():
            raise ValueError(
                f"--cluster: {args.cluster!r} is neither {', '.join(PRESETS)} nor a file"
            )
        try:
            topology = Topology.from_json(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        hosts, ranks = args.hosts, args.gpus
        topology = replace(
            topology,
            num_hosts=topology.num_hosts if hosts is None else hosts,
            ranks_per_host=topology.ranks_per_host if ranks is None else ranks,
            workers=topology.workers if ranks is None else min(ranks, topology.workers),
        )
    if args.memory is not None:
        if not 0 < args.memory < math.inf:
            raise ValueError(f"--memory must be finite and above 0; got {args.memory}")
        topology = replace(topology, memory_bytes=int(args.memory * 2**30))
    return topology


def _tables(args: argparse.Namespace) -> list[TableShape]:
    if (args.tables is None) == (args.store is None):
        raise ValueError("give --tables FILE or --store STORE, one of them")
    if args.store is not None:
        manifest = ModelStore(args.store).open(args.model or "feed", args.version).manifest
        return [
            TableShape(
                name=section.name,
                rows=section.shape[0],
                dim=section.shape[1],
                bytes_per_element=4,  # trained in float32, whatever it is stored as
            )
            for section in manifest.sections.values()
            if section.kind == "table"
        ]
    if args.model is not None or args.version is not None:
        raise ValueError("--model and --version go with --store")
    return tables_from_file(args.tables)


def tables_from_file(path: Path) -> list[TableShape]:
    """The tables of a JSON list of objects.

    Raises:
        ValueError: It is no such list; names the file, the item and the member.
    """
    try:
        try:
            items = json.loads(path.read_text())
        except RecursionError:
            raise ValueError("not JSON that can be read: nested too deeply") from None
        if not isinstance(items, list) or not items:
            raise ValueError("must be a list of at least one table")
        return [
            table_from_json(f"tables[{index}]", item, required=("name", "rows", "dim"))
            for index, item in enumerate(items)
        ]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _show_choices(planned: Planned, console: Console) -> None:
    shapes = sorted(planned.plan.tables, key=lambda table: -table.weight_bytes)
    console.table(
        "placements, largest table first",
        ["table", "rows", "dim", "size", "placement", "why not another"],
        [
            [
                table.name,
                table.rows,
                table.dim,
                format_bytes(table.weight_bytes),
                _where(planned.plan.placement(table.name)),
                _why(planned.alternatives[table.name]),
            ]
            for table in shapes[:_MAX_TABLES]
        ],
    )
    if len(shapes) > _MAX_TABLES:
        kinds = Counter(placement.kind for placement in planned.plan.placements)
        console.note(
            f"... and {len(shapes) - _MAX_TABLES} smaller ones (--json has all); of all tables: "
            + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        )


def _where(placement: Placement) -> str:
    hot = f", rows below {placement.hot_rows:,} everywhere" if placement.hot_rows else ""
    ranks = placement.ranks
    if placement.kind == "data_parallel":
        return "data_parallel"
    if placement.kind == "table":
        return f"table on rank {ranks[0]}{hot}"
    first, last = ranks[0], ranks[-1]
    shown = f"{first}-{last}"
    if len(ranks) != last - first + 1:
        shown = ",".join(map(str, ranks)) if len(ranks) <= _MAX_RANKS else f"of {shown}"
    if placement.kind == "row_column":
        parts = f"{len(placement.row_ranges)} x {len(placement.column_ranges)}"
        return f"rows x columns {parts} on {shown}{hot}"
    return f"{placement.kind} / {len(ranks)} on {shown}{hot}"


def _why(alternatives: tuple[Alternative, ...]) -> str:
    chosen, *others = alternatives
    reasons = []
    for other in others:
        if other.missing_bytes:
            reasons.append(f"{other.kind}: {format_bytes(other.missing_bytes)} too much")
        elif chosen.step_seconds > 0:
            more = 100.0 * (other.step_seconds / chosen.step_seconds - 1.0)
            reasons.append(f"{other.kind}: {more:+.2g} %")
    return "; ".join(reasons)


def _show_step(planned: Planned, topology: Topology, console: Console) -> None:
    prediction = planned.prediction
    step = prediction.step_seconds
    label = (
        "predicted, not measured: preset"
        if topology.source == "preset"
        else "predicted from measured rates of"
    )
    console.table(
        f"{label} {topology.name}, {topology.num_hosts} host(s) of {topology.ranks_per_host}",
        ["part of a step", "ms", "share %"],
        [
            *(
                [name, 1e3 * seconds, 100.0 * seconds / step if step > 0 else None]
                for name, seconds in prediction.part_seconds.items()
            ),
            ["all", 1e3 * step, 100.0],
        ],
    )
    console.note(f"{prediction.examples_per_second:,.0f} examples/s on {topology.num_ranks} ranks")


def _show_ranks(planned: Planned, topology: Topology, console: Console) -> None:
    prediction = planned.prediction
    rows = [
        [
            f"rank {rank}",
            1e3 * float(prediction.load_seconds[rank]),
            float(prediction.sent_bytes[rank]) / 1e6,
            format_bytes(int(prediction.memory_bytes[rank])),
            100.0 * float(prediction.memory_bytes[rank]) / topology.memory_bytes,
        ]
        for rank in range(topology.num_ranks)
    ]
    by_load = sorted(rows, key=lambda row: -float(str(row[1])))
    shown = rows if len(rows) <= 16 else [*by_load[:4], *by_load[-4:]]
    console.table(
        f"load and memory; the busiest rank has {100.0 * prediction.imbalance:.1f} % more than the "
        f"mean; {format_bytes(topology.memory_bytes)} a rank"
        + ("" if len(rows) <= 16 else "; the four busiest and the four quietest"),
        ["", "ms as an owner", "MB sent a step", "memory", "of it used %"],
        shown,
    )


def _document(planned: Planned, topology: Topology, work: Workload) -> dict[str, object]:
    prediction = planned.prediction
    return {
        "predicted": True,
        "topology": json.loads(topology.to_json()),
        "workload": asdict(work),
        "step_seconds": prediction.step_seconds,
        "examples_per_second": prediction.examples_per_second,
        "part_seconds": prediction.part_seconds,
        "imbalance": prediction.imbalance,
        "load_seconds": prediction.load_seconds.tolist(),
        "sent_bytes": prediction.sent_bytes.tolist(),
        "memory_bytes": prediction.memory_bytes.tolist(),
        "alternatives": {
            name: [asdict(alternative) for alternative in alternatives]
            for name, alternatives in planned.alternatives.items()
        },
        "plan": json.loads(planned.plan.to_json()),
    }


def _published(console: Console) -> None:
    with console.progress("plan shards --published") as progress:
        compared = compare_published(
            report=lambda step: progress.update(0, None, f"{step.model}, {step.num_gpus} GPUs")
        )
    rows: list[list[object]] = []
    for item in compared:
        step = item.published
        fitted = item.fitted_seconds
        rows.append(
            [
                f"{step.source} {step.model}",
                step.num_gpus,
                step.global_batch,
                1e3 * step.step_seconds,
                1e3 * item.preset_seconds,
                100.0 * (item.preset_seconds / step.step_seconds - 1.0),
                None if fitted is None else 1e3 * fitted,
                None if fitted is None else 100.0 * (fitted / step.step_seconds - 1.0),
            ]
        )
    console.table(
        "preset a100 (data sheets) beside published steps; fitted: plus what the first two rows of "
        "the model lack, a constant and a time per example",
        ["", "GPUs", "batch", "published ms", "preset ms", "off %", "fitted ms", "off %"],
        rows,
    )
    console.result(
        [
            {
                **asdict(item.published),
                "preset_seconds": item.preset_seconds,
                "fitted_seconds": item.fitted_seconds,
            }
            for item in compared
        ]
    )
