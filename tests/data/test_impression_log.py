from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from impression_tables import impression_table

from feedfast.data import ImpressionLog, SchemaError, concat_logs, superset_label

KEYS = ("request_id", "viewer", "item", "actor", "root_actor")
COLUMNS = (*KEYS, "timestamp", "hashtags", "position", "policy", "propensity")


def read(num_rows: int = 6, **replaced: Any) -> ImpressionLog:
    return ImpressionLog.from_table(impression_table(num_rows, **replaced))


def assert_same_log(got: ImpressionLog, want: ImpressionLog) -> None:
    for name in KEYS:
        assert getattr(got, name).equals(getattr(want, name)), name
    assert got.hashtags.values.equals(want.hashtags.values)
    np.testing.assert_array_equal(got.hashtags.offsets, want.hashtags.offsets)
    for name in (
        "timestamp",
        "position",
        "policy_random",
        "propensity",
        "shared",
        "dense",
        "labels",
    ):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    for name in ("shared_names", "dense_names", "objective_names"):
        assert getattr(got, name) == getattr(want, name)


def test_columns_become_arrays() -> None:
    table = impression_table(6)
    log = ImpressionLog.from_table(table)
    assert log.num_rows == 6
    assert log.viewer.type == pa.large_string()
    assert log.viewer.to_pylist() == table["viewer"].to_pylist()
    assert log.timestamp.dtype == np.int64
    np.testing.assert_array_equal(log.timestamp, table["timestamp"].cast(pa.int64()).to_numpy())
    assert (log.shared_names, log.dense_names) == (("age",), ("likes", "age"))
    assert log.objective_names == ("click", "vote")
    assert log.dense.dtype == log.labels.dtype == log.propensity.dtype == np.float32
    for row, tags in enumerate(table["hashtags"].to_pylist()):
        start, stop = log.hashtags.offsets[row : row + 2]
        assert log.hashtags.values[start:stop].to_pylist() == tags
    np.testing.assert_array_equal(np.isnan(log.label("vote")), table["label.vote"].is_null())
    assert (log.report.num_read, log.report.num_dropped) == (6, 0)


@pytest.mark.parametrize("num_rows", [0, 1, 50])
def test_round_trip_through_parquet(tmp_path: Path, num_rows: int) -> None:
    log = read(num_rows)
    pq.write_table(log.to_table(), tmp_path / "log.parquet")
    assert_same_log(ImpressionLog.read_parquet(tmp_path / "log.parquet"), log)


def test_folder_is_read_in_order_of_path(tmp_path: Path) -> None:
    table = impression_table(10)
    (tmp_path / "day=2").mkdir()
    pq.write_table(table.slice(4), tmp_path / "day=2" / "part.parquet")
    pq.write_table(table.slice(0, 4), tmp_path / "a.parquet")
    log = ImpressionLog.read_parquet(tmp_path)
    assert_same_log(log, ImpressionLog.from_table(table))
    assert log.report.num_read == 10


KEY_TYPES = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


@pytest.mark.parametrize(
    ("data_type", "as_dictionary"),
    [*((t, False) for t in KEY_TYPES), *((t, True) for t in KEY_TYPES), (pa.string_view(), False)],
    ids=str,
)
def test_key_types_are_alike(data_type: pa.DataType, as_dictionary: bool) -> None:
    table = impression_table(8)
    for name in ("viewer", "item", "request_id"):
        column = table[name].cast(data_type)
        column = column.dictionary_encode() if as_dictionary else column
        table = table.set_column(table.schema.get_field_index(name), name, column)
    assert_same_log(ImpressionLog.from_table(table), read(8))


@pytest.mark.parametrize(
    "data_type",
    [
        pa.list_(pa.binary()),
        pa.large_list(pa.string()),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
        pa.list_view(pa.string()),
        pa.list_(pa.string(), 2),
    ],
    ids=str,
)
def test_hashtag_list_types_are_alike(data_type: pa.DataType) -> None:
    tags = [["a", "b"], ["b", "c"], ["c", "a"], ["a", "a"]]
    log = read(4, hashtags=pa.array(tags, data_type))
    assert log.hashtags.values.to_pylist() == ["a", "b", "b", "c", "c", "a", "a", "a"]
    np.testing.assert_array_equal(log.hashtags.offsets, [0, 2, 4, 6, 8])


def test_null_hashtag_list_is_empty_and_chunks_are_joined() -> None:
    first = impression_table(3, hashtags=[["x"], None, []])
    second = impression_table(2, hashtags=[["y", "y"], ["z"]])
    log = ImpressionLog.from_table(pa.concat_tables([first, second]))
    np.testing.assert_array_equal(log.hashtags.offsets, [0, 1, 1, 1, 3, 4])
    assert log.hashtags.values.to_pylist() == ["x", "y", "y", "z"]


@pytest.mark.parametrize(
    ("unit", "stored", "want"),
    [
        ("s", [1, -2], [1_000, -2_000]),
        ("ms", [1, -2], [1, -2]),
        ("us", [1_999, -1], [1, -1]),
        ("ns", [1_999_999, -1], [1, -1]),
    ],
)
def test_timestamp_units(unit: str, stored: list[int], want: list[int]) -> None:
    log = read(2, timestamp=pa.array(stored, pa.timestamp(unit, tz="UTC")))
    np.testing.assert_array_equal(log.timestamp, want)


def test_non_utf8_keys_make_all_keys_binary() -> None:
    viewers = pa.array([b"\xff\xfe", b"", b"member:1"], pa.binary())
    log = read(3, viewer=viewers)
    assert log.viewer.type == log.actor.type == log.hashtags.values.type == pa.large_binary()
    assert log.viewer.to_pylist() == [b"\xff\xfe", b"", b"member:1"]
    # The same bytes wrongly declared as text.
    text = pa.Array.from_buffers(pa.string(), 3, viewers.buffers())
    assert read(3, viewer=text).viewer.equals(log.viewer)


def test_huge_keys() -> None:
    keys = ["k" * 10_000, "", "ß" * 1_000_000]
    assert read(3, viewer=keys).viewer.to_pylist() == keys


@pytest.mark.parametrize(
    ("name", "bad", "good", "reason"),
    [
        ("viewer", None, "a", "viewer is null"),
        ("request_id", None, "a", "request_id is null"),
        ("item", None, b"a", "item is null"),
        ("hashtags", ["b", None], [], "hashtags holds a null"),
        ("policy", "greedy", "model", "policy is not 'random' or 'model'"),
        ("policy", None, "random", "policy is not 'random' or 'model'"),
        ("propensity", 0.0, None, "propensity is outside (0, 1]"),
        ("propensity", 1.5, np.nan, "propensity is outside (0, 1]"),
        ("propensity", np.inf, 1.0, "propensity is outside (0, 1]"),
        ("position", None, 0, "position is null"),
        ("position", -1, 0, "position is outside [0, 2^31)"),
        ("position", 2**31, 2**31 - 1, "position is outside [0, 2^31)"),
        ("shared__age", -np.inf, np.nan, "shared.age is infinite"),
        ("dense__age", 1e39, None, "dense.age is infinite"),
        ("label__click", 2, None, "label.click is not 0, 1 or null"),
        ("label__vote", 0.5, 1.0, "label.vote is not 0, 1 or null"),
    ],
)
def test_bad_rows_are_dropped_and_reported(
    name: str, bad: Any, good: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = read(3, **{name: pa.array([good, bad, good])})
    want = read(3, **{name: pa.array([good, good, good])}).take(np.array([0, 2]))
    assert log.to_table().equals(want.to_table())
    assert [(b.reason, b.count, b.examples[0].row) for b in log.report.dropped] == [(reason, 1, 1)]
    assert reason in str(log.report)
    assert reason in caplog.text


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([1, None, 2], pa.timestamp("us")), "timestamp is null"),
        (
            pa.array([1, 2**62, 2], pa.timestamp("s")),
            "timestamp does not fit int64 milliseconds",
        ),
    ],
)
def test_bad_timestamps_are_dropped(column: pa.Array, reason: str) -> None:
    log = read(3, timestamp=column)
    assert log.num_rows == 2
    assert [bad.reason for bad in log.report.dropped] == [reason]


def test_a_position_that_only_uint64_holds_is_dropped() -> None:
    log = read(2, position=pa.array([2**64 - 1, 0], pa.uint64()))
    assert log.report.dropped[0].examples[0].value == str(2**64 - 1)


def test_a_row_with_two_faults_counts_once_and_examples_are_few() -> None:
    position = pa.array([-1] * 6 + [0], pa.int32())
    log = read(7, viewer=[None] * 5 + ["a", "b"], position=position)
    assert log.num_rows == 1
    assert {bad.reason: (bad.count, len(bad.examples)) for bad in log.report.dropped} == {
        "viewer is null": (5, 3),
        "position is outside [0, 2^31)": (1, 1),
    }
    assert log.report.num_dropped == 6


def test_labels_and_features_of_every_number_type() -> None:
    log = read(
        3,
        label__click=pa.array([True, None, False]),
        label__vote=pa.nulls(3),
        dense__age=pa.array([1, None, 2**40], pa.int64()),
        dense__likes=pa.array(np.float16([1.5, np.nan, 2]), pa.float16()),
        propensity=pa.nulls(3),
    )
    np.testing.assert_array_equal(log.label("click"), np.float32([1, np.nan, 0]))
    assert np.isnan(log.label("vote")).all()
    np.testing.assert_array_equal(log.dense[:, 1], np.float32([1, np.nan, 2**40]))
    np.testing.assert_array_equal(log.dense[:, 0], np.float32([1.5, np.nan, 2]))
    assert np.isnan(log.propensity).all()


@pytest.mark.parametrize("name", COLUMNS)
def test_missing_column_is_named(name: str) -> None:
    with pytest.raises(SchemaError, match=rf"table: column '{name}' is missing; it must be .+"):
        read(3, **{name: None})


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("viewer", [1, 2], "column 'viewer' has type int64; it must be string or binary"),
        ("timestamp", [1, 2], "column 'timestamp' has type int64; it must be timestamp"),
        ("hashtags", ["a", "b"], "column 'hashtags' has type string; it must be a list of string"),
        ("hashtags", [[1], []], "column 'hashtags' has type list<.*int64>; it must be a list of"),
        ("position", [0.0, 1.0], "column 'position' has type double; it must be an integer"),
        ("policy", [0, 1], "column 'policy' has type int64; it must be string"),
        ("propensity", ["1", "1"], "column 'propensity' has type string; it must be floating"),
        ("dense__age", ["1", "1"], "column 'dense.age' has type string; it must be a number"),
        ("label__click", ["1", "0"], "column 'label.click' has type string; it must be a number"),
    ],
)
def test_wrong_type_is_named(name: str, column: list[Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        read(2, **{name: pa.array(column)})


def test_other_schema_faults() -> None:
    table = impression_table(2)
    with pytest.raises(SchemaError, match="column 'viewer' occurs twice"):
        ImpressionLog.from_table(table.append_column("viewer", table["viewer"]))
    with pytest.raises(SchemaError, match=r"column 'dense\.' has no name after the dot"):
        ImpressionLog.from_table(table.append_column("dense.", table["dense.age"]))
    log = ImpressionLog.from_table(table.append_column("comment", table["viewer"]))
    assert log.report.ignored_columns == ("comment",)


def test_files_that_are_not_logs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.parquet does not exist"):
        ImpressionLog.read_parquet(tmp_path / "no.parquet")
    with pytest.raises(FileNotFoundError, match=r"holds no \*\.parquet file"):
        ImpressionLog.read_parquet(tmp_path)
    file = tmp_path / "log.parquet"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"log\.parquet: is empty \(0 bytes\)"):
        ImpressionLog.read_parquet(file)
    file.write_bytes(b"request_id,viewer\n1,2\n")
    with pytest.raises(ValueError, match=r"log\.parquet: cannot be read as Parquet"):
        ImpressionLog.read_parquet(file)
    pq.write_table(pa.table({"a": [1]}), file)
    with pytest.raises(SchemaError, match=r"log\.parquet: column 'request_id' is missing"):
        ImpressionLog.read_parquet(file)


def test_damaged_files_never_crash(tmp_path: Path) -> None:
    """Truncated or altered files raise ValueError or still hold a log; nothing else happens."""
    file = tmp_path / "log.parquet"
    pq.write_table(impression_table(40), file)
    whole = np.frombuffer(file.read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng(7)
    for trial in range(120):
        damaged = whole.copy()
        if trial % 2:
            damaged[rng.integers(len(whole), size=rng.integers(1, 8))] = rng.integers(256)
        else:
            damaged = damaged[: rng.integers(1, len(whole))]
        file.write_bytes(damaged.tobytes())
        with contextlib.suppress(ValueError):
            assert ImpressionLog.read_parquet(file).num_rows <= 40


def test_take() -> None:
    log = read(6)
    rows = np.array([5, 0, 0])
    taken = log.take(rows)
    assert taken.viewer.to_pylist() == [log.viewer[i].as_py() for i in rows]
    offsets = log.hashtags.offsets
    want = [log.hashtags.values[offsets[i] : offsets[i + 1]].to_pylist() for i in rows]
    assert taken.hashtags.values.to_pylist() == [key for keys in want for key in keys]
    np.testing.assert_array_equal(taken.dense, log.dense[rows])
    assert log.take(rows[:0]).num_rows == 0
    with pytest.raises(IndexError, match=r"indices\[1\] = 6 is not a row of a log with 6 rows"):
        log.take(np.array([0, 6]))
    with pytest.raises(IndexError, match=r"indices\[0\] = -1"):
        log.take(np.array([-1]))
    with pytest.raises(TypeError, match="must be integers; got bool"):
        log.take(np.ones(6, dtype=bool))


def test_concat() -> None:
    text, binary = read(3), read(2, viewer=pa.array([b"\xff", b"x"]))
    both = concat_logs([text, binary])
    assert both.num_rows == 5
    assert both.viewer.type == both.hashtags.values.type == pa.large_binary()
    assert_same_log(concat_logs([text]), text)
    with pytest.raises(SchemaError, match="part 1 has dense_names"):
        concat_logs([text, read(2, dense__age=None)])
    with pytest.raises(ValueError, match="nothing to concatenate"):
        concat_logs([])


def test_superset_label() -> None:
    nan = np.nan
    log = read(5, label__click=[1.0, 0, nan, nan, 0], label__vote=[0.0, nan, 1, nan, 0])
    np.testing.assert_array_equal(superset_label(log), np.float32([1, 0, 1, nan, 0]))
    np.testing.assert_array_equal(superset_label(log, ["vote"]), log.label("vote"))
    with pytest.raises(KeyError, match="objective 'like' is not in the log; it has click, vote"):
        superset_label(log, ["like"])


def test_shuffled_rows_read_the_same() -> None:
    table = impression_table(30)
    order = np.random.default_rng(3).permutation(30)
    shuffled = ImpressionLog.from_table(table.take(pa.array(order)))
    assert_same_log(shuffled, ImpressionLog.from_table(table).take(order))
