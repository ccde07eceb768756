"""What reading a log dropped, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MAX_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class BadRow:
    """One dropped row.

    Attributes:
        source: File, or what the table was called.
        row: Index of the row in `source`, from 0.
        value: What was found, shortened.
    """

    source: str
    row: int
    value: str


@dataclass(frozen=True, slots=True)
class BadRows:
    """Rows dropped for one reason; `examples` holds at most MAX_EXAMPLES of them."""

    reason: str
    count: int
    examples: tuple[BadRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadReport:
    """Outcome of reading a log. A row with several faults counts under the first reason only, so
    counts add up.

    Attributes:
        num_read: Rows seen.
        dropped: One entry per reason that occurred.
        ignored_columns: Columns the schema does not know.
    """

    num_read: int
    dropped: tuple[BadRows, ...] = ()
    ignored_columns: tuple[str, ...] = ()

    @property
    def num_dropped(self) -> int:
        """Rows that are in the source and not in the log."""
        return sum(bad.count for bad in self.dropped)

    def __str__(self) -> str:
        """Human-readable lines: totals, then each reason with its examples."""
        lines = [f"read {self.num_read} rows, dropped {self.num_dropped}"]
        for bad in self.dropped:
            shown = "; ".join(f"{e.source} row {e.row}: {e.value}" for e in bad.examples)
            lines.append(f"  {bad.reason}: {bad.count} ({shown})")
        if self.ignored_columns:
            lines.append(f"  ignored columns: {', '.join(self.ignored_columns)}")
        return "\n".join(lines)

    @staticmethod
    def merge(reports: Sequence[ReadReport]) -> ReadReport:
        """One report over several sources; reasons keep the order of their first occurrence."""
        by_reason: dict[str, BadRows] = {}
        for bad in (bad for report in reports for bad in report.dropped):
            known = by_reason.get(bad.reason, BadRows(bad.reason, 0, ()))
            examples = (known.examples + bad.examples)[:MAX_EXAMPLES]
            by_reason[bad.reason] = BadRows(bad.reason, known.count + bad.count, examples)
        ignored = dict.fromkeys(name for report in reports for name in report.ignored_columns)
        return ReadReport(
            num_read=sum(report.num_read for report in reports),
            dropped=tuple(by_reason.values()),
            ignored_columns=tuple(ignored),
        )


class RowFilter:
    """Collects faults of rows and tells which rows have none."""

    def __init__(self, num_rows: int, *, source: str) -> None:
        self._good = np.ones(num_rows, dtype=bool)
        self._source = source
        self._dropped: list[BadRows] = []

    def drop(
        self, bad: NDArray[np.bool_], reason: str, found: pa.Array | NDArray[np.generic]
    ) -> None:
        """Marks rows.

        Args:
            bad: [num_rows], rows at fault. Rows already marked keep their first reason.
            reason: Says what is wrong, with the column's name.
            found: [num_rows], what to show of the examples.
        """
        rows = np.flatnonzero(bad & self._good)
        if len(rows) == 0:
            return
        self._good[rows] = False
        examples = tuple(
            BadRow(self._source, int(row), _shorten(found[int(row)])) for row in rows[:MAX_EXAMPLES]
        )
        self._dropped.append(BadRows(reason, len(rows), examples))

    def good_rows(self) -> NDArray[np.int64]:
        """Ascending indices of the rows without a fault."""
        return np.flatnonzero(self._good).astype(np.int64, copy=False)

    def report(self, *, ignored_columns: tuple[str, ...] = ()) -> ReadReport:
        """Summary of all marks."""
        return ReadReport(
            num_read=len(self._good), dropped=tuple(self._dropped), ignored_columns=ignored_columns
        )


def _shorten(value: object, limit: int = 80) -> str:
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    elif isinstance(value, np.generic):
        value = value.item()
    text = repr(value[:limit] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= limit else text[:limit] + "..."
