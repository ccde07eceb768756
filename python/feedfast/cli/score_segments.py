"""Trade-offs of `feedfast score` by segment, which a column of the log names for each request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feedfast.data.log import parquet_files

if TYPE_CHECKING:
    from feedfast.objectives import SegmentTradeoffs, Tradeoff


class RequestTradeoffs:
    """The trade-off of every request of a log, by its id."""

    def __init__(self, tradeoffs: SegmentTradeoffs, log: Path, column: str) -> None:
        """Reads request ids and segments, as text.

        Args:
            tradeoffs: By segment.
            log: File or folder of Parquet files.
            column: Of the log: text or numbers; null: no segment.

        Raises:
            ValueError: The log has no such column, or rows of one request have several segments.
        """
        tables = []
        for path in parquet_files(log):
            names = pq.read_schema(path).names
            if column not in names:
                raise ValueError(f"{path}: no column {column!r}; it has {', '.join(names)}")
            table = pq.read_table(path, columns=["request_id", column])
            tables.append(
                pa.table(
                    {
                        "request": table.column("request_id").cast(pa.string()),
                        "segment": table.column(column).cast(pa.string()),
                    }
                )
            )
        distinct = pa.concat_tables(tables).group_by(["request", "segment"]).aggregate([])
        requests = distinct.column("request").combine_chunks()
        counts = requests.value_counts()
        several = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(several):
            request = several[0].as_py()["values"]
            raise ValueError(f"{log}: request {request!r} has several values of {column!r}")
        self._tradeoffs = tradeoffs
        self._requests = requests
        self._segments = distinct.column("segment").combine_chunks()

    def of(self, requests: pa.Array) -> list[Tradeoff]:
        """Those of requests by id."""
        places = pc.index_in(requests.cast(pa.string()), value_set=self._requests)
        return [self._tradeoffs.of(s) for s in self._segments.take(places).to_pylist()]

    @property
    def unlisted(self) -> list[str]:
        """Segments of the log that have no trade-off of their own."""
        found = set(self._segments.unique().to_pylist()) - {None}
        return sorted(found - set(self._tradeoffs.segments))
