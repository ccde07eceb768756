"""A ranker with random weights, and random requests for it; needs numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.calibration import Calibrator
from feedfast.config import CrossConfig, HistoryConfig
from feedfast.gated_mlp import GatedLayer
from feedfast.input_layout import InputLayout
from feedfast.objectives import Objective, Utility
from feedfast.random_effects import RandomEffects
from feedfast.ranker_artifact import RankerArtifact
from feedfast.ranker_description import tower_objectives
from feedfast.request import Request
from feedfast.synthetic_ranker import random_cross, random_forest
from feedfast.vocab import Vocabulary

OBJECTIVES = (
    Objective("click", "passive"),
    Objective("like", "active"),
    Objective("dwell", "passive"),
    Objective("creator", "other"),
    Objective("share", "active"),
)


def random_tower(
    rng: np.random.Generator, num_inputs: int, units: tuple[int, ...], gate: Any, outputs: int
) -> tuple[GatedLayer, ...]:
    def weights(rows: int, columns: int) -> NDArray[np.float32]:
        scale = 1 / np.sqrt(rows)
        return (scale * rng.standard_normal((rows, columns))).astype(np.float32)

    def bias(columns: int) -> NDArray[np.float32]:
        return (0.1 * rng.standard_normal(columns)).astype(np.float32)

    layers = []
    for width in units:
        gate_weight: Any = None
        if gate == "low_rank":
            gate_weight = (weights(width, 3), weights(3, width))
        elif gate is not None:
            gate_weight = weights(width if gate == "hidden" else num_inputs, width)
        layers.append(
            GatedLayer(
                weights(num_inputs, width),
                bias(width),
                gate_weight,
                None if gate is None else bias(width),
                "hidden" if gate == "low_rank" else gate,
            )
        )
        num_inputs = width
    head = GatedLayer(weights(num_inputs, outputs), bias(outputs), activation="linear")
    return (*layers, head)


def synthetic_ranker(
    seed: int = 0,
    *,
    num_members: int = 300,
    num_hashtags: int = 50,
    member_dim: int = 9,
    hashtag_dim: int = 5,
    leaf_dim: int = 4,
    num_shared: int = 3,
    num_dense: int = 7,
    num_trees: int = 12,
    depth: int = 3,
    units: tuple[int, ...] = (24, 10),
    objectives: tuple[Objective, ...] = OBJECTIVES,
    gates: Mapping[str, Any] | None = None,
    calibrated: bool = False,
    with_effects: bool = False,
    cross: CrossConfig | None = None,
) -> RankerArtifact:
    """A ranker whose keys are `member:<i>`, `tag:<i>` and, for random effects, `item:<i>`."""
    rng = np.random.default_rng(seed)
    members = Vocabulary.build([f"member:{i}" for i in range(num_members)], threads=1)
    hashtags = Vocabulary.build([f"tag:{i}" for i in range(num_hashtags)], threads=1)
    num_features = num_shared + num_dense
    forest = random_forest(rng, num_trees=num_trees, num_features=num_features, depth=depth)
    layout = InputLayout(
        member_dim=member_dim,
        hashtag_dim=hashtag_dim,
        leaf_dim=leaf_dim,
        num_shared=num_shared,
        num_dense=num_dense,
    )
    utility = Utility(
        objectives=objectives,
        weights=tuple(float(w) for w in rng.uniform(0.5, 30, len(objectives))),
        alpha=0.4,
        other_weight=0.7,
    )
    gates = gates or {"passive": "hidden", "active": "input"}
    calibrators = {}
    if calibrated:
        for objective in objectives[::2]:
            x = np.unique(rng.random(9).astype(np.float32))
            y = np.sort(rng.random(x.size).astype(np.float32))
            calibrators[objective.name] = Calibrator(x, y)
    effects = None
    if with_effects:
        items = Vocabulary.build([f"item:{i}" for i in range(40)], threads=1)
        coefficients = rng.standard_normal((items.num_rows, len(objectives))).astype(np.float32)
        coefficients[0] = 0
        effects = RandomEffects(vocabulary=items, coefficients=coefficients, version=3)

    def table(rows: int, dim: int) -> NDArray[np.float32]:
        return rng.standard_normal((rows, dim), dtype=np.float32)

    return RankerArtifact(
        member_vocabulary=members,
        hashtag_vocabulary=hashtags,
        member_table=table(members.num_rows, member_dim),
        hashtag_table=table(hashtags.num_rows, hashtag_dim),
        leaf_table=table(forest.num_leaves, leaf_dim),
        forest=forest,
        shared_names=tuple(f"s{i}" for i in range(num_shared)),
        dense_names=tuple(f"d{i}" for i in range(num_dense)),
        history=HistoryConfig(),
        mean=rng.standard_normal(num_features, dtype=np.float32),
        inv_std=rng.uniform(0.5, 2, num_features).astype(np.float32),
        towers={
            tower: random_tower(rng, layout.num_inputs, units, gates[tower], len(names))
            for tower, names in tower_objectives(utility).items()
        },
        utility=utility,
        calibrators=calibrators,
        random_effects=effects,
        cross=() if cross is None else random_cross(rng, layout.num_inputs, cross),
    )


def random_request(
    rng: np.random.Generator, artifact: RankerArtifact, candidates: int, *, history: int = 6
) -> Request:
    """Known, unknown, empty and repeated keys; empty bags; missing and extreme features."""
    num_members, num_hashtags = len(artifact.member_vocabulary), len(artifact.hashtag_vocabulary)

    def keys(prefix: str, known: int, count: int) -> list[str | bytes]:
        chosen: list[str | bytes] = [
            f"{prefix}:{i}" for i in rng.integers(0, known + known // 8 + 1, count)
        ]
        for i in np.flatnonzero(rng.random(count) < 0.03):
            chosen[i] = rng.choice([b"", b"\xff\xfe", b"\0" * 3])
        return chosen

    def features(*shape: int) -> NDArray[np.float32]:
        values = rng.standard_normal(shape, dtype=np.float32)
        kind = rng.random(shape)
        values[kind < 0.1] = np.nan
        values[kind > 0.97] *= 1e6
        return values

    lengths = rng.integers(0, 4, candidates)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    actors = keys("member", num_members, candidates)
    reshared = rng.random(candidates) < 0.3
    originals = keys("member", num_members, candidates)
    return Request(
        viewer=keys("member", num_members, 1)[0],
        history_members=keys("member", num_members, int(rng.integers(0, history + 1))),
        history_hashtags=keys("tag", num_hashtags, int(rng.integers(0, history + 1))),
        shared=features(len(artifact.shared_names)),
        item=keys("item", 40, candidates),
        actor=actors,
        root_actor=[o if r else a for a, o, r in zip(actors, originals, reshared, strict=True)],
        hashtags=(keys("tag", num_hashtags, int(offsets[-1])), offsets),
        dense=features(candidates, len(artifact.dense_names)),
    )
