"""Leaf rows of a forest from xgboost's own leaf prediction."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

DELETED = 2**31 - 1  # the split index of a node that pruning took away


def leaf_rows(booster: Any, data: Any) -> NDArray[np.int64]:
    """`pred_leaf`, the leaves of all trees numbered from 0 in the order of node ids.

    Args:
        booster: The `xgboost.Booster`.
        data: Its `xgboost.DMatrix`.

    Returns:
        [rows, trees].
    """
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    gradient_booster = learner["gradient_booster"]
    trees = gradient_booster.get("gbtree", gradient_booster)["model"]["trees"]
    nodes = booster.predict(data, pred_leaf=True).astype(np.int64)
    nodes = nodes.reshape(nodes.shape[0], -1)
    rows = np.empty((nodes.shape[0], len(trees)), dtype=np.int64)
    offset = 0
    for column, tree in enumerate(trees):
        left = np.array(tree["left_children"])
        leaves = np.flatnonzero((left == -1) & (np.array(tree["split_indices"]) != DELETED))
        ordinal = np.full(left.size, -1)
        ordinal[leaves] = np.arange(leaves.size)
        rows[:, column] = offset + ordinal[nodes[:, column]]
        offset += leaves.size
    return rows
