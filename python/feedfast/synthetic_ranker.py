"""Rankers with random weights and requests for them: what a request costs before any training."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from feedfast.config import CrossConfig, HistoryConfig, RankerConfig
from feedfast.cross_network import CrossWeights
from feedfast.gated_mlp import GatedLayer
from feedfast.input_layout import InputLayout
from feedfast.objectives import Objective, Utility
from feedfast.ranker_artifact import RankerArtifact
from feedfast.ranker_description import RankerDescription, tower_objectives
from feedfast.request import Request
from feedfast.store import OpenedModel
from feedfast.trees import LeafEncoder
from feedfast.vocab import Vocabulary

__all__ = [
    "RankerShape",
    "random_artifact",
    "random_cross",
    "random_forest",
    "random_request",
    "random_towers",
    "zipf_ranks",
]

_MAX_HASHTAGS = 5
_MISSING = 0.1
# XGBoost's mark of a root.
_NO_PARENT = 2147483647


@dataclass(frozen=True, kw_only=True, slots=True)
class RankerShape:
    """What the time of a request depends on, beside its candidates.

    Attributes:
        num_members: Keys of the member vocabulary.
        num_hashtags: Keys of the hashtag vocabulary.
        layout: Columns of the towers' input.
        num_trees: Trees of the forest.
        depth: Depth of every tree, which is full.
        units: Width of each hidden layer of a tower, the first nearest to the input; all towers
            have the same.
        gate: Of every hidden layer.
        gate_rank: Rank of a factored gate matrix; None: a full one.
        utility: Objectives; they decide which towers there are.
        history: Length of a viewer's histories.
        cross: Cross network before the towers; None: none.
    """

    num_members: int
    num_hashtags: int
    layout: InputLayout
    num_trees: int
    depth: int
    units: tuple[int, ...]
    gate: Literal["hidden", "input"] | None
    gate_rank: int | None
    utility: Utility
    history: HistoryConfig
    cross: CrossConfig | None = None

    @classmethod
    def from_config(
        cls,
        config: RankerConfig,
        *,
        num_members: int,
        num_hashtags: int,
        num_shared: int,
        num_dense: int,
        num_objectives: int,
    ) -> RankerShape:
        """The shape of what `config` would train; its objectives are half passive, half active.

        The active tower is taken to be as wide as the passive one.

        Raises:
            ValueError: A count is too small.
        """
        for name, count, least in (
            ("num_members", num_members, 1),
            ("num_hashtags", num_hashtags, 1),
            ("num_shared", num_shared, 0),
            ("num_dense", num_dense, 1),
            ("num_objectives", num_objectives, 1),
        ):
            if count < least:
                raise ValueError(f"{name} must be >= {least}; got {count}")
        groups = ("passive", "active") * num_objectives
        objectives = tuple(
            Objective(f"{group}{i}", group)  # type: ignore[arg-type]
            for i, group in enumerate(groups[:num_objectives])
        )
        gate = config.passive.gate
        return cls(
            num_members=num_members,
            num_hashtags=num_hashtags,
            layout=InputLayout(
                member_dim=config.member.dim,
                hashtag_dim=config.hashtag.dim,
                leaf_dim=config.forest.leaf_dim,
                num_shared=num_shared,
                num_dense=num_dense,
            ),
            num_trees=config.forest.num_trees,
            depth=config.forest.max_depth,
            units=config.passive.units,
            gate=None if gate == "none" else gate,
            gate_rank=config.passive.gate_rank,
            utility=Utility(objectives=objectives, weights=(1.0,) * num_objectives),
            history=config.history,
            cross=config.cross,
        )

    @classmethod
    def from_model(cls, opened: OpenedModel) -> RankerShape:
        """The shape of a ranker in a store; units and gate are those of its first tower.

        Raises:
            ValueError: The model is not a ranker.
        """
        description = RankerDescription.from_json(opened.description)
        tower, layers = next(iter(description.towers.items()))
        weights = opened.tensors("towers")
        units = [weights[f"{tower}/{i}/weight"].shape[1] for i in range(len(layers) - 1)]
        gate = layers[0].gate if units else "none"
        down = weights.get(f"{tower}/0/gate_down")
        forest = LeafEncoder.from_bytes(opened.image("forest", layout="forest").tobytes())
        cross = description.cross
        leaves_per_tree = max(forest.num_leaves / forest.num_trees, 2.0)
        return cls(
            num_members=opened.section("member_table", "table").shape[0] - 1,
            num_hashtags=opened.section("hashtag_table", "table").shape[0] - 1,
            layout=description.layout,
            num_trees=forest.num_trees,
            depth=math.ceil(math.log2(leaves_per_tree)),
            units=tuple(units),
            gate=None if gate == "none" else gate,  # type: ignore[arg-type]
            gate_rank=None if down is None else down.shape[1],
            utility=description.utility,
            history=description.history,
            cross=None if cross is None else CrossConfig(layers=cross.num_layers, rank=cross.rank),
        )

    def without_ids(self) -> RankerShape:
        """The same ranker on leaves and float features alone.

        The tables keep one row and one column, which nothing looks up but as unknown.
        """
        return dataclasses.replace(
            self,
            num_members=0,
            num_hashtags=0,
            layout=dataclasses.replace(self.layout, member_dim=1, hashtag_dim=1),
            history=HistoryConfig(max_members=0, max_hashtags=0),
        )


def random_artifact(shape: RankerShape, seed: int = 0) -> RankerArtifact:
    """A ranker of a shape with random weights; its keys are `member:<i>` and `hashtag:<i>`."""
    rng = np.random.default_rng(seed)
    layout = shape.layout
    members = Vocabulary.build([f"member:{i}" for i in range(shape.num_members)])
    hashtags = Vocabulary.build([f"hashtag:{i}" for i in range(shape.num_hashtags)])
    num_features = layout.num_shared + layout.num_dense
    forest = random_forest(
        rng, num_trees=shape.num_trees, num_features=num_features, depth=shape.depth
    )

    def table(rows: int, dim: int) -> NDArray[np.float32]:
        return rng.standard_normal((rows, dim), dtype=np.float32)

    return RankerArtifact(
        member_vocabulary=members,
        hashtag_vocabulary=hashtags,
        member_table=table(members.num_rows, layout.member_dim),
        hashtag_table=table(hashtags.num_rows, layout.hashtag_dim),
        leaf_table=table(forest.num_leaves, layout.leaf_dim),
        forest=forest,
        shared_names=tuple(f"shared{i}" for i in range(layout.num_shared)),
        dense_names=tuple(f"dense{i}" for i in range(layout.num_dense)),
        history=shape.history,
        mean=np.zeros(num_features, np.float32),
        inv_std=np.ones(num_features, np.float32),
        towers=random_towers(rng, shape),
        utility=shape.utility,
        cross=() if shape.cross is None else random_cross(rng, layout.num_inputs, shape.cross),
    )


def random_towers(
    rng: np.random.Generator, shape: RankerShape
) -> dict[str, tuple[GatedLayer, ...]]:
    """Towers of `shape.units` and their heads, scaled so that activations keep their size."""

    def weights(rows: int, columns: int) -> NDArray[np.float32]:
        return rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(math.sqrt(rows))

    def tower(outputs: int) -> tuple[GatedLayer, ...]:
        layers, width = [], shape.layout.num_inputs
        for units in shape.units:
            zeros = np.zeros(units, np.float32)
            weight, gated = weights(width, units), units if shape.gate == "hidden" else width
            if shape.gate is None:
                layers.append(GatedLayer(weight, zeros))
            elif shape.gate_rank is None:
                layers.append(GatedLayer(weight, zeros, weights(gated, units), zeros, shape.gate))
            else:
                rank = shape.gate_rank
                factors = weights(gated, rank), weights(rank, units)
                layers.append(GatedLayer(weight, zeros, factors, zeros, shape.gate))
            width = units
        head = weights(width, outputs)
        return (*layers, GatedLayer(head, np.zeros(outputs, np.float32), activation="linear"))

    return {name: tower(len(names)) for name, names in tower_objectives(shape.utility).items()}


def random_cross(
    rng: np.random.Generator, size: int, cross: CrossConfig
) -> tuple[CrossWeights, ...]:
    """The layers of a cross network over `size` inputs, scaled so that they keep their size."""

    def normal(scale: float, *shape: int) -> NDArray[np.float32]:
        return np.float32(scale) * rng.standard_normal(shape, dtype=np.float32)

    def layer() -> CrossWeights:
        rows = size if cross.rank is None else cross.rank
        down = None if cross.rank is None else normal(size**-0.5, size, cross.rank)
        return CrossWeights(normal(0.1 * rows**-0.5, rows, size), normal(0.1, size), down)

    return tuple(layer() for _ in range(cross.layers))


def random_request(rng: np.random.Generator, shape: RankerShape, candidates: int) -> Request:
    """A request whose ids are drawn with Zipf exponent 1.05; a tenth of the features is missing."""

    def keys(kind: str, known: int, count: int) -> list[str]:
        # Neighbouring ranks are not neighbouring keys.
        return [f"{kind}:{rank * 2_654_435_761 % known}" for rank in zipf_ranks(rng, known, count)]

    def features(*size: int) -> NDArray[np.float32]:
        x = rng.standard_normal(size, dtype=np.float32)
        x[rng.random(size) < _MISSING] = np.nan
        return x

    layout = shape.layout
    members, hashtags = shape.num_members, shape.num_hashtags
    lengths = rng.integers(0, _MAX_HASHTAGS + 1, candidates)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Request(
        viewer=keys("member", members, 1)[0] if members else None,
        history_members=keys("member", members, shape.history.max_members) if members else None,
        history_hashtags=(
            keys("hashtag", hashtags, shape.history.max_hashtags) if hashtags else None
        ),
        shared=features(layout.num_shared),
        item=[f"item:{i}" for i in range(candidates)],
        actor=keys("member", members, candidates) if members else None,
        root_actor=keys("member", members, candidates) if members else None,
        hashtags=(keys("hashtag", hashtags, int(offsets[-1])), offsets) if hashtags else None,
        dense=features(candidates, layout.num_dense),
    )


def zipf_ranks(rng: np.random.Generator, num_keys: int, count: int) -> list[int]:
    """`count` ranks in [1, num_keys], P(rank) ~ rank ** -1.05."""
    ranks = np.zeros(0, np.int64)
    while len(ranks) < count:
        drawn = rng.zipf(1.05, 2 * count + 16)
        ranks = np.concatenate([ranks, drawn[(drawn > 0) & (drawn <= num_keys)]])
    return ranks[:count].tolist()  # type: ignore[no-any-return]


def random_forest(
    rng: np.random.Generator, *, num_trees: int, num_features: int, depth: int
) -> LeafEncoder:
    """Full trees with random splits, through the file that XGBoost would have saved."""
    trees = [_random_tree(rng, num_features, depth) | {"id": i} for i in range(num_trees)]
    parameters = {"num_parallel_tree": "1", "num_trees": str(num_trees)}
    model = {
        "learner": {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": {
                "model": {
                    "gbtree_model_param": parameters,
                    "iteration_indptr": list(range(num_trees + 1)),
                    "tree_info": [0] * num_trees,
                    "trees": trees,
                },
                "name": "gbtree",
            },
            "learner_model_param": {
                "base_score": "5E-1",
                "boost_from_average": "1",
                "num_class": "0",
                "num_feature": str(num_features),
                "num_target": "1",
            },
            "objective": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
        },
        "version": [3, 2, 0],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "forest.json"
        path.write_text(json.dumps(model))
        return LeafEncoder.from_xgboost(path)


def _random_tree(rng: np.random.Generator, num_features: int, depth: int) -> dict[str, Any]:
    """A full binary tree in XGBoost's JSON form."""
    inner, nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    children = np.arange(nodes)
    left = np.where(children < inner, 2 * children + 1, -1)
    return {
        "base_weights": [0.0] * nodes,
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": rng.integers(0, 2, nodes).tolist(),
        "left_children": left.tolist(),
        "loss_changes": [0.0] * nodes,
        "parents": np.where(children == 0, _NO_PARENT, (children - 1) // 2).tolist(),
        "right_children": np.where(left < 0, -1, left + 1).tolist(),
        "split_conditions": np.round(rng.normal(size=nodes), 2).tolist(),
        "split_indices": rng.integers(0, num_features, nodes).tolist(),
        "split_type": [0] * nodes,
        "sum_hessian": [0.0] * nodes,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(num_features),
            "num_nodes": str(nodes),
            "size_leaf_vector": "1",
        },
    }
