"""How a log is divided into rows to learn from and rows to test on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feedfast.data.keys import key_codes
from feedfast.data.log import ImpressionLog
from feedfast.data.point_in_time import Timeline


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """Two sets of rows that share none and together are the log; both [.] int64, ascending."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def split_by_time(log: ImpressionLog, *, test_fraction: float = 0.2) -> Split:
    """The last part of each viewer's events by time is for testing.

    A viewer's events with one timestamp stay together, on the side where the middle of the group
    falls, so that every training row of a viewer is strictly earlier than every test row. A viewer
    whose events all have one time has no test row when the fraction is below one half.

    Args:
        log: Needs no order.
        test_fraction: In (0, 1), of each viewer's events, rounded to whole groups.

    Raises:
        ValueError: `test_fraction` is outside (0, 1).
    """
    _check_fraction(test_fraction)
    codes = key_codes(log.viewer)
    timeline = Timeline.build(codes, log.timestamp)
    group_size = timeline.to_row_order(
        np.bincount(timeline.group, minlength=log.num_rows)[timeline.group]
    )
    middle = timeline.count_before() + 0.5 * group_size
    return _split(middle >= (1.0 - test_fraction) * np.bincount(codes)[codes])


def split_random(log: ImpressionLog, *, test_fraction: float = 0.2, seed: int = 0) -> Split:
    """A uniformly random set of round(test_fraction * rows) rows is for testing; the same seed
    gives the same rows.

    Raises:
        ValueError: `test_fraction` is outside (0, 1).
    """
    _check_fraction(test_fraction)
    is_test = np.zeros(log.num_rows, dtype=bool)
    num_test = round(test_fraction * log.num_rows)
    is_test[np.random.default_rng(seed).permutation(log.num_rows)[:num_test]] = True
    return _split(is_test)


def _split(is_test: NDArray[np.bool_]) -> Split:
    return Split(train=np.flatnonzero(~is_test), test=np.flatnonzero(is_test))


def _check_fraction(test_fraction: float) -> None:
    if not 0.0 < test_fraction < 1.0:
        raise ValueError(f"test_fraction must be in (0, 1); got {test_fraction}")
