from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feedfast.data import Dataset, load, split_by_time

GENRES = ["unknown", "Action", "Children's", "Comedy"]
# user, movie, rating, seconds
RATINGS = [
    (3, 10, 5, 100),
    (3, 7, 2, 100),
    (4, 10, 4, 150),
    (3, 8, 3, 160),
    (4, 7, 1, 160),
    (9, 10, 3, 170),
    (9, 99, 1, 180),
]
USERS = [(3, 24, "M"), (4, 53, "F")]
MOVIES = [
    (7, 'Über, "quoted" (1990)', 1990, ["Comedy"]),
    (8, "No date", None, []),
    (10, "X", 1995, ["Action", "Comedy"]),
]


def write_original(folder: Path) -> None:
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATINGS))
    (folder / "u.genre").write_text("".join(f"{g}|{i}\n" for i, g in enumerate(GENRES)) + "\n")
    (folder / "u.user").write_text("".join(f"{u}|{a}|{g}|other|85711\n" for u, a, g in USERS))
    lines = []
    for movie, title, year, genres in MOVIES:
        flags = "|".join("1" if genre in genres else "0" for genre in GENRES)
        release = "" if year is None else f"01-Jan-{year}"
        lines.append(f"{movie}|{title}|{release}||http://x|{flags}\n")
    (folder / "u.item").write_bytes("".join(lines).encode("latin-1"))


def write_atomic(folder: Path) -> None:
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    rows += ["\t".join(map(str, row)) for row in RATINGS[::-1]]
    (folder / "ml-100k.inter").write_text("\n".join(rows))
    rows = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    rows += [f"{u}\t{a}\t{g}\tother\t85711" for u, a, g in USERS]
    (folder / "ml-100k.user").write_text("\n".join(rows))
    rows = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    rows += [f"{m}\t{t}\t{'' if y is None else y}\t{' '.join(g)}" for m, t, y, g in MOVIES]
    (folder / "ml-100k.item").write_text("\n".join(rows), encoding="utf-8")


@pytest.fixture
def original(tmp_path: Path) -> Path:
    write_original(tmp_path)
    return tmp_path


def feature(data: Dataset, name: str) -> np.ndarray:
    log = data.log
    if name in log.shared_names:
        return log.shared[:, log.shared_names.index(name)]
    return log.dense[:, log.dense_names.index(name)]


def test_mapping(original: Path) -> None:
    data = load("movielens", folder=original)
    log = data.log
    # Ordered by time, user, movie.
    assert log.viewer.to_pylist() == [f"user:{u}" for u in (3, 3, 4, 3, 4, 9, 9)]
    assert log.item.to_pylist() == [f"movie:{m}" for m in (7, 10, 10, 8, 7, 10, 99)]
    assert log.actor.equals(log.item)
    assert log.root_actor.equals(log.item)
    np.testing.assert_array_equal(
        log.timestamp, np.array([100, 100, 150, 160, 160, 170, 180]) * 1_000
    )
    assert log.request_id.to_pylist()[:3] == ["request:3:100", "request:3:100", "request:4:150"]
    np.testing.assert_array_equal(log.position, [0, 1, 0, 0, 0, 0, 0])
    assert log.hashtags.values.to_pylist() == [
        f"genre:{g}"
        for g in ("Comedy", "Action", "Comedy", "Action", "Comedy", "Comedy", "Action", "Comedy")
    ]
    np.testing.assert_array_equal(log.hashtags.lengths(), [1, 2, 2, 0, 1, 2, 0])
    assert not log.policy_random.any()
    assert np.isnan(log.propensity).all()
    assert log.objective_names == ("watch", "enjoy", "like", "love")
    np.testing.assert_array_equal(
        log.labels,
        [[1, 0, 0, 0], [1] * 4, [1, 1, 1, 0], [1, 1, 0, 0], [0] * 4, [1, 1, 0, 0], [0] * 4],
    )
    assert data.superset == "enjoy"
    assert [o.group for o in data.objectives] == ["passive", "passive", "active", "active"]


def test_features_are_point_in_time(original: Path) -> None:
    data = load("movielens", folder=original)
    nan = np.nan
    np.testing.assert_array_equal(feature(data, "age"), np.float32([24, 24, 53, 24, 53, nan, nan]))
    np.testing.assert_array_equal(feature(data, "is_female"), np.float32([0, 0, 1, 0, 1, nan, nan]))
    np.testing.assert_array_equal(
        feature(data, "release_year"), np.float32([1990, 1995, 1995, nan, 1990, 1995, nan])
    )
    # exact in float32 after log1p of small counts
    np.testing.assert_allclose(
        np.expm1(feature(data, "user_log_ratings")), [0, 0, 0, 2, 1, 0, 1], atol=1e-6
    )
    np.testing.assert_allclose(
        np.expm1(feature(data, "movie_log_ratings")), [0, 0, 1, 0, 1, 2, 0], atol=1e-6
    )
    hours = np.expm1(feature(data, "movie_log_hours_since_last")) * 3_600
    np.testing.assert_allclose(hours, [nan, nan, 50, nan, 60, 20, nan], atol=1e-2)
    # Before second 160: ratings 5, 2, 4; user 3 gave the first two. 5 ratings of the prior.
    prior = 11 / 3
    want = (7 + 5 * prior) / (2 + 5)
    assert feature(data, "user_mean_rating")[3] == pytest.approx(want, rel=1e-6)
    assert np.isnan(feature(data, "user_mean_rating")[:2]).all()
    want = (1 + 5 * 2 / 3) / (2 + 5)
    assert feature(data, "user_like_rate")[3] == pytest.approx(want, rel=1e-6)
    assert feature(data, "movie_like_rate")[5] == pytest.approx((2 + 5 * 2 / 5) / 7, rel=1e-6)


def test_later_ratings_change_nothing_earlier(original: Path) -> None:
    before = load("movielens", folder=original).log
    with (original / "u.data").open("a") as file:
        file.write("3\t7\t5\t175\n4\t10\t1\t500\n")
    after = load("movielens", folder=original).log
    early = np.flatnonzero(before.timestamp <= 175_000)
    np.testing.assert_array_equal(after.shared[early], before.shared[early])
    np.testing.assert_array_equal(after.dense[early], before.dense[early])


def test_both_forms_of_the_files_agree(original: Path, tmp_path: Path) -> None:
    atomic = tmp_path / "atomic"
    atomic.mkdir()
    write_atomic(atomic)
    want = load("movielens", folder=original).log.to_table()
    assert load("movielens", folder=atomic).log.to_table().equals(want)


def test_bad_lines_are_counted(original: Path) -> None:
    with (original / "u.data").open("a") as file:
        file.write("1\t2\n3\t7\t6\t200\nx\t7\t5\t200\n3\t7\t5\t-4\n3\t7\t5\t200\t\n")
    report = load("movielens", folder=original).log.report
    assert report.num_read == 12
    assert {bad.reason: bad.count for bad in report.dropped} == {
        "line does not have 4 fields": 2,
        "user is not a whole number": 1,
        "rating is not 1 to 5": 1,
        "timestamp is not a whole number": 1,
    }
    assert "1\\t2" in str(report)


def test_wrong_folders(original: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere does not exist"):
        load("movielens", folder=tmp_path / "nowhere")
    (original / "u.user").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no u\.user; it must hold u\.data, u\.item"):
        load("movielens", folder=original)
    write_atomic(original)
    (original / "ml-100k.item").write_text("item_id:token\n1\n")
    with pytest.raises(ValueError, match=r"ml-100k\.item: cannot be read as lines of item_id"):
        load("movielens", folder=original)
    (original / "ml-100k.item").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ml-100k\.item: cannot be read"):
        load("movielens", folder=original)


def test_no_ratings(original: Path) -> None:
    (original / "u.data").write_text("x\tx\tx\tx\n")
    assert load("movielens", folder=original).log.num_rows == 0


@pytest.mark.download
def test_the_real_data(tmp_path: Path) -> None:
    data = load("movielens", cache_dir=tmp_path)
    log = data.log
    assert (log.num_rows, log.report.num_dropped) == (100_000, 0)
    assert (len(log.viewer.unique()), len(log.item.unique())) == (943, 1_682)
    assert len(log.hashtags.values.unique()) == 19
    # 6110, 11370, 27145, 34174, 21201 ratings of 1 to 5
    np.testing.assert_array_equal(log.labels.sum(axis=0), [93_890, 82_520, 55_375, 21_201])
    assert not np.isinf(log.shared).any()
    assert np.isnan(log.shared).mean() < 0.01
    assert np.isnan(log.dense).mean() < 0.01
    split = split_by_time(log)
    assert len(split.test) == pytest.approx(20_000, rel=0.02)
