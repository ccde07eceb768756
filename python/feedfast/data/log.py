"""The impression log in memory, and how it is read from and written to Arrow and Parquet.

The columns are described in docs/data.md and checked by `schema`. Rows that break a rule are
dropped and counted in `ImpressionLog.report`; a table that breaks the schema raises `SchemaError`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feedfast.data.keys import KeyBags, offsets_from_lengths, to_numpy
from feedfast.data.report import ReadReport, RowFilter
from feedfast.data.schema import (
    DENSE_PREFIX,
    ID_COLUMNS,
    LABEL_PREFIX,
    POLICIES,
    SHARED_PREFIX,
    SchemaError,
    check_schema,
    require_no_duplicates,
)
from feedfast.store.files import replacing

_logger = logging.getLogger(__name__)

_MAX_POSITION = np.iinfo(np.int32).max
# Milliseconds in one unit, or units in one millisecond.
_UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class ImpressionLog:
    """Columns of an impression log; one row per impression, in the order of the source.

    All key columns of one log have one type: large_string, or large_binary when a key is not valid
    UTF-8 or came as binary. No key is null.

    Attributes:
        request_id: [n] keys; rows with one id were shown together.
        timestamp: [n] int64, milliseconds since 1970-01-01 UTC.
        viewer: [n] keys, who saw it.
        item: [n] keys, what was shown.
        actor: [n] keys, who brought it to the feed.
        root_actor: [n] keys, who made it; differs from `actor` for a reshare.
        hashtags: [n] bags of keys.
        position: [n] int32 >= 0, slot it was shown at.
        policy_random: [n] bool, True where the item was chosen at random and False where a model
            chose it.
        propensity: [n] float32 in (0, 1], probability of showing this item there; NaN where
            unknown.
        shared: [n, S] float32, viewer and request features; NaN where missing, never infinite.
        shared_names: S names.
        dense: [n, D] float32, candidate features; NaN where missing, never infinite.
        dense_names: D names.
        labels: [n, O] float32, 0, 1, or NaN where undefined.
        objective_names: O names.
        report: What reading dropped. `take` keeps it as it was.
    """

    request_id: pa.Array
    timestamp: NDArray[np.int64]
    viewer: pa.Array
    item: pa.Array
    actor: pa.Array
    root_actor: pa.Array
    hashtags: KeyBags
    position: NDArray[np.int32]
    policy_random: NDArray[np.bool_]
    propensity: NDArray[np.float32]
    shared: NDArray[np.float32]
    shared_names: tuple[str, ...]
    dense: NDArray[np.float32]
    dense_names: tuple[str, ...]
    labels: NDArray[np.float32]
    objective_names: tuple[str, ...]
    report: ReadReport = field(default_factory=lambda: ReadReport(num_read=0))

    def __post_init__(self) -> None:
        n = len(self.timestamp)
        for name in (*ID_COLUMNS, "position", "policy_random", "propensity"):
            if len(getattr(self, name)) != n:
                raise ValueError(
                    f"impression log: {name} has {len(getattr(self, name))} rows; timestamp has {n}"
                )
        if self.hashtags.num_bags != n:
            raise ValueError(
                f"impression log: hashtags has {self.hashtags.num_bags} rows; timestamp has {n}"
            )
        for name, names in (
            ("shared", self.shared_names),
            ("dense", self.dense_names),
            ("labels", self.objective_names),
        ):
            require_no_duplicates(names, what=f"impression log: {name}")
            if getattr(self, name).shape != (n, len(names)):
                raise ValueError(
                    f"impression log: {name} has shape {getattr(self, name).shape}; "
                    f"expected {(n, len(names))}"
                )

    @property
    def num_rows(self) -> int:
        """Number of impressions."""
        return len(self.timestamp)

    def label(self, objective: str) -> NDArray[np.float32]:
        """[n] float32, the labels of one objective.

        Raises:
            KeyError: The log has no such objective.
        """
        if objective not in self.objective_names:
            raise KeyError(
                f"objective {objective!r} is not in the log; "
                f"it has {', '.join(self.objective_names)}"
            )
        return self.labels[:, self.objective_names.index(objective)]

    def take(self, indices: NDArray[np.int64]) -> ImpressionLog:
        """The rows at `indices`, in that order.

        Args:
            indices: [m] integers in [0, num_rows); repeats are allowed.

        Raises:
            IndexError: Names the first index that is not a row.
            TypeError: `indices` are not integers.
        """
        indices = np.asarray(indices)
        if indices.dtype.kind not in "iu" and len(indices) > 0:
            raise TypeError(f"indices: must be integers; got {indices.dtype}")
        indices = indices.astype(np.int64, copy=False)
        outside = np.flatnonzero((indices < 0) | (indices >= self.num_rows))
        if len(outside) > 0:
            at = int(outside[0])
            raise IndexError(
                f"indices[{at}] = {indices[at]} is not a row of a log with {self.num_rows} rows"
            )
        arrow_indices = pa.array(indices)
        return replace(
            self,
            **{name: getattr(self, name).take(arrow_indices) for name in ID_COLUMNS},
            timestamp=self.timestamp[indices],
            hashtags=self.hashtags.take_bags(indices),
            position=self.position[indices],
            policy_random=self.policy_random[indices],
            propensity=self.propensity[indices],
            shared=self.shared[indices],
            dense=self.dense[indices],
            labels=self.labels[indices],
        )

    @classmethod
    def from_table(cls, table: pa.Table, *, source: str = "table") -> ImpressionLog:
        """Reads an Arrow table.

        Bad rows are dropped and counted: a null where none is allowed, position outside [0, 2^31),
        a policy other than `random` and `model`, propensity outside (0, 1], a label other than 0, 1
        and null, an infinite feature (also one that only float64 can hold), a timestamp that does
        not fit int64 milliseconds. Missing numbers may be null or NaN. A null hashtag list is an
        empty one. Times finer than a millisecond are rounded down.

        Raises:
            SchemaError: A column is missing, occurs twice or has the wrong type.
        """
        schema = check_schema(table.schema, source=source)
        n = table.num_rows
        rows = RowFilter(n, source=source)
        columns = {
            name: _flat(table.column(name))
            for name in table.column_names
            if name not in schema.ignored
        }

        for name in ID_COLUMNS:
            rows.drop(_null_mask(columns[name]), f"{name} is null", columns[name])
        timestamp = _milliseconds(columns["timestamp"], rows)
        hashtags = _key_lists(columns["hashtags"], rows)
        position = _positions(columns["position"], rows)
        policy_random = _policies(columns["policy"], rows)
        propensity = _floats(columns["propensity"])
        outside = (propensity <= 0) | (propensity > 1)
        rows.drop(outside, "propensity is outside (0, 1]", propensity)
        shared = _features(columns, SHARED_PREFIX, schema.shared, rows)
        dense = _features(columns, DENSE_PREFIX, schema.dense, rows)
        labels = _labels(columns, schema.objectives, rows)

        keys = _common_type([*(columns[name] for name in ID_COLUMNS), hashtags.values])
        log_arrays = dict(zip(ID_COLUMNS, keys[:-1], strict=True))
        report = rows.report(ignored_columns=schema.ignored)
        if report.num_dropped > 0 or report.ignored_columns:
            _logger.warning("%s: %s", source, report)
        log = cls(
            **log_arrays,
            timestamp=timestamp,
            hashtags=KeyBags(keys[-1], hashtags.offsets),
            position=position,
            policy_random=policy_random,
            propensity=propensity,
            shared=shared,
            shared_names=schema.shared,
            dense=dense,
            dense_names=schema.dense,
            labels=labels,
            objective_names=schema.objectives,
            report=report,
        )
        return log if report.num_dropped == 0 else log.take(rows.good_rows())

    @classmethod
    def read_parquet(
        cls, source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    ) -> ImpressionLog:
        """Reads Parquet files one after the other.

        Args:
            source: A file, a folder (every `*.parquet` below it, in order of path), or a list of
                files.

        Raises:
            FileNotFoundError: A file is missing, or the folder holds no Parquet file.
            SchemaError: A file is not of the schema, or two files have different features or
                objectives.
            ValueError: A file is empty, truncated, not Parquet, or a page fails its checksum.
        """
        return concat_logs(
            [cls.from_table(_read_file(path), source=str(path)) for path in parquet_files(source)]
        )

    def to_table(self) -> pa.Table:
        """The log as an Arrow table of the schema; missing numbers become null."""
        columns: dict[str, pa.Array] = {
            "request_id": self.request_id,
            "timestamp": pa.array(self.timestamp).cast(pa.timestamp("ms")),
            "viewer": self.viewer,
            "item": self.item,
            "actor": self.actor,
            "root_actor": self.root_actor,
            "hashtags": pa.LargeListArray.from_arrays(self.hashtags.offsets, self.hashtags.values),
            "position": pa.array(self.position),
            "policy": pa.array(np.where(self.policy_random, *POLICIES)),
            "propensity": pa.array(self.propensity, from_pandas=True),
        }
        for prefix, names, matrix in (
            (SHARED_PREFIX, self.shared_names, self.shared),
            (DENSE_PREFIX, self.dense_names, self.dense),
            (LABEL_PREFIX, self.objective_names, self.labels),
        ):
            for index, name in enumerate(names):
                columns[prefix + name] = pa.array(
                    np.ascontiguousarray(matrix[:, index]), from_pandas=True
                )
        return pa.table(columns)


def parquet_files(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files `ImpressionLog.read_parquet` reads for a source, in reading order.

    Raises:
        FileNotFoundError: The source does not exist or holds no Parquet file.
    """
    if not isinstance(source, (str, os.PathLike)):
        return [file for one in source for file in parquet_files(one)]
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"impression log: {path} does not exist")
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"impression log: folder {path} holds no *.parquet file")
    return files


def write_parquet(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Writes a table durably to one Parquet file with checksums, which appears when it is whole.

    Raises:
        FileNotFoundError: The folder of `path` does not exist.
        OSError: The file cannot be written; a file that was at `path` is unchanged.
    """
    write_parquet_parts([table], table.schema, path)


def write_parquet_parts(
    parts: Iterable[pa.Table], schema: pa.Schema, path: str | os.PathLike[str]
) -> None:
    """Writes tables of one schema as one file, as `write_parquet` does; holds one at a time.

    Raises:
        FileNotFoundError, OSError: As `write_parquet`. What `parts` raises is passed on; a file
            that was at `path` is unchanged then, too.
    """
    with (
        replacing(Path(path)) as unfinished,
        pq.ParquetWriter(
            unfinished, schema, compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        for part in parts:
            writer.write_table(part)


def concat_logs(logs: Sequence[ImpressionLog]) -> ImpressionLog:
    """One log with the rows of all, in order, and one merged report.

    Raises:
        ValueError: There is no log.
        SchemaError: Two logs differ in features or objectives.
    """
    if not logs:
        raise ValueError("impression log: nothing to concatenate")
    if len(logs) == 1:
        return logs[0]
    first = logs[0]
    for index, log in enumerate(logs):
        for name in ("shared_names", "dense_names", "objective_names"):
            if getattr(log, name) != getattr(first, name):
                raise SchemaError(
                    f"impression log: part {index} has {name} {getattr(log, name)}; "
                    f"part 0 has {getattr(first, name)}"
                )
    columns = [*ID_COLUMNS, "hashtags"]
    parts = [[*(getattr(log, name) for name in ID_COLUMNS), log.hashtags.values] for log in logs]
    flat = _common_type([keys for part in parts for keys in part])
    width = len(columns)
    keys = {name: pa.concat_arrays(flat[index::width]) for index, name in enumerate(columns)}
    hashtags = KeyBags(
        keys.pop("hashtags"),
        offsets_from_lengths(np.concatenate([log.hashtags.lengths() for log in logs])),
    )
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(log, name) for log in logs])
        for name in (
            "timestamp",
            "position",
            "policy_random",
            "propensity",
            "shared",
            "dense",
            "labels",
        )
    }
    return replace(
        first,
        **keys,
        **arrays,
        hashtags=hashtags,
        report=ReadReport.merge([log.report for log in logs]),
    )


def superset_label(
    log: ImpressionLog, objectives: Sequence[str] | None = None
) -> NDArray[np.float32]:
    """Any engagement: whether at least one of the objectives happened.

    Args:
        log: Gives the labels.
        objectives: Which ones count; all of them by default.

    Returns:
        [n] float32: 1 where a label is 1, else 0 where a label is defined, else NaN.

    Raises:
        KeyError: The log lacks one of the objectives.
    """
    names = log.objective_names if objectives is None else objectives
    any_label = np.full(log.num_rows, np.nan, dtype=np.float32)
    for name in names:
        any_label = np.fmax(any_label, log.label(name))
    return any_label


def _read_file(path: Path) -> pa.Table:
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty (0 bytes), not a Parquet file")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read()
    except (pa.ArrowException, OSError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet: {error}") from error


def _flat(column: pa.ChunkedArray) -> pa.Array:
    """One contiguous array; keys and policies as large_binary, without dictionaries."""
    data_type = column.type
    if pa.types.is_dictionary(data_type):
        data_type = data_type.value_type
    if not _is_plain(data_type):
        column = pc.cast(column, pa.large_binary())
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks > 0 else pa.array([], column.type)


def _is_plain(data_type: pa.DataType) -> bool:
    kinds = (pa.types.is_primitive, pa.types.is_null, pa.types.is_nested)
    return any(is_kind(data_type) for is_kind in kinds)


def _null_mask(column: pa.Array) -> NDArray[np.bool_]:
    return to_numpy(column.is_null())


def _milliseconds(column: pa.Array, rows: RowFilter) -> NDArray[np.int64]:
    rows.drop(_null_mask(column), "timestamp is null", column)
    per_second = _UNITS_PER_SECOND[column.type.unit]
    stored: NDArray[np.int64] = to_numpy(column.cast(pa.int64()).fill_null(0))
    if per_second >= 1_000:
        return stored // (per_second // 1_000)
    limit = np.iinfo(np.int64).max // 1_000
    too_far = (stored < -limit) | (stored > limit)
    rows.drop(too_far, "timestamp does not fit int64 milliseconds", stored)
    return np.where(too_far, 0, stored) * 1_000


def _key_lists(column: pa.Array, rows: RowFilter) -> KeyBags:
    lengths = to_numpy(pc.list_value_length(column).fill_null(0)).astype(np.int64)
    offsets = offsets_from_lengths(lengths)
    values = _flat(pa.chunked_array([pc.list_flatten(column)]))
    holes = np.flatnonzero(_null_mask(values))
    bad = np.zeros(len(lengths), dtype=bool)
    bad[np.searchsorted(offsets, holes, side="right") - 1] = True
    rows.drop(bad, "hashtags holds a null", column)
    return KeyBags(values, offsets)


def _positions(column: pa.Array, rows: RowFilter) -> NDArray[np.int32]:
    rows.drop(_null_mask(column), "position is null", column)
    # A uint64 above 2^63 wraps to a negative number and is dropped as such.
    stored = to_numpy(column.fill_null(0)).astype(np.int64)
    outside = (stored < 0) | (stored > _MAX_POSITION)
    rows.drop(outside, "position is outside [0, 2^31)", column)
    return np.where(outside, 0, stored).astype(np.int32)


def _policies(column: pa.Array, rows: RowFilter) -> NDArray[np.bool_]:
    is_random, is_model = (
        to_numpy(pc.equal(column, pa.scalar(policy.encode(), pa.large_binary())).fill_null(False))
        for policy in POLICIES
    )
    rows.drop(~(is_random | is_model), "policy is not 'random' or 'model'", column)
    policy_random: NDArray[np.bool_] = is_random
    return policy_random


def _floats(column: pa.Array) -> NDArray[np.float32]:
    """[n] float32, null as NaN, rounded to the nearest; infinite beyond float32's range."""
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan, dtype=np.float32)
    if pa.types.is_boolean(column.type) or pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = to_numpy(column).astype(np.float32)
    return values


def _features(
    columns: Mapping[str, pa.Array], prefix: str, names: tuple[str, ...], rows: RowFilter
) -> NDArray[np.float32]:
    matrix = np.empty((len(columns["position"]), len(names)), dtype=np.float32)
    for index, name in enumerate(names):
        column = columns[prefix + name]
        matrix[:, index] = _floats(column)
        infinite = np.isinf(matrix[:, index])
        rows.drop(infinite, f"{prefix}{name} is infinite", column)
    return matrix


def _labels(
    columns: Mapping[str, pa.Array], names: tuple[str, ...], rows: RowFilter
) -> NDArray[np.float32]:
    matrix = np.empty((len(columns["position"]), len(names)), dtype=np.float32)
    for index, name in enumerate(names):
        values = _floats(columns[LABEL_PREFIX + name])
        bad = ~((values == 0) | (values == 1) | np.isnan(values))
        rows.drop(bad, f"{LABEL_PREFIX}{name} is not 0, 1 or null", values)
        matrix[:, index] = values
    return matrix


def _common_type(keys: Sequence[pa.Array]) -> list[pa.Array]:
    """All as large_string when every key is valid UTF-8, else all as large_binary."""
    try:
        return [array.cast(pa.large_string()) for array in keys]
    except pa.ArrowInvalid:
        return [array.cast(pa.large_binary()) for array in keys]
