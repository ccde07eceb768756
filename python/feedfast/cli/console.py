"""How commands talk: tables and notes on stdout, progress on stderr, JSON alone with --json.

rich draws tables and progress bars when it is installed; otherwise both are plain text.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

try:
    import rich.console
    import rich.progress
    import rich.table
except ModuleNotFoundError:
    HAVE_RICH = False
else:
    HAVE_RICH = True

_PLAIN_INTERVAL_S = 5.0
_PIPE_WIDTH = 400


def format_number(value: object) -> str:
    """A figure with the digits people read: 5 significant, integers whole, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.5g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def format_bytes(num_bytes: int) -> str:
    """`1,234 B`, `1.2 KiB`, `3.4 MiB`, `5.6 GiB`."""
    if num_bytes < 1024:
        return f"{num_bytes} B"
    scaled = float(num_bytes)
    for unit in ("KiB", "MiB"):
        scaled /= 1024
        if scaled < 1024:
            return f"{scaled:.1f} {unit}"
    return f"{scaled / 1024:.1f} GiB"


class Progress(Protocol):
    """What long work reports to: the position of the current stage and a line of figures."""

    def update(self, done: int, total: int | None, detail: str = "") -> None:
        """Sets the position; `total` None means that it is not known."""


class _PlainProgress:
    """A line on stderr every few seconds, and one at the end of each stage."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._shown_at = 0.0
        self._pending = ""

    def update(self, done: int, total: int | None, detail: str = "") -> None:
        position = f" {done:,} of {total:,}" if total is not None else f" {done:,}" if done else ""
        gap = "  " if position else " "
        self._pending = f"{self._title}:{position}{gap}{detail}".rstrip()
        if time.monotonic() - self._shown_at >= _PLAIN_INTERVAL_S:
            self.show()

    def show(self) -> None:
        """Prints the last line unless it was printed already."""
        if self._pending:
            print(self._pending, file=sys.stderr)
        self._pending = ""
        self._shown_at = time.monotonic()


class _RichProgress:
    """One bar of a rich progress display."""

    def __init__(self, display: rich.progress.Progress, title: str) -> None:
        self._display = display
        self._task = display.add_task(title, total=None, detail="")

    def update(self, done: int, total: int | None, detail: str = "") -> None:
        self._display.update(self._task, completed=done, total=total, detail=detail)


class Console:
    """Output of one command; with `as_json` stdout carries the JSON of `result` alone."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def note(self, text: str) -> None:
        """A line for people."""
        if not self._as_json:
            print(text, flush=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table for people; the first column is left-aligned, the others right."""
        if self._as_json:
            return
        cells = [[format_number(cell) for cell in row] for row in rows]
        if HAVE_RICH:
            table = rich.table.Table(title=title, title_justify="left")
            for index, column in enumerate(columns):
                table.add_column(column, justify="left" if index == 0 else "right")
            for row in cells:
                table.add_row(*row)
            # A pipe or file has no width: nothing is folded there.
            width = None if sys.stdout.isatty() else _PIPE_WIDTH
            rich.console.Console(width=width).print(table)
            return
        print(title)
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in [list(columns), *cells]:
            first, *others = (cell for cell in row)
            aligned = [first.ljust(widths[0])]
            aligned += [c.rjust(w) for c, w in zip(others, widths[1:], strict=True)]
            print("  " + "  ".join(aligned).rstrip())

    def result(self, document: Mapping[str, object] | Sequence[Mapping[str, object]]) -> None:
        """The machine-readable result of the command; printed with --json."""
        if self._as_json:
            print(json.dumps(document, indent=1, allow_nan=False), flush=True)

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """Progress of one stage of long work, on stderr."""
        if HAVE_RICH and sys.stderr.isatty():
            with rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn("{task.fields[detail]}"),
                rich.progress.TimeRemainingColumn(),
                console=rich.console.Console(stderr=True),
            ) as display:
                yield _RichProgress(display, title)
            return
        plain = _PlainProgress(title)
        try:
            yield plain
        finally:
            plain.show()
