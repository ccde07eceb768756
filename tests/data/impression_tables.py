"""Small impression tables for the tests of feedfast.data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def impression_table(num_rows: int = 6, seed: int = 20_240_601, **replaced: Any) -> pa.Table:
    """A valid table with random content.

    `replaced` gives whole columns instead, `a__b` for column `a.b`; None leaves the column out.
    """
    rng = np.random.default_rng(seed)
    members = [f"member:{i}" for i in range(5)]
    propensity = rng.uniform(0.01, 1.0, num_rows)
    num_tags = rng.integers(0, 4, num_rows)
    tags = [[f"hashtag:{t}" for t in rng.integers(0, 6, count)] for count in num_tags]
    columns: dict[str, Any] = {
        "request_id": [f"request:{i // 3}" for i in range(num_rows)],
        "timestamp": pa.array(rng.integers(0, 20, num_rows) * 1_000, pa.timestamp("ms")),
        "viewer": rng.choice(members, num_rows).tolist(),
        "item": [f"post:{i}" for i in rng.integers(0, 9, num_rows)],
        "actor": rng.choice(members, num_rows).tolist(),
        "root_actor": rng.choice(members, num_rows).tolist(),
        "hashtags": pa.array(tags, pa.list_(pa.string())),
        "position": pa.array(rng.integers(0, 10, num_rows), pa.int32()),
        "policy": rng.choice(["random", "model"], num_rows).tolist(),
        "propensity": pa.array(propensity, pa.float32(), mask=propensity < 0.2),
        "shared.age": pa.array(rng.normal(size=num_rows), pa.float32()),
        "dense.likes": pa.array(rng.normal(size=num_rows), pa.float32(), mask=propensity > 0.8),
        "dense.age": pa.array(rng.normal(size=num_rows), pa.float64()),
        "label.click": pa.array(rng.integers(0, 2, num_rows), pa.int8()),
        "label.vote": pa.array(rng.integers(0, 2, num_rows), pa.float32(), mask=propensity < 0.5),
    }
    for name in ("request_id", "viewer", "item", "actor", "root_actor", "policy"):
        columns[name] = pa.array(columns[name], pa.string())
    columns.update({name.replace("__", "."): column for name, column in replaced.items()})
    return pa.table({name: column for name, column in columns.items() if column is not None})
