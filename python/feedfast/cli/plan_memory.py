"""`feedfast plan memory`: what a ranker takes in the store and in memory, at any scale."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from feedfast.cli.console import Console, format_bytes
from feedfast.cli.plan_latency import DEFAULT_CONFIG
from feedfast.config import RankerConfig
from feedfast.memory_plan import (
    SectionPlan,
    plan_memory,
    shape_of_config,
    shape_of_model,
)
from feedfast.ranker_description import RankerDescription
from feedfast.ranker_precision import LAYER_PRECISIONS, LAYOUT_OF, TABLE_PRECISIONS
from feedfast.store import ModelStore

# A plan holds when nothing is further off than this share, or else than these bytes: of a section
# and of the mapped pages alignment and headers, of the private pages what the interpreter and the
# allocator take beside the model, 0.8 MiB.
TOLERANCE = 0.05
SLACK_BYTES = 1 << 10
PRIVATE_SLACK_BYTES = 2 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast plan memory`."""
    parser.add_argument("--config", type=Path, help="JSON file with a RankerConfig")
    parser.add_argument(
        "--members",
        default="100000,1000000,10000000,100000000",
        metavar="LIST",
        help="numbers of members, separated by commas",
    )
    parser.add_argument("--hashtags", type=int, help="hashtags; default: a fifth of the members")
    parser.add_argument("--items", type=int, default=0, help="items with random effects")
    parser.add_argument("--shared", type=int, default=16, help="float features of a request")
    parser.add_argument("--dense", type=int, default=48, help="float features of a candidate")
    parser.add_argument("--passive", type=int, default=4, help="heads of the passive tower")
    parser.add_argument("--active", type=int, default=4, help="heads of the active tower")
    parser.add_argument(
        "--tables",
        default=",".join(TABLE_PRECISIONS),
        metavar="LIST",
        help="precisions of the tables, separated by commas",
    )
    parser.add_argument("--layers", choices=LAYER_PRECISIONS, default="fp32", help="precision")
    parser.add_argument(
        "--check",
        type=Path,
        metavar="STORE",
        help="plan a published ranker from its counts, and compare with its sections and with a "
        "process that has read all of it; exit code 1 when the plan is off",
    )
    parser.add_argument("--model", help="name of the model to check; default: feed")
    parser.add_argument("--version", help="its version; default: the newest")


def run(args: argparse.Namespace, console: Console) -> int:
    """Prints a row per scale and precision; or compares a plan with a store."""
    if args.check is not None:
        return _check(args, console)
    if args.model is not None or args.version is not None:
        raise ValueError("--model and --version go with --check")
    config = DEFAULT_CONFIG
    if args.config is not None:
        try:
            config = RankerConfig.from_json(args.config.read_text())
        except ValueError as error:
            raise ValueError(f"{args.config}: {error}") from None
    rows, document = [], []
    for members in _numbers("--members", args.members):
        for precision in args.tables.split(","):
            if precision not in TABLE_PRECISIONS:
                raise ValueError(
                    f"--tables: {precision!r} is no precision; "
                    f"allowed: {', '.join(TABLE_PRECISIONS)}"
                )
            shape = shape_of_config(
                config,
                members=members,
                hashtags=members // 5 if args.hashtags is None else args.hashtags,
                features=args.shared + args.dense,
                passive=args.passive,
                active=args.active,
                effect_items=args.items,
                layouts=(LAYOUT_OF[precision],) * 3,
                precision=args.layers,
            )
            plan = plan_memory(shape)
            total = _total(plan)
            rows.append(
                [
                    f"{members:,} members, {precision}",
                    total["parameters"],
                    *map(
                        format_bytes,
                        (
                            total["bytes"],
                            total["resident"],
                            total["private"],
                            _vocabularies(plan),
                        ),
                    ),
                ]
            )
            document.append(
                {
                    "members": members,
                    "hashtags": shape.hashtags,
                    "tables": precision,
                    "layers": args.layers,
                    **total,
                    "sections": [asdict(section) for section in plan],
                }
            )
    console.table(
        "resident: of a process that has read everything; all but the private part is shared by "
        "all processes and variants of a machine",
        ["scale", "parameters", "in the store", "resident", "private", "of it vocabularies"],
        rows,
    )
    console.result(document)
    return 0


def _numbers(name: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ValueError(f"{name} must be whole numbers >= 1 separated by commas; got {text!r}")
    return numbers


def _total(plan: tuple[SectionPlan, ...]) -> dict[str, int]:
    return {
        "parameters": sum(section.parameters for section in plan),
        "bytes": sum(section.bytes for section in plan),
        "resident": sum(section.resident for section in plan),
        "private": sum(section.private for section in plan),
    }


def _vocabularies(plan: tuple[SectionPlan, ...]) -> int:
    return sum(section.bytes for section in plan if section.name.endswith("_vocabulary"))


def _check(args: argparse.Namespace, console: Console) -> int:
    opened = ModelStore(args.check).open(args.model or "feed", args.version)
    description = RankerDescription.from_json(opened.description)
    plan = {section.name: section for section in plan_memory(shape_of_model(opened, description))}
    measured = _measure(args.check, opened.manifest.model, opened.manifest.version)
    rows = []
    for name, section in sorted(plan.items(), key=lambda item: -item[1].bytes):
        stored = opened.manifest.sections[name].num_bytes
        rows.append((name, section.bytes, stored, _holds(section.bytes, stored, SLACK_BYTES)))
    total = _total(tuple(plan.values()))
    for name, planned, slack in (
        ("mapped", total["resident"] - total["private"], len(plan) * SLACK_BYTES),
        ("private", total["private"], PRIVATE_SLACK_BYTES),
    ):
        rows.append((name, planned, measured[name], _holds(planned, measured[name], slack)))
    console.table(
        f"{opened.where}: planned from its counts, and measured",
        ["", "planned", "measured", "difference %", "holds"],
        [
            [name, planned, found, 100.0 * (planned - found) / max(1, found), holds]
            for name, planned, found, holds in rows
        ],
    )
    console.result(
        {
            "model": opened.manifest.model,
            "version": opened.manifest.version,
            "parameters": total["parameters"],
            "rows": [
                {"name": name, "planned": planned, "measured": found, "holds": holds}
                for name, planned, found, holds in rows
            ],
        }
    )
    return 0 if all(holds for *_, holds in rows) else 1


def _holds(planned: int, measured: int, slack: int) -> bool:
    return abs(planned - measured) <= max(slack, TOLERANCE * measured)


def _measure(store: Path, model: str, version: str) -> dict[str, int]:
    """Bytes that a fresh process has more once it has loaded and read the model."""
    command = [
        *(sys.executable, "-m", "feedfast.cli", "inspect", str(store), "--memory", "--json"),
        *("--model", model, "--version", version),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"feedfast inspect --memory failed: {done.stderr.strip()}")
    document: dict[str, Any] = json.loads(done.stdout)
    stages = document["stages"]
    private = stages[-1]["anonymous"] - stages[0]["anonymous"]
    mapped = sum(min(s["read"]["rss"], s["bytes"]) for s in document["sections"])
    return {"mapped": mapped, "private": private}
