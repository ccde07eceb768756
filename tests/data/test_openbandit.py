from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from impression_tables import impression_table

from feedfast.data import ImpressionLog, ctr_report, load
from feedfast.data.adapters.openbandit import wilson_interval

HEADER = (
    ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,"
    "user_feature_2,user_feature_3,user-item_affinity_0,user-item_affinity_1\n"
)
ROWS = {
    "random": "0,2019-11-24 00:00:01.5+00:00,1,3,1,0.5,aaaaaaaaaa,b,c,d,0.25,4.0\n"
    "1,2019-11-24 00:00:02.123456+00:00,0,1,0,0.5,x,b,c,d,7.0,0.0\n",
    "bts": "0,2019-11-24 00:00:03+00:00,0,2,0,0.000001,x,b,c,d,0.0,0.0\n",
}
ITEMS = (
    ",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3\n"
    "0,0,-0.5,p,q,r\n1,1,0.75,s,q,t\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for policy, rows in ROWS.items():
        path = tmp_path / policy / "men"
        path.mkdir(parents=True)
        (path / "men.csv").write_text(HEADER + rows)
        (path / "item_context.csv").write_text(ITEMS)
    return tmp_path


def test_mapping(folder: Path) -> None:
    data = load("openbandit", folder=folder, campaigns=["men"])
    log = data.log
    assert log.num_rows == 3
    assert log.request_id.to_pylist() == [
        "request:random:men:0",
        "request:random:men:1",
        "request:bts:men:0",
    ]
    assert log.viewer.to_pylist() == [
        "segment:aaaaaaaa:b:c:d",
        "segment:x:b:c:d",
        "segment:x:b:c:d",
    ]
    assert log.item.to_pylist() == ["item:men:1", "item:men:0", "item:men:0"]
    assert log.hashtags.values.to_pylist()[:3] == ["tag1:s", "tag2:q", "tag3:t"]
    np.testing.assert_array_equal(log.timestamp - 1_574_553_600_000, [1_500, 2_123, 3_000])
    np.testing.assert_array_equal(log.position, [2, 0, 1])
    np.testing.assert_array_equal(log.policy_random, [True, True, False])
    np.testing.assert_array_equal(log.propensity, np.float32([0.5, 0.5, 1e-6]))
    np.testing.assert_array_equal(log.dense, np.float32([[4, 0.75], [7, -0.5], [0, -0.5]]))
    np.testing.assert_array_equal(log.label("click"), [1, 0, 0])


def test_wrong_files(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"all\.csv does not exist"):
        load("openbandit", folder=folder)
    with pytest.raises(ValueError, match="campaign must be one of all, men, women; got 'kids'"):
        load("openbandit", campaigns=["kids"])
    with pytest.raises(ValueError, match="at least one campaign"):
        load("openbandit", campaigns=[])
    file = folder / "bts" / "men" / "men.csv"
    file.write_text(HEADER + ROWS["bts"].replace(",0,2,0,", ",5,2,0,"))
    with pytest.raises(ValueError, match=r"row 0 has item_id 5; item_context\.csv has 2 items"):
        load("openbandit", folder=folder, campaigns=["men"])
    file.write_text(HEADER + ROWS["bts"].replace(",0,2,0,", ",0,two,0,"))
    with pytest.raises(ValueError, match=r"men\.csv: cannot be read as an Open Bandit log"):
        load("openbandit", folder=folder, campaigns=["men"])
    file.write_text(HEADER.replace("click", "tap") + ROWS["bts"])
    with pytest.raises(ValueError, match="column 'click' is missing"):
        load("openbandit", folder=folder, campaigns=["men"])
    file.write_text(HEADER + ROWS["bts"])
    file.with_name("item_context.csv").write_text(ITEMS.replace("1,1,", "1,3,"))
    with pytest.raises(ValueError, match="item_id must count from 0"):
        load("openbandit", folder=folder, campaigns=["men"])


def test_ctr_report() -> None:
    table = impression_table(
        7,
        policy=["random"] * 5 + ["model"] * 2,
        position=np.array([1, 0, 1, 1, 0, 4, 4], np.int32),
        label__click=[1.0, 0.0, 0.0, 1.0, None, 1.0, 1.0],
    )
    rows = ctr_report(ImpressionLog.from_table(table))
    assert [(r.policy, r.position, r.impressions, r.clicks) for r in rows] == [
        ("random", 0, 1, 0),
        ("random", 1, 3, 2),
        ("random", None, 4, 2),
        ("model", 4, 2, 2),
        ("model", None, 2, 2),
    ]
    assert all(r.low <= r.rate <= r.high for r in rows)
    assert [r.rate for r in rows] == [0.0, 2 / 3, 0.5, 1.0, 1.0]
    assert ctr_report(ImpressionLog.from_table(impression_table(0))) == ()


def test_wilson_interval() -> None:
    # Closed form by hand for 8 of 10 and 95%: see Wilson (1927), z = 1.959964.
    assert wilson_interval(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert wilson_interval(10, 10)[1] == 1.0
    for wrong in ((-1, 10), (11, 10), (0, 0)):
        with pytest.raises(ValueError, match="need 0 <= successes <= trials"):
            wilson_interval(*wrong)
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\); got 1"):
        wilson_interval(1, 2, confidence=1.0)


def test_wilson_interval_covers() -> None:
    rng = np.random.default_rng(11)
    clicks = rng.binomial(2_000, 0.005, size=2_000)
    covered = [
        low <= 0.005 <= high for low, high in (wilson_interval(int(c), 2_000) for c in clicks)
    ]
    assert np.mean(covered) > 0.93  # 95% nominal; discrete counts at a mean of 10


@pytest.mark.download
def test_the_real_data(tmp_path: Path) -> None:
    log = load("openbandit", cache_dir=tmp_path).log
    assert (log.num_rows, log.report.num_dropped) == (60_000, 0)
    assert log.label("click").sum() == 287
    totals = [row for row in ctr_report(log) if row.position is None]
    assert [(row.policy, row.impressions, row.clicks) for row in totals] == [
        ("random", 30_000, 130),
        ("model", 30_000, 157),
    ]
    uniform = np.unique(log.propensity[log.policy_random])
    np.testing.assert_allclose(uniform, np.float32([1 / 80, 1 / 46, 1 / 34]), rtol=1e-6)
