"""Plots of the demo's report, as SVG text; matplotlib's only importer."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feedfast.data import CtrRow
    from feedfast.latency_plan import LatencyPoint
    from feedfast.sharding import Prediction
    from feedfast.training import ObjectiveEvaluation

mpl.rcParams["svg.fonttype"] = "none"  # text stays text
mpl.rcParams["svg.hashsalt"] = "feedfast"  # the same figure gives the same file
_COLUMNS = 4


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def calibration(objectives: Sequence[ObjectiveEvaluation]) -> str:
    """Observed rate against mean prediction, one panel per objective, with 95% intervals."""
    rows = math.ceil(len(objectives) / _COLUMNS)
    figure = Figure(figsize=(3 * _COLUMNS, 3 * rows), layout="constrained")
    for index, objective in enumerate(objectives):
        axes = figure.add_subplot(rows, _COLUMNS, index + 1)
        bins = objective.model.calibration
        predicted = [b.mean_prediction for b in bins]
        observed = [b.observed_rate for b in bins]
        low = [max(b.observed_rate - b.low, 0.0) for b in bins]
        high = [max(b.high - b.observed_rate, 0.0) for b in bins]
        top = max([*predicted, *observed, 1e-6]) * 1.1
        axes.plot([0, top], [0, top], color="0.7", linewidth=1)
        axes.errorbar(predicted, observed, yerr=[low, high], fmt="o", markersize=3, linewidth=1)
        axes.set_title(f"{objective.name}: O/E {objective.model.oe:.3f}", fontsize=9)
        axes.set_xlabel("predicted", fontsize=8)
        axes.set_ylabel("observed", fontsize=8)
        axes.tick_params(labelsize=7)
    return _svg(figure)


def scores(score: NDArray[np.float32], engaged: NDArray[np.bool_]) -> str:
    """Distribution of the utility score, apart for impressions with and without engagement."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    edges = np.histogram_bin_edges(score, bins=50)
    for chosen, label in ((engaged, "engaged"), (~engaged, "not engaged")):
        if chosen.any():
            axes.hist(score[chosen], bins=list(edges), density=True, alpha=0.5, label=label)
    axes.set_xlabel("utility score")
    axes.set_ylabel("density")
    axes.legend()
    return _svg(figure)


def latency(latency_ms: dict[str, NDArray[np.float64]]) -> str:
    """Share of requests answered within a time, one curve per precision."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    for label, taken in latency_ms.items():
        axes.plot(np.sort(taken), np.arange(1, len(taken) + 1) / len(taken), label=label)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds per request")
    axes.set_ylabel("share of requests")
    axes.legend()
    return _svg(figure)


def latency_plan(points: Sequence[LatencyPoint], budget_ms: float) -> str:
    """p99 against the width of the first layer, with and without ids, and the budget."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    for ids, label in ((True, "with ids"), (False, "without ids")):
        chosen = [point for point in points if point.ids == ids]
        widths = [point.units[0] for point in chosen]
        axes.plot(widths, [point.p99_ms for point in chosen], marker="o", label=label)
    axes.axhline(budget_ms, color="0.5", linewidth=1, label="budget")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("units of the first layer")
    axes.set_ylabel("p99, milliseconds")
    axes.legend()
    return _svg(figure)


def step_parts(labels: Sequence[str], microseconds: Sequence[float]) -> str:
    """Bars of the parts of a training step, the first on top."""
    figure = Figure(figsize=(8, 0.5 + 0.25 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(np.arange(len(labels)), microseconds)
    axes.set_yticks(np.arange(len(labels)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("microseconds per step")
    return _svg(figure)


def shard_plan(prediction: Prediction, memory_limit: int) -> str:
    """Time of a step by part; load and memory by rank."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.add_subplot(1, 3, 1)
    parts = [(name, seconds) for name, seconds in prediction.part_seconds.items() if seconds]
    axes.barh([name for name, _ in parts], [1e3 * seconds for _, seconds in parts])
    axes.invert_yaxis()
    axes.set_xlabel("predicted milliseconds of a step")
    ranks = np.arange(len(prediction.load_seconds))
    # Gaps between very many bars are stripes.
    width = 0.8 if ranks.size <= 32 else 1.0
    axes = figure.add_subplot(1, 3, 2)
    axes.bar(ranks, 1e3 * prediction.load_seconds, width=width)
    axes.set_xlabel("rank")
    axes.set_ylabel("milliseconds as an owner")
    axes = figure.add_subplot(1, 3, 3)
    axes.bar(ranks, prediction.memory_bytes / 2**30, width=width)
    limit = memory_limit / 2**30
    axes.axhline(limit, color="0.5", linewidth=1)
    axes.annotate(f"limit {limit:g}", (0, limit), va="bottom")
    axes.set_ylim(0, 1.15 * max(limit, float(prediction.memory_bytes.max()) / 2**30))
    axes.set_xlabel("rank")
    axes.set_ylabel("GiB of tables, states, buffers")
    return _svg(figure)


def ctr_by_position(rows: Sequence[CtrRow]) -> str:
    """Click rate by position with 95% intervals, one series per policy."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    for offset, policy in enumerate(sorted({row.policy for row in rows})):
        chosen = [row for row in rows if row.policy == policy and row.position is not None]
        axes.errorbar(
            [(row.position or 0) + 0.1 * offset for row in chosen],
            [row.rate for row in chosen],
            yerr=[
                [row.rate - row.low for row in chosen],
                [row.high - row.rate for row in chosen],
            ],
            fmt="o",
            capsize=3,
            label=policy,
        )
    axes.set_xlabel("position")
    axes.set_ylabel("click rate")
    axes.legend()
    return _svg(figure)
