from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from impression_tables import impression_table

from feedfast.data import ANY_ENGAGEMENT, Dataset, ImpressionLog, load
from feedfast.objectives import Objective

OBJECTIVES = (Objective("click", "passive"), Objective("vote", "other"))


def dataset(num_rows: int = 20, superset: str = ANY_ENGAGEMENT) -> Dataset:
    log = ImpressionLog.from_table(impression_table(num_rows))
    return Dataset(log=log, objectives=OBJECTIVES, superset=superset, name="small")


def test_superset_leaves_out_what_creators_do() -> None:
    data = dataset()
    np.testing.assert_array_equal(data.superset_label(), data.log.label("click"))
    np.testing.assert_array_equal(data.engaged(), data.log.label("click") == 1)
    data = dataset(superset="vote")
    np.testing.assert_array_equal(data.superset_label(), data.log.label("vote"))


def test_parquet_carries_groups_and_superset(tmp_path: Path) -> None:
    written = dataset(superset="click")
    written.write_parquet(tmp_path / "log.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]
    for source in (tmp_path, tmp_path / "log.parquet", str(tmp_path)):
        got = load(source)
        assert (got.objectives, got.superset) == (OBJECTIVES, "click")
        assert got.log.to_table().equals(written.log.to_table())


def test_altered_pages_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / "log.parquet"
    dataset(500).write_parquet(file)
    whole = np.frombuffer(file.read_bytes(), dtype=np.uint8)
    metadata = pq.read_metadata(file).row_group(0)
    rng = np.random.default_rng(4)
    for index in range(metadata.num_columns):
        column = metadata.column(index)
        end = column.data_page_offset + column.total_compressed_size
        if column.has_dictionary_page:
            end += column.dictionary_page_offset - column.data_page_offset
        altered = whole.copy()
        altered[end - rng.integers(1, 5)] ^= 0x10
        file.write_bytes(altered.tobytes())
        with pytest.raises(ValueError, match=r"log\.parquet: cannot be read as Parquet"):
            load(file)


def test_groups_of_a_foreign_file(tmp_path: Path) -> None:
    file = tmp_path / "log.parquet"
    pq.write_table(impression_table(5), file)
    with pytest.raises(
        ValueError, match=r"objective 'click' has group None; it must be one of .*groups=\{'click'"
    ):
        load(file)
    with pytest.raises(ValueError, match="objective 'vote' has group 'maybe'"):
        load(file, groups={"click": "passive", "vote": "maybe"})
    with pytest.raises(ValueError, match="groups names 'like', which is not a label"):
        load(file, groups={"like": "active"})
    got = load(file, groups={"click": "passive", "vote": "active"}, superset="click")
    assert got.objectives == (Objective("click", "passive"), Objective("vote", "active"))
    assert got.superset == "click"
    assert load(file, groups={"click": "passive", "vote": "active"}).superset == ANY_ENGAGEMENT


def test_a_log_without_labels_is_no_dataset(tmp_path: Path) -> None:
    file = tmp_path / "log.parquet"
    pq.write_table(impression_table(5, label__click=None, label__vote=None), file)
    with pytest.raises(ValueError, match=r"log\.parquet: has no label\.<objective> column"):
        load(file)


def test_load_by_name() -> None:
    got = load("simulated", num_members=200, num_requests=20, num_posts=1_000, num_clusters=4)
    assert got.name == "simulated"
    assert got.log.num_rows == 200
    with pytest.raises(TypeError, match="unexpected keyword argument 'folder'"):
        load("simulated", folder="x")
    with pytest.raises(FileNotFoundError, match="movie does not exist"):
        load("movie")


def test_wrong_datasets() -> None:
    log = ImpressionLog.from_table(impression_table(3))
    with pytest.raises(ValueError, match="the log has labels"):
        Dataset(log=log, objectives=OBJECTIVES[::-1], superset="click", name="small")
    with pytest.raises(ValueError, match="superset must be 'any' or one of click, vote; got 'x'"):
        Dataset(log=log, objectives=OBJECTIVES, superset="x", name="small")
