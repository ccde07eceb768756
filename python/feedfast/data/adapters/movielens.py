"""MovieLens 100k as an impression log.

A rating is an impression that the viewer answered: every objective is a threshold on it. The
passive group holds `watch` (rating >= 2) and `enjoy` (>= 3, the superset of what counts as
engagement), the active group `like` (>= 4) and `love` (5). The data has no requests, so ratings of
one user with one timestamp form a request and the position is the rank of the movie's number in it.
What was shown and not rated is unknown, hence policy `model` and no propensity.

Every statistic is point in time: it uses ratings with a strictly earlier timestamp only, whoever
gave them. docs/data.md lists the features. Source of the data: F. M. Harper and J. A. Konstan, The
MovieLens Datasets, ACM TiiS 5(4), 2015.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feedfast.data.adapters.movielens_files import Ratings, read_ratings
from feedfast.data.adapters.wheel_files import fetch_wheel_files
from feedfast.data.dataset import Dataset
from feedfast.data.keys import KeyBags, join_keys
from feedfast.data.log import ImpressionLog
from feedfast.data.point_in_time import Timeline
from feedfast.objectives import Objective

OBJECTIVES = (
    Objective("watch", "passive"),
    Objective("enjoy", "passive"),
    Objective("like", "active"),
    Objective("love", "active"),
)
THRESHOLDS = {"watch": 2, "enjoy": 3, "like": 4, "love": 5}

_WHEEL = "recbole==1.2.1"
_WHEEL_MEMBERS = [
    f"recbole/dataset_example/ml-100k/ml-100k.{kind}" for kind in ("inter", "item", "user")
]
_REMEDY = (
    "or name a folder with the MovieLens 100k files (u.data, u.item, u.user, u.genre): folder=..."
)

# Smoothed means count the mean of everything earlier as this many ratings.
_PRIOR_RATINGS = 5.0
_MS_PER_HOUR = 3_600_000.0
_MS_PER_DAY = 24 * _MS_PER_HOUR


def load_movielens(
    *, folder: str | os.PathLike[str] | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """MovieLens 100k.

    Args:
        folder: Holds `u.data`, `u.item`, `u.user`, `u.genre`, or RecBole's `ml-100k.inter`,
            `.item`, `.user`. By default the latter come out of the wheel recbole 1.2.1, which pip
            downloads once.
        cache_dir: Where downloaded files are kept; by default the user's cache folder.

    Raises:
        FileNotFoundError: The folder lacks a file.
        ValueError: A file is not what its name says.
        RuntimeError: pip could not download the wheel.
    """
    if folder is None:
        cache = None if cache_dir is None else Path(cache_dir)
        folder = fetch_wheel_files(_WHEEL, _WHEEL_MEMBERS, cache_dir=cache, remedy=_REMEDY)[
            0
        ].parent
    ratings = read_ratings(Path(folder))
    statistics = _Statistics(ratings)
    shared, dense = _user_features(ratings, statistics), _movie_features(ratings, statistics)
    request_id, position = _requests(ratings)
    movies = join_keys("movie", ratings.movie)
    log = ImpressionLog(
        request_id=request_id,
        timestamp=ratings.timestamp_ms,
        viewer=join_keys("user", ratings.user),
        item=movies,
        actor=movies,
        root_actor=movies,
        hashtags=_hashtags(ratings),
        position=position,
        policy_random=np.zeros(len(position), dtype=bool),
        propensity=np.full(len(position), np.nan, dtype=np.float32),
        shared=_matrix(shared),
        shared_names=tuple(shared),
        dense=_matrix(dense),
        dense_names=tuple(dense),
        labels=_labels(ratings.rating).astype(np.float32),
        objective_names=tuple(THRESHOLDS),
        report=ratings.report,
    )
    notes = (
        "MovieLens 100k: every row is a rating; what was shown and not rated is unknown.",
        "Objectives are rating thresholds: watch >= 2, enjoy >= 3 (passive), "
        "like >= 4, love >= 5 (active).",
        "Requests are ratings of one user with one timestamp; propensities are unknown.",
    )
    return Dataset(log=log, objectives=OBJECTIVES, superset="enjoy", name="movielens", notes=notes)


def _labels(rating: NDArray[np.float64]) -> NDArray[np.float64]:
    return (rating[:, None] >= np.array(list(THRESHOLDS.values()))).astype(np.float64)


def _hashtags(ratings: Ratings) -> KeyBags:
    names = pa.array([f"genre:{name}" for name in ratings.genre_names], pa.large_string())
    return KeyBags(names.take(pa.array(ratings.genre_codes)), ratings.genre_offsets)


def _requests(ratings: Ratings) -> tuple[pa.Array, NDArray[np.int32]]:
    """Ids `request:<user>:<seconds>`, and each row's rank among the rows of its request."""
    starts = np.ones(len(ratings.user), dtype=bool)
    starts[1:] = (ratings.user[1:] != ratings.user[:-1]) | (
        ratings.timestamp_ms[1:] != ratings.timestamp_ms[:-1]
    )
    rows = np.arange(len(starts))
    position = rows - np.maximum.accumulate(np.where(starts, rows, 0))
    return join_keys("request", ratings.user, ratings.timestamp_ms // 1_000), position.astype(
        np.int32
    )


def _smoothed(
    sums: NDArray[np.float64], counts: NDArray[np.int64], prior: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """(sum + k prior) / (count + k): the mean of few values is drawn to the prior."""
    counts = counts if sums.ndim == 1 else counts[:, None]
    return (sums + _PRIOR_RATINGS * prior) / (counts + _PRIOR_RATINGS)


class _Statistics:
    """Point-in-time means that user and movie features share; arrays are [n, ...]."""

    def __init__(self, ratings: Ratings) -> None:
        everything = Timeline.build(np.zeros_like(ratings.user), ratings.timestamp_ms)
        self.users = Timeline.build(ratings.user, ratings.timestamp_ms)
        self.movies = Timeline.build(ratings.movie, ratings.timestamp_ms)
        # Columns: the rating, then one indicator per objective.
        outcomes = np.column_stack([ratings.rating, _labels(ratings.rating)])
        num_before = everything.count_before()[:, None]
        with np.errstate(invalid="ignore"):
            prior = everything.sum_before(outcomes) / num_before  # NaN for the very first rating
        self.user_means = _smoothed(
            self.users.sum_before(outcomes), self.users.count_before(), prior
        )
        self.movie_means = _smoothed(
            self.movies.sum_before(outcomes), self.movies.count_before(), prior
        )
        self.above_user_mean = np.nan_to_num(ratings.rating - self.user_means[:, 0])
        self.above_movie_mean = np.nan_to_num(ratings.rating - self.movie_means[:, 0])

    def mean_above(self, timeline: Timeline, residual: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n], smoothed mean of `residual` over the key's earlier rows, drawn to 0."""
        return _smoothed(timeline.sum_before(residual), timeline.count_before(), 0.0)


def _user_features(ratings: Ratings, statistics: _Statistics) -> dict[str, NDArray[np.float64]]:
    users = statistics.users
    return {
        "age": ratings.age,
        "is_female": ratings.is_female,
        "user_log_ratings": np.log1p(users.count_before()),
        "user_log_days_since_first": np.log1p(users.time_since_first() / _MS_PER_DAY),
        "user_log_hours_since_last": np.log1p(users.time_since_last() / _MS_PER_HOUR),
        "user_mean_rating": statistics.user_means[:, 0],
        "user_above_movie_mean": statistics.mean_above(users, statistics.above_movie_mean),
        **{
            f"user_{name}_rate": statistics.user_means[:, 1 + k]
            for k, name in enumerate(THRESHOLDS)
        },
    }


def _movie_features(ratings: Ratings, statistics: _Statistics) -> dict[str, NDArray[np.float64]]:
    movies, time = statistics.movies, ratings.timestamp_ms
    year = 1970.0 + time / (365.25 * _MS_PER_DAY)
    num_genres = np.diff(ratings.genre_offsets)
    # One row for each genre of each rating's movie, keyed by (user, genre).
    row_of_genre = np.repeat(np.arange(len(num_genres)), num_genres)
    user_genre = ratings.user[row_of_genre] * len(ratings.genre_names) + ratings.genre_codes
    genres = Timeline.build(user_genre, time[row_of_genre])
    affinity = statistics.mean_above(genres, statistics.above_user_mean[row_of_genre])
    seen = np.log1p(genres.count_before())

    def mean_over_genres(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(row_of_genre, weights=values, minlength=len(num_genres))
        means: NDArray[np.float64] = np.full(len(sums), np.nan)
        return np.divide(sums, num_genres, out=means, where=num_genres > 0)

    def same_kind(kind: NDArray[np.float64]) -> NDArray[np.float64]:
        # `kind` is a small whole number; viewers of unknown kind are one of their own.
        codes = ratings.movie * 16 + np.where(np.isnan(kind), 15, kind).astype(np.int64)
        return statistics.mean_above(Timeline.build(codes, time), statistics.above_user_mean)

    return {
        "release_year": ratings.release_year,
        "movie_age_years": year - ratings.release_year,
        "num_genres": num_genres.astype(np.float64),
        "movie_log_ratings": np.log1p(movies.count_before()),
        "movie_log_days_since_first": np.log1p(movies.time_since_first() / _MS_PER_DAY),
        "movie_log_hours_since_last": np.log1p(movies.time_since_last() / _MS_PER_HOUR),
        "movie_mean_rating": statistics.movie_means[:, 0],
        "movie_above_user_mean": statistics.mean_above(movies, statistics.above_user_mean),
        "movie_above_user_mean_same_gender": same_kind(ratings.is_female),
        "movie_above_user_mean_same_age": same_kind(np.clip(ratings.age // 10, 0, 9)),
        **{
            f"movie_{name}_rate": statistics.movie_means[:, 1 + k]
            for k, name in enumerate(THRESHOLDS)
        },
        "user_genre_affinity": mean_over_genres(affinity),
        "user_genre_log_ratings": mean_over_genres(seen),
    }


def _matrix(features: dict[str, NDArray[np.float64]]) -> NDArray[np.float32]:
    return np.column_stack(list(features.values())).astype(np.float32)
