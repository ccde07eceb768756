"""The ranker and the requests of `feedfast bench request`, seeded; what both sides score.

1 M members, 200 k hashtags, dim 64, 100 trees of depth 6 over 64 features, two hidden-gate towers
of 512-256-128, 8 heads. A request has 50 + 20 history ids, and each candidate 0 to 5 hashtags; ids
are drawn with Zipf exponent 1.05. Needs no TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast import LeafEncoder, Request, Vocabulary
from feedfast.config import HistoryConfig
from feedfast.gated_mlp import GatedLayer
from feedfast.input_layout import InputLayout
from feedfast.objectives import Objective, Utility
from feedfast.ranker_artifact import RankerArtifact
from feedfast.ranker_description import tower_objectives
from feedfast.synthetic_ranker import zipf_ranks
from feedfast.trees import train_forest

DIM = 64
LEAF_DIM = 16
NUM_SHARED, NUM_DENSE = 16, 48
NUM_TREES = 100
UNITS = (512, 256, 128)
HISTORY_MEMBERS, HISTORY_HASHTAGS = 50, 20
MAX_HASHTAGS = 5

EIGHT_HEADS = {"passive": 4, "active": 4}


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Model:
    """A ranker with random weights, the keys it knows and the booster behind its forest."""

    members: list[str]
    hashtags: list[str]
    booster: Any
    artifact: RankerArtifact


def build(*, threads: int, quick: bool = False) -> Model:
    """The model of the workload; `quick` has few keys."""
    rng = np.random.default_rng(0)
    members = [f"urn:li:member:{i}" for i in range(20_000 if quick else 1_000_000)]
    hashtags = [f"urn:li:hashtag:{i}" for i in range(5_000 if quick else 200_000)]
    booster = _forest(rng, threads)
    forest = LeafEncoder.from_xgboost(booster)
    utility = make_utility(EIGHT_HEADS)
    member_vocabulary = Vocabulary.build(members, threads=threads)
    hashtag_vocabulary = Vocabulary.build(hashtags, threads=threads)
    features = NUM_SHARED + NUM_DENSE
    artifact = RankerArtifact(
        member_vocabulary=member_vocabulary,
        hashtag_vocabulary=hashtag_vocabulary,
        member_table=rng.standard_normal((member_vocabulary.num_rows, DIM), dtype=np.float32),
        hashtag_table=rng.standard_normal((hashtag_vocabulary.num_rows, DIM), dtype=np.float32),
        leaf_table=rng.standard_normal((forest.num_leaves, LEAF_DIM), dtype=np.float32),
        forest=forest,
        shared_names=tuple(f"shared{i}" for i in range(NUM_SHARED)),
        dense_names=tuple(f"dense{i}" for i in range(NUM_DENSE)),
        history=HistoryConfig(max_members=HISTORY_MEMBERS, max_hashtags=HISTORY_HASHTAGS),
        mean=np.zeros(features, np.float32),
        inv_std=np.ones(features, np.float32),
        towers=make_towers(rng, make_layout().num_inputs, utility),
        utility=utility,
    )
    return Model(members=members, hashtags=hashtags, booster=booster, artifact=artifact)


def make_layout() -> InputLayout:
    return InputLayout(
        member_dim=DIM,
        hashtag_dim=DIM,
        leaf_dim=LEAF_DIM,
        num_shared=NUM_SHARED,
        num_dense=NUM_DENSE,
    )


def make_utility(heads: dict[str, int]) -> Utility:
    """Objectives of each tower."""
    objectives = tuple(
        Objective(f"{group}{i}", group) for group, count in heads.items() for i in range(count)
    )
    weights = tuple(float(1 + 2 * (i % 4)) for i in range(len(objectives)))
    return Utility(objectives=objectives, weights=weights)


def make_towers(
    rng: np.random.Generator, num_inputs: int, utility: Utility
) -> dict[str, tuple[GatedLayer, ...]]:
    def weights(*shape: int) -> NDArray[np.float32]:
        scale = np.float32(1 / np.sqrt(shape[0]))
        return scale * rng.standard_normal(shape, dtype=np.float32)

    def tower(outputs: int) -> tuple[GatedLayer, ...]:
        layers, width = [], num_inputs
        for units in UNITS:
            zeros = np.zeros(units, np.float32)
            layers.append(
                GatedLayer(weights(width, units), zeros, weights(units, units), zeros, "hidden")
            )
            width = units
        bias = np.zeros(outputs, np.float32)
        return (*layers, GatedLayer(weights(width, outputs), bias, activation="linear"))

    return {name: tower(len(names)) for name, names in tower_objectives(utility).items()}


def make_request(rng: np.random.Generator, model: Model, candidates: int) -> Request:
    members, hashtags = model.members, model.hashtags
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, MAX_HASHTAGS + 1, candidates))])
    return Request(
        viewer=zipf(rng, members, 1)[0],
        history_members=zipf(rng, members, HISTORY_MEMBERS),
        history_hashtags=zipf(rng, hashtags, HISTORY_HASHTAGS),
        shared=rng.standard_normal(NUM_SHARED, dtype=np.float32),
        item=[f"urn:li:activity:{i}" for i in range(candidates)],
        actor=zipf(rng, members, candidates),
        root_actor=zipf(rng, members, candidates),
        hashtags=(zipf(rng, hashtags, int(offsets[-1])), offsets),
        dense=_with_missing(rng, (candidates, NUM_DENSE)),
    )


def zipf(rng: np.random.Generator, keys: list[str], count: int) -> list[str]:
    """Keys by rank; neighbouring ranks are not neighbouring rows."""
    ranks = zipf_ranks(rng, len(keys), count)
    return [keys[(rank * 2_654_435_761) % len(keys)] for rank in ranks]


def _with_missing(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    x = rng.standard_normal(shape, dtype=np.float32)
    x[rng.random(shape) < 0.1] = np.nan
    return x


def _forest(rng: np.random.Generator, threads: int) -> Any:
    x = _with_missing(rng, (5_000, NUM_SHARED + NUM_DENSE))
    clicked = np.nan_to_num(x[:, :8]).sum(axis=1) > 0
    booster = train_forest(x, clicked, num_trees=NUM_TREES, threads=threads)
    booster.set_param({"nthread": threads})
    return booster
