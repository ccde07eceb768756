"""The files of MovieLens 100k, original or RecBole's atomic ones, as plain columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from feedfast.data.keys import expand_ranges, offsets_from_lengths, to_numpy
from feedfast.data.report import MAX_EXAMPLES, BadRow, BadRows, ReadReport, RowFilter

_ORIGINAL_FILES = ("u.data", "u.item", "u.user", "u.genre")
_ATOMIC_FILES = ("ml-100k.inter", "ml-100k.item", "ml-100k.user")
_WHOLE_NUMBER = r"^\d{1,11}(\.0*)?$"


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Ratings:
    """Ratings and what is known of their user and movie, one row per rating, ordered by (time,
    user, movie).

    Attributes:
        user: [n] int64, the user's number.
        movie: [n] int64, the movie's number.
        rating: [n] float64, 1 to 5.
        timestamp_ms: [n] int64.
        age: [n] float64, years; NaN where unknown.
        is_female: [n] float64, 0 or 1; NaN where unknown.
        release_year: [n] float64; NaN where unknown.
        genre_codes: [nnz] int64, index into `genre_names`; the movie's genres.
        genre_offsets: [n + 1] int64.
        genre_names: Sorted.
        report: Rows of the ratings file that were dropped.
    """

    user: NDArray[np.int64]
    movie: NDArray[np.int64]
    rating: NDArray[np.float64]
    timestamp_ms: NDArray[np.int64]
    age: NDArray[np.float64]
    is_female: NDArray[np.float64]
    release_year: NDArray[np.float64]
    genre_codes: NDArray[np.int64]
    genre_offsets: NDArray[np.int64]
    genre_names: tuple[str, ...]
    report: ReadReport


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _RawFiles:
    """String columns of the three files; `genres` is a list column beside `movie`."""

    ratings: pa.Table  # user, movie, rating, timestamp
    malformed: ReadReport
    movie: pa.Array
    release_year: pa.Array
    genres: pa.Array
    user: pa.Array
    age: pa.Array
    gender: pa.Array


def read_ratings(folder: Path) -> Ratings:
    """Reads a folder that holds the original or the atomic files.

    A rating is dropped and counted when its line has the wrong number of fields, when a number is
    not a whole number or when the rating is not 1 to 5. A user or movie that the other files do not
    describe keeps its ratings.

    Raises:
        FileNotFoundError: The folder lacks a file.
        ValueError: A file is not what its name says.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"MovieLens 100k: folder {folder} does not exist")
    if (folder / _ATOMIC_FILES[0]).is_file():
        _require(folder, _ATOMIC_FILES)
        raw = _read_atomic(folder)
    else:
        _require(folder, _ORIGINAL_FILES)
        raw = _read_original(folder)

    columns, report = _parse_ratings(raw)
    order = np.lexsort((columns["movie"], columns["user"], columns["timestamp"]))
    user, movie, rating, timestamp = (
        columns[name][order] for name in ("user", "movie", "rating", "timestamp")
    )

    in_users = _find(user, _numbers(raw.user, what="user"))
    in_movies = _find(movie, _numbers(raw.movie, what="movie"))
    genders = to_numpy(raw.gender)
    is_female = np.where(genders == "F", 1.0, np.where(genders == "M", 0.0, np.nan))
    genre_names, genre_codes = np.unique(
        to_numpy(raw.genres.flatten()).astype(str), return_inverse=True
    )
    per_movie = np.append(to_numpy(raw.genres.value_lengths()).astype(np.int64), 0)
    starts = offsets_from_lengths(per_movie)[:-1]
    lengths = per_movie[in_movies]
    return Ratings(
        user=user,
        movie=movie,
        rating=rating.astype(np.float64),
        timestamp_ms=timestamp * 1_000,
        age=_or_nan(_floats(raw.age), in_users),
        is_female=_or_nan(is_female, in_users),
        release_year=_or_nan(_floats(raw.release_year), in_movies),
        genre_codes=genre_codes[expand_ranges(starts[in_movies], lengths)],
        genre_offsets=offsets_from_lengths(lengths),
        genre_names=tuple(str(name) for name in genre_names),
        report=report,
    )


def _require(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"MovieLens 100k: {folder} has no {name}; it must hold "
                f"{', '.join(_ORIGINAL_FILES)} or {', '.join(_ATOMIC_FILES)}"
            )


def _read_atomic(folder: Path) -> _RawFiles:
    inter, item, user = (folder / name for name in _ATOMIC_FILES)
    fields = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    ratings, malformed = _read_lines(inter, delimiter="\t", columns=fields, header=True)
    movies, _ = _read_lines(
        item,
        delimiter="\t",
        columns=["item_id:token", "release_year:token", "class:token_seq"],
        header=True,
    )
    users, _ = _read_lines(
        user, delimiter="\t", columns=["user_id:token", "age:token", "gender:token"], header=True
    )
    return _RawFiles(
        ratings=ratings.rename_columns(["user", "movie", "rating", "timestamp"]),
        malformed=malformed,
        movie=_column(movies, "item_id:token"),
        release_year=_column(movies, "release_year:token"),
        genres=_without_empty(pc.split_pattern(_column(movies, "class:token_seq"), " ")),
        user=_column(users, "user_id:token"),
        age=_column(users, "age:token"),
        gender=_column(users, "gender:token"),
    )


def _read_original(folder: Path) -> _RawFiles:
    data, item, user, genre = (folder / name for name in _ORIGINAL_FILES)
    ratings, malformed = _read_lines(
        data, delimiter="\t", columns=["user", "movie", "rating", "timestamp"], header=False
    )
    genres, _ = _read_lines(genre, delimiter="|", columns=["name", "index"], header=False)
    names = [name.as_py() for name in _column(genres, "name")]
    flags = [f"genre {index}" for index in range(len(names))]
    movies, _ = _read_lines(
        item,
        delimiter="|",
        columns=["movie", "title", "release", "video release", "url", *flags],
        header=False,
    )
    users, _ = _read_lines(
        user, delimiter="|", columns=["user", "age", "gender", "occupation", "zip"], header=False
    )
    has_genre = np.stack([to_numpy(_column(movies, flag)) == "1" for flag in flags], axis=1)
    listed = pa.array(names).take(pa.array(np.nonzero(has_genre)[1]))
    return _RawFiles(
        ratings=ratings,
        malformed=malformed,
        movie=_column(movies, "movie"),
        # 01-Jan-1995
        release_year=pc.utf8_slice_codeunits(_column(movies, "release"), -4),
        genres=pa.LargeListArray.from_arrays(
            offsets_from_lengths(has_genre.sum(axis=1).astype(np.int64)), listed
        ),
        user=_column(users, "user"),
        age=_column(users, "age"),
        gender=_column(users, "gender"),
    )


def _read_lines(
    path: Path, *, delimiter: str, columns: list[str], header: bool
) -> tuple[pa.Table, ReadReport]:
    """String columns of a delimited file; lines with the wrong number of fields are reported."""
    examples: list[BadRow] = []
    num_malformed = 0

    def skip(row: pa_csv.InvalidRow) -> str:
        nonlocal num_malformed
        num_malformed += 1
        if len(examples) < MAX_EXAMPLES:
            examples.append(BadRow(str(path), row.number - 1, repr(row.text[:80])))
        return "skip"

    try:
        table = pa_csv.read_csv(
            path,
            # Latin-1 reads any byte; of the columns used here only ASCII is expected.
            read_options=pa_csv.ReadOptions(
                use_threads=False, encoding="latin1", column_names=None if header else columns
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, quote_char=False, invalid_row_handler=skip
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), include_columns=columns
            ),
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: cannot be read as lines of {', '.join(columns)}: {error}"
        ) from error
    malformed = (
        (BadRows(f"line does not have {len(columns)} fields", num_malformed, tuple(examples)),)
        if examples
        else ()
    )
    return table, ReadReport(num_read=num_malformed, dropped=malformed)


def _parse_ratings(raw: _RawFiles) -> tuple[dict[str, NDArray[np.int64]], ReadReport]:
    columns = {name: _column(raw.ratings, name) for name in raw.ratings.column_names}
    rows = RowFilter(raw.ratings.num_rows, source="ratings")
    patterns = {
        "user": _WHOLE_NUMBER,
        "movie": _WHOLE_NUMBER,
        "rating": r"^[1-5](\.0*)?$",
        "timestamp": _WHOLE_NUMBER,
    }
    for name, pattern in patterns.items():
        bad = ~to_numpy(pc.match_substring_regex(columns[name], pattern))
        allowed = "1 to 5" if name == "rating" else "a whole number"
        rows.drop(bad, f"{name} is not {allowed}", columns[name])
    good = pa.array(rows.good_rows())
    numbers = {
        name: _floats(column.take(good)).astype(np.int64) for name, column in columns.items()
    }
    return numbers, ReadReport.merge([raw.malformed, rows.report()])


def _column(table: pa.Table, name: str) -> pa.Array:
    return (
        pa.concat_arrays(table.column(name).chunks) if table.num_rows else pa.array([], pa.string())
    )


def _without_empty(lists: pa.Array) -> pa.Array:
    """The list column without empty strings, which is what splitting an empty text gives."""
    values = lists.flatten()
    kept = to_numpy(pc.not_equal(values, ""))
    parents = to_numpy(pc.list_parent_indices(lists))
    lengths = np.bincount(parents[kept], minlength=len(lists)).astype(np.int64)
    return pa.LargeListArray.from_arrays(
        offsets_from_lengths(lengths), values.filter(pa.array(kept))
    )


def _floats(texts: pa.Array) -> NDArray[np.float64]:
    """[n] float64; NaN where the text is not a whole number."""
    valid = pc.match_substring_regex(texts, _WHOLE_NUMBER)
    numbers: NDArray[np.float64] = to_numpy(pc.if_else(valid, texts, None).cast(pa.float64()))
    return numbers


def _numbers(texts: pa.Array, *, what: str) -> NDArray[np.int64]:
    numbers = _floats(texts)
    bad = np.flatnonzero(np.isnan(numbers))
    if len(bad) > 0:
        raise ValueError(
            f"MovieLens 100k: {what} {texts[int(bad[0])].as_py()!r} at row {bad[0]} "
            "is not a whole number"
        )
    return numbers.astype(np.int64)


def _find(wanted: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] index into `known`, -1 where it is not there."""
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known, wanted, sorter=order)
    found = np.append(order, -1)[place]
    return np.where((found >= 0) & (np.append(known, -1)[found] == wanted), found, -1)


def _or_nan(values: NDArray[np.float64], index: NDArray[np.int64]) -> NDArray[np.float64]:
    """values[index], NaN where index is -1."""
    return np.append(values, np.nan)[index]
