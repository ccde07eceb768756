"""Shows the progress reports of training and evaluation as one bar per stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from feedfast.cli import console as cli_console

if TYPE_CHECKING:
    from feedfast.training import Progress


def _detail(report: Progress) -> str:
    parts = []
    if not math.isnan(report.examples_per_second):
        parts.append(f"{report.examples_per_second:,.0f} examples/s")
    if not math.isnan(report.loss):
        parts.append(f"loss {report.loss:.4f}")
    if not math.isnan(report.exchange_share):
        sent = cli_console.format_bytes(round(report.bytes_per_step))
        parts.append(f"{sent} sent a step, {report.exchange_share:.0%} exchange")
    if report.message:
        parts.append(report.message)
    return "  ".join(parts)


@contextmanager
def show_stages(console: cli_console.Console) -> Iterator[Callable[[Progress], None]]:
    """A callback for `progress=`; a change of stage starts a new bar."""
    with ExitStack() as bars:
        shown = ""
        bar: cli_console.Progress | None = None

        def update(report: Progress) -> None:
            nonlocal shown, bar
            if bar is None or report.stage != shown:
                bars.close()
                shown = report.stage
                bar = bars.enter_context(console.progress(report.stage))
            bar.update(report.step, report.num_steps or None, _detail(report))

        yield update
