"""Objectives in one model: 12 heads beside 1, and beside 12 models of one head each."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import request_model

from feedfast import Scorer
from feedfast.bench import BenchOptions, BenchRow, time_interleaved

from . import common

CANDIDATES = 500
NUM_HEADS = 12
ROUNDS, QUICK_ROUNDS = 40, 3
JOINT_TARGET = 1.3
# n separate models take at least this many times n of the joint model's time.
SEPARATE_TARGET = 0.75


def run(options: BenchOptions) -> Iterator[BenchRow]:
    model = request_model.build(threads=options.threads, quick=options.quick)
    requests = common.make_requests(model, CANDIDATES)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:

        def scorer(name: str, heads: dict[str, int]) -> Scorer:
            utility = request_model.make_utility(heads)
            towers = request_model.make_towers(rng, model.artifact.layout.num_inputs, utility)
            artifact = dataclasses.replace(model.artifact, utility=utility, towers=towers)
            precision = common.PRECISIONS[-1]
            (opened,) = common.open_scorers(
                Path(folder) / name, artifact, options, (precision,)
            ).values()
            return opened

        # One tower holds all heads, then two hold half of them each: the towers are not what is
        # compared.
        for towers, one, joint in (
            (1, {"passive": 1}, {"passive": NUM_HEADS}),
            (2, {"passive": 1, "active": 1}, {"passive": NUM_HEADS // 2, "active": NUM_HEADS // 2}),
        ):
            few, many = scorer(f"few{towers}", one), scorer(f"many{towers}", joint)
            count = NUM_HEADS // towers

            def separate(request: object, few: Scorer = few, count: int = count) -> None:
                for _ in range(count):
                    few.score(request)  # type: ignore[arg-type]

            few_times, many_times, separate_times = time_interleaved(
                [
                    common.in_turn(few.score, requests),
                    common.in_turn(many.score, requests),
                    common.in_turn(separate, requests),
                ],
                repeats=QUICK_ROUNDS if options.quick else ROUNDS,
            )
            name = f"request/heads={NUM_HEADS}/towers={towers}/threads={options.threads}"
            yield common.median_row(
                f"{name}/joint",
                many_times,
                few_times,
                peer=f"{towers} head(s)",
                target=JOINT_TARGET,
            )
            yield common.median_row(
                f"{name}/separate",
                many_times,
                separate_times,
                peer=f"{count} models of {towers} head(s)",
                target=1 / (SEPARATE_TARGET * count),
            )
