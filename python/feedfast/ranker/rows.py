"""Which rows a ranker learns from, and what their viewers did before."""

from __future__ import annotations

from feedfast.config import RankerConfig
from feedfast.data import (
    Dataset,
    History,
    ImpressionLog,
    Split,
    derive_history,
    split_by_time,
    split_random,
)


def history_of(dataset: Dataset, config: RankerConfig) -> History:
    """What each viewer engaged with before each impression, as long as the config allows."""
    return derive_history(
        dataset.log,
        engaged=dataset.engaged(),
        max_members=config.history.max_members,
        max_hashtags=config.history.max_hashtags,
    )


def split_rows(log: ImpressionLog, config: RankerConfig) -> Split:
    """Training and test rows of a config.

    Raises:
        ValueError: One of the two sets is empty.
    """
    return split_log(log, config, fraction=config.split.test_fraction)


def split_log(log: ImpressionLog, config: RankerConfig, *, fraction: float) -> Split:
    """Two sets of rows by the kind of split of a config; the second has about `fraction` of them.

    Raises:
        ValueError: One of the two sets is empty.
    """
    if config.split.kind == "member_time":
        split = split_by_time(log, test_fraction=fraction)
    else:
        split = split_random(log, test_fraction=fraction, seed=config.seed)
    for name, rows in (("train", split.train), ("test", split.test)):
        if len(rows) == 0:
            raise ValueError(
                f"split {config.split.kind} of {log.num_rows} rows at {fraction} leaves no row to "
                f"{name}"
            )
    return split
