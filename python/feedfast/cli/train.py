"""`feedfast train`: an impression log to a trained run folder; continues a run that was cut off.

With `--processes` the command starts itself that many times and watches; started by horovodrun or
mpirun, it is one of the processes of their job.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from feedfast.cli.console import Console
from feedfast.cli.datasets import add_dataset_arguments, load_dataset
from feedfast.cli.output_path import require_writable
from feedfast.cli.progress import show_stages
from feedfast.comm import Engine
from feedfast.comm.connection import connect, detected_kind
from feedfast.comm.launch import PEER_LOST, run_local
from feedfast.comm.traced import PeerLostError, TracedEngine
from feedfast.config import DistributedConfig, RankerConfig
from feedfast.sharded_tables.agreement import all_or_none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast train`."""
    add_dataset_arguments(parser, default=None)
    parser.add_argument(
        "--run", type=Path, required=True, help="folder of the run; continued where it stopped"
    )
    parser.add_argument("--config", type=Path, help="JSON file with a RankerConfig")
    parser.add_argument("--seed", type=int, help="replaces the seed of the configuration")
    parser.add_argument("--epochs", type=int, help="replaces the most epochs of the configuration")
    parser.add_argument(
        "--resume", action="store_true", help="refuse to begin: --run must hold a run already"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="train in N processes of this host, each with its share of every batch",
    )
    parser.add_argument(
        "--sharding",
        metavar="HOW",
        help="where processes hold the tables, instead of the configuration's: none, row, auto, or "
        "a plan file",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "null", "shm", "horovod"),
        default="auto",
        help="how processes exchange; auto: shm with --processes, horovod under horovodrun or "
        "mpirun",
    )
    parser.add_argument(
        "--timeline",
        type=Path,
        metavar="FILE",
        help="write the exchanges in Chrome's trace format; under Horovod this is its timeline",
    )


def run(args: argparse.Namespace) -> int:
    """Trains and prints the epochs."""
    config = _config(args)
    if args.resume and not (args.run / "config.json").is_file():
        raise ValueError(f"--resume: {args.run} holds no run")
    if args.timeline is not None:
        require_writable(args.timeline)
    kind = detected_kind() if args.engine == "auto" else args.engine
    if args.processes != 1 and detected_kind() == "null":
        return _launch(args)
    if args.processes != 1 and kind != "shm":
        raise ValueError("--processes starts processes of its own; the launcher has started these")
    if args.timeline is not None and kind == "horovod":
        os.environ["HOROVOD_TIMELINE"] = str(args.timeline)
    engine = connect(kind)
    timeline = args.timeline if kind != "horovod" and engine.rank == 0 else None
    with TracedEngine(engine, timeline=timeline) as traced:
        try:
            return _train(args, config, traced)
        except PeerLostError as error:
            print(f"feedfast train: {error}", file=sys.stderr)
            return PEER_LOST


def _config(args: argparse.Namespace) -> RankerConfig:
    config = RankerConfig()
    if args.config is not None:
        try:
            config = RankerConfig.from_json(args.config.read_text())
        except ValueError as error:
            raise ValueError(f"{args.config}: {error}") from None
    if args.seed is not None:
        config = dataclasses.replace(config, seed=args.seed)
    if args.epochs is not None:
        training = dataclasses.replace(config.training, max_epochs=args.epochs)
        config = dataclasses.replace(config, training=training)
    if args.sharding is not None:
        try:
            distributed = DistributedConfig(sharding=args.sharding)
        except ValueError as error:
            raise ValueError(f"--sharding: {error}") from None
        config = dataclasses.replace(config, distributed=distributed)
    return config


def _launch(args: argparse.Namespace) -> int:
    if args.processes < 1:
        raise ValueError(f"--processes must be >= 1; got {args.processes}")
    if args.engine not in ("auto", "shm"):
        raise ValueError(f"--processes goes with --engine shm; got {args.engine}")
    environment = {}
    if "TF_NUM_INTRAOP_THREADS" not in os.environ:
        # Else every process would take all processors.
        threads = max(1, len(os.sched_getaffinity(0)) // max(1, args.processes))
        environment["TF_NUM_INTRAOP_THREADS"] = str(threads)
    status = run_local(
        [sys.executable, "-m", "feedfast.cli", *args.arguments],
        args.processes,
        environment=environment,
    )
    if (status > 128 or status == PEER_LOST) and (args.run / "config.json").is_file():
        print(f"feedfast train: the same command continues {args.run}", file=sys.stderr)
    return status


def _train(args: argparse.Namespace, config: RankerConfig, engine: Engine) -> int:
    # Rank 0 alone talks.
    console = Console(as_json=args.json or engine.rank != 0)
    # Who cannot read the data tells the others, which would wait for it.
    dataset, _ = all_or_none(
        engine, "data", lambda: load_dataset(args, console).dataset, share=lambda _: ""
    )

    from feedfast.training import train  # seconds: after everything that can be refused at once

    with show_stages(console) as progress:
        trained = train(
            dataset,
            config,
            args.run,
            progress=progress if engine.rank == 0 else None,
            engine=engine,
        )
    if engine.rank != 0:
        return 0
    columns = list(trained.history[0]) if trained.history else []
    console.table(
        f"run {args.run}", columns, [[epoch[c] for c in columns] for epoch in trained.history]
    )
    console.result({"run": str(args.run), "history": trained.history})
    return 0
