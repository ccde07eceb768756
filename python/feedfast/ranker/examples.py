"""Rows of a log as the ranker's inputs: table rows, leaves and scaled features; numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


class RowBags(NamedTuple):
    """Bags of table rows: values [nnz] int64, offsets [bags + 1] int64 with offsets[0] = 0."""

    values: IntArray
    offsets: IntArray

    def take(self, indices: IntArray) -> RowBags:
        """The bags at `indices`, in that order. The caller has checked the range."""
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        offsets = np.zeros(len(indices) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        places = np.arange(offsets[-1], dtype=np.int64)
        places += np.repeat(starts - offsets[:-1], lengths)
        return RowBags(self.values[places], offsets)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Examples:
    """Model inputs of n impressions.

    Attributes:
        viewer, actor, root_actor: [n] int64 rows of the member table.
        history_members: [n] bags of rows of the member table, newest first.
        history_hashtags, hashtags: [n] bags of rows of the hashtag table.
        leaves: [n, trees] int32 rows of the leaf table.
        shared: [n, S] float32, scaled.
        dense: [n, F] float32, scaled.
    """

    viewer: IntArray
    actor: IntArray
    root_actor: IntArray
    history_members: RowBags
    history_hashtags: RowBags
    hashtags: RowBags
    leaves: NDArray[np.int32]
    shared: FloatArray
    dense: FloatArray

    def __len__(self) -> int:
        return len(self.viewer)

    def take(self, indices: IntArray) -> Examples:
        """The examples at `indices`, in that order; repeats are allowed.

        Args:
            indices: [m] int64 in [0, n); the caller has checked them.
        """
        return Examples(
            viewer=self.viewer[indices],
            actor=self.actor[indices],
            root_actor=self.root_actor[indices],
            history_members=self.history_members.take(indices),
            history_hashtags=self.history_hashtags.take(indices),
            hashtags=self.hashtags.take(indices),
            leaves=self.leaves[indices],
            shared=self.shared[indices],
            dense=self.dense[indices],
        )
