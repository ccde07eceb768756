from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from feedfast.hashing import (
    METHODS,
    Method,
    collision_rates,
    double_hash_rows,
    expected_collision_rate,
    hash_rows,
    quotient_remainder_rows,
    split_rows,
)

EMPTY_HASH = 0x2D06800538D394C2  # XXH3_64bits of no bytes, a constant of the hash


def member_keys(size: int) -> list[str]:
    return [f"urn:li:member:{i}" for i in range(size)]


def test_rows_are_the_hash_scaled_to_the_table() -> None:
    for num_rows in (1, 7, 1 << 40, 1 << 62):
        assert hash_rows([""], num_rows) == EMPTY_HASH * num_rows >> 64


def test_rows_are_in_range_and_depend_on_the_seed() -> None:
    keys = member_keys(10_000)
    rows = hash_rows(keys, 97)
    assert rows.dtype == np.int64
    assert set(rows) == set(range(97))
    np.testing.assert_array_equal(rows, hash_rows(np.array(keys), 97))
    assert np.mean(rows == hash_rows(keys, 97, seed=2**64 - 1)) < 0.05  # 1 / 97 by chance
    assert hash_rows([], 5).shape == (0,)


def test_two_hashes_are_the_hashes_of_two_seeds() -> None:
    keys = member_keys(100)
    rows = double_hash_rows(keys, 1000, seeds=(3, 9))
    np.testing.assert_array_equal(rows[:, 0], hash_rows(keys, 1000, seed=3))
    np.testing.assert_array_equal(rows[:, 1], hash_rows(keys, 1000, seed=9))
    assert double_hash_rows([], 5).shape == (0, 2)


@pytest.mark.parametrize(("num_quotients", "num_remainders"), [(1, 1), (3, 5), (1 << 31, 1 << 31)])
def test_quotient_and_remainder_split_the_hashed_id(
    num_quotients: int, num_remainders: int
) -> None:
    keys = member_keys(1000)
    rows = quotient_remainder_rows(keys, num_quotients, num_remainders, seed=4)
    ids = hash_rows(keys, num_quotients * num_remainders, seed=4)
    np.testing.assert_array_equal(rows[:, 0], ids // num_remainders)
    np.testing.assert_array_equal(rows[:, 1], ids % num_remainders)


def test_integers_are_hashed_as_their_bytes_and_split_as_they_are() -> None:
    ids = np.array([0, 1, 2**63 - 1, -5])
    want = hash_rows([int(i).to_bytes(8, "little", signed=True) for i in ids], 1000, seed=6)
    np.testing.assert_array_equal(hash_rows(ids, 1000, seed=6), want)
    small = np.arange(15, dtype=np.uint16)[::-1]
    rows = quotient_remainder_rows(small, 3, 5)
    np.testing.assert_array_equal(rows, np.stack([small // 5, small % 5], 1))
    assert len({tuple(row) for row in rows.tolist()}) == 15


@pytest.mark.parametrize("num_rows", [2, 3, 10])
@pytest.mark.parametrize("num_keys", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_expected_rate_equals_enumeration(method: Method, num_keys: int, num_rows: int) -> None:
    """Every way to hash a few keys, each as likely as the others, counted one by one."""
    quotients, remainders = split_rows(num_rows)
    cells = {
        "single": [(row,) for row in range(num_rows)],
        "double": [tuple(sorted(p)) for p in itertools.product(range(num_rows), repeat=2)],
        "quotient_remainder": list(itertools.product(range(quotients), range(remainders))),
    }[method]
    first_shares = [
        key_cells[0] in key_cells[1:] for key_cells in itertools.product(cells, repeat=num_keys)
    ]
    want = np.mean(first_shares)
    assert expected_collision_rate(method, num_keys, num_rows) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("num_rows", [300, 2_000, 30_000])
def test_measured_rates_agree_with_theory(num_rows: int) -> None:
    num_keys = 20_000
    rates = collision_rates(member_keys(num_keys), num_rows, seed=20_240_601)
    assert [rate.method for rate in rates] == list(METHODS)
    for rate in rates:
        p = rate.expected
        # Colliding keys come in pairs, which doubles the variance of a binomial count at most;
        # five standard deviations, and one pair where none is expected.
        margin = 5 * np.sqrt(2 * num_keys * p * (1 - p)) + 2
        assert abs(rate.measured - p) * num_keys <= margin


def test_more_combinations_collide_less() -> None:
    single, double, pairs = collision_rates(member_keys(50_000), 20_000)
    assert single.measured > 0.9
    assert double.measured < 0.001
    assert pairs.measured < 0.001


def test_rates_of_few_or_repeated_keys() -> None:
    assert [rate.measured for rate in collision_rates(["a"], 10)] == [0, 0, 0]
    assert [rate.measured for rate in collision_rates(["a", "a"], 10)] == [1, 1, 1]
    assert [rate.measured for rate in collision_rates([], 10)] == [0, 0, 0]
    assert [rate.measured for rate in collision_rates(np.arange(3), 2**31)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hash_rows(["a"], 0), ValueError, r"num_rows = 0 is not in 1\.\.2\^62"),
        (lambda: hash_rows(["a"], 2**62 + 1), ValueError, r"is not in 1\.\.2\^62"),
        (lambda: hash_rows(["a"], 5, seed=-1), ValueError, "seed = -1"),
        (lambda: hash_rows(["a"], 5, seed=1.5), TypeError, "float"),  # type: ignore[arg-type]
        (lambda: hash_rows(["a", None], 5), TypeError, r"keys\[1\]"),  # type: ignore[list-item]
        (lambda: hash_rows(np.zeros(3), 5), TypeError, "float64"),
        (lambda: hash_rows(np.zeros((2, 2), int), 5), ValueError, "keys must have 1 dim"),
        (lambda: hash_rows(np.array([2**63], np.uint64), 5), TypeError, "uint64"),
        (lambda: double_hash_rows(["a"], 5, seeds=(1, 1)), ValueError, "two different"),
        (lambda: quotient_remainder_rows(["a"], 0, 5), ValueError, "num_quotients = 0"),
        (lambda: quotient_remainder_rows(["a"], 5, 0), ValueError, "num_remainders = 0"),
        (lambda: quotient_remainder_rows(["a"], 2**32, 2**31), ValueError, r"above 2\^62"),
        (
            lambda: quotient_remainder_rows(np.array([3, 20]), 4, 5),
            IndexError,
            r"ids\[1\] = 20 is not in \[0, num_quotients \* num_remainders = 20\)",
        ),
        (lambda: split_rows(1), ValueError, "at least 2 rows; got 1"),
        (lambda: collision_rates(["a"], 1), ValueError, "num_rows = 1"),
        (lambda: expected_collision_rate("triple", 5, 5), ValueError, "'triple'"),  # type: ignore[arg-type]
        (lambda: expected_collision_rate("single", -1, 5), ValueError, "got -1"),
        (lambda: expected_collision_rate("single", 5, 0), ValueError, "got 0"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
