"""The ranker as a Keras model: shared ID tables, leaves, two towers of gated layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from feedfast.comm import Engine
from feedfast.config import CrossConfig, RankerConfig, TowerConfig
from feedfast.objectives import Objective
from feedfast.ranker.examples import Examples, RowBags
from feedfast.ranker.features import Sizes
from feedfast.ranker.input_scaling import InputScaling
from feedfast.ranker.trained import FeedRanker
from feedfast.ranker_precision import TABLES
from feedfast.sharded_tables import Normal, RowOptimization, TableSpec
from feedfast.sharded_tables.initializers import fill
from feedfast.sharding import ShardingPlan
from feedfast.tf import layers
from feedfast.tf.distributed import ShardedEmbedding
from feedfast.tf.optimizers import RowOptimizer

# Normal deviation of new table rows: small against the scaled features, so that rare ids start out
# near the OOV row.
_TABLE_STDDEV = 0.05


def tower_of(objective: Objective) -> str:
    """The tower that predicts the objective: `active` for the group `other` too."""
    return "passive" if objective.group == "passive" else "active"


@dataclass(frozen=True, eq=False, slots=True)
class DividedTables:
    """Divides the tables of a model between the processes that train it.

    Attributes:
        plan: Where their parts live.
        engine: Of these processes.
        optimizer: Of the tables, whose rate may be changed at any time.
    """

    plan: ShardingPlan
    engine: Engine
    optimizer: RowOptimizer


class RankerModel(keras.Model):  # type: ignore[misc]
    """One logit per objective of each example.

    Input vector of both towers, viewer part first, as in the model store:

        viewer | mean of history members | mean of history hashtags | shared |
        actor | root actor | mean of hashtags | leaves / sqrt(trees) | dense

    Viewer, actors and history members share one table, all hashtags another. Embedding inputs among
    shared and dense are batch-normalised, or projected and moved to the end of their part
    (`InputScaling`). A cross network, if configured, comes next. Each tower is its gated layers and
    one linear head layer; a tower without objectives is left out.

    Attributes:
        tables: The layers of the tables by name; empty where processes divide them.
        sharded: The tables that processes divide; None where they are whole. Every call of the
            model is then an exchange between all of them.
        table_specs: What they are, in the order of `TABLES`.
        table_optimizer: Of tables that processes divide.
    """

    def __init__(
        self,
        config: RankerConfig,
        sizes: Sizes,
        objectives: Sequence[Objective],
        base_rates: NDArray[np.float64],
        divided: DividedTables | None = None,
    ) -> None:
        """Makes the layers and all their weights, the same however tables are divided.

        Args:
            config: Dims, units, gates and the seed of the initial weights.
            sizes: What the data decides.
            objectives: At least one, in the order of the logits.
            base_rates: [objectives], rates that the heads start from.
            divided: Of the tables; None: this process has them whole. Collective otherwise.
        """
        super().__init__(name="ranker")
        self.sizes = sizes
        self.num_objectives = len(objectives)
        self._columns = tuple(
            [i for i, o in enumerate(objectives) if tower_of(o) == name]
            for name in ("passive", "active")
        )
        seeds = iter(np.random.SeedSequence(config.seed).generate_state(64).tolist())
        specs = table_specs(config, sizes, seeds)
        self.table_specs = specs
        self.sharded: ShardedEmbedding | None = None
        self.table_optimizer = None if divided is None else divided.optimizer
        self.tables: dict[str, layers.PooledEmbedding] = {}
        if divided is None:
            self.tables = {
                spec.name: layers.PooledEmbedding(
                    spec.rows,
                    spec.dim,
                    pooling=spec.pooling,
                    embeddings_initializer=_FirstRows(spec),
                    name=spec.name.removesuffix("_table"),
                )
                for spec in specs
            }
        else:
            self.sharded = ShardedEmbedding(
                [replace(spec, optimizer=divided.optimizer) for spec in specs],
                plan=divided.plan,
                engine=divided.engine,
                name="tables",
            )
        self._scaling = {
            part: InputScaling(part, width, sizes.embedding_inputs, seeds)
            for part, width in (("shared", sizes.num_shared), ("dense", sizes.num_dense))
            if any(e.part == part for e in sizes.embedding_inputs)
        }
        self.cross = [] if config.cross is None else list(_cross_layers(config.cross, seeds))
        self.towers = [
            _Tower(name, tower, base_rates[columns], seeds)
            for name, tower, columns in zip(
                ("passive", "active"), (config.passive, config.active), self._columns, strict=True
            )
            if columns
        ]
        self._order = np.argsort(np.concatenate(self._columns)).astype(np.int32)
        self.infer = tf.function(
            lambda inputs: tf.sigmoid(self(inputs, training=False)),
            input_signature=[input_signature(sizes)],
        )
        self(model_inputs(_one_example(sizes)))

    def python_errors(self) -> AbstractContextManager[None]:
        """Around traced functions that call the model; see `ShardedEmbedding.python_errors`."""
        return nullcontext() if self.sharded is None else self.sharded.python_errors()

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Copies of all weights, by the names of `FeedRanker.tensors`; without divided tables."""
        return {name: np.array(v.numpy()) for name, v in self._named_variables()}

    def load_tensors(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Sets all weights from what `tensors` gave."""
        for name, variable in self._named_variables():
            variable.assign(tensors[name])

    def _named_variables(self) -> Iterator[tuple[str, keras.Variable]]:
        for name, table in self.tables.items():
            yield name, table.embeddings
        for scaling in self._scaling.values():
            yield from scaling.named_variables()
        for index, layer in enumerate(self.cross):
            for part in ("weight", "bias", "down"):
                variable = getattr(layer, part)
                if variable is not None:
                    yield f"cross/{index}/{part}", variable
        for tower in self.towers:
            for index, layer in enumerate((*tower.hidden, tower.head)):
                for part in ("weight", "bias", "gate_down", "gate_weight", "gate_bias"):
                    variable = getattr(layer, part)
                    if variable is not None:
                        yield f"{tower.name}/{index}/{part}", variable

    def call(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Logits, [batch, objectives] float32, in the order of the objectives.

        Args:
            inputs: As `model_inputs` makes them.
            training: Whether activations are dropped.
        """
        num_rows = tf.shape(inputs["viewer"], out_type=tf.int64)[0]
        # One pooled lookup for everything that reads the member table: single ids are bags of one.
        singles = tf.concat([inputs[name] for name in ("viewer", "actor", "root_actor")], axis=0)
        num_singles = 3 * num_rows
        members = tf.concat([singles, inputs["history_members.values"]], axis=0)
        member_offsets = tf.concat(
            [tf.range(num_singles), num_singles + inputs["history_members.offsets"]], axis=0
        )
        first = inputs["history_hashtags.offsets"]
        tags = tf.concat([inputs["history_hashtags.values"], inputs["hashtags.values"]], axis=0)
        tag_offsets = tf.concat([first[:-1], first[-1] + inputs["hashtags.offsets"]], axis=0)
        pooled = self._pool(
            {
                "member_table": (members, member_offsets),
                "hashtag_table": (tags, tag_offsets),
                "leaf_table": inputs["leaves"],
            }
        )
        viewer, actor, root_actor, history_members = tf.split(pooled["member_table"], 4, axis=0)
        history_hashtags, hashtags = tf.split(pooled["hashtag_table"], 2, axis=0)
        floats = {
            part: self._scaling[part](inputs[part], training=training)
            if part in self._scaling
            else inputs[part]
            for part in ("shared", "dense")
        }
        x0 = tf.concat(
            [
                viewer,
                history_members,
                history_hashtags,
                floats["shared"],
                actor,
                root_actor,
                hashtags,
                pooled["leaf_table"],
                floats["dense"],
            ],
            axis=1,
        )
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        logits = tf.concat([tower(x, training=training) for tower in self.towers], axis=1)
        return tf.gather(logits, self._order, axis=1)

    def _pool(self, ids: Mapping[str, Any]) -> Mapping[str, tf.Tensor]:
        """For every table the pooled rows of its bags, [bags, dim]."""
        if self.sharded is not None:
            pooled: Mapping[str, tf.Tensor] = self.sharded(ids)
            return pooled
        return {name: table(ids[name]) for name, table in self.tables.items()}


class _Tower(keras.layers.Layer):  # type: ignore[misc]
    """Gated layers with dropout, then one linear layer with a logit per objective."""

    def __init__(
        self, name: str, config: TowerConfig, base_rates: NDArray[np.float64], seeds: Any
    ) -> None:
        super().__init__(name=name)
        gate = None if config.gate == "none" else config.gate
        self.hidden = [
            layers.GatedDense(
                units,
                gate=gate,
                gate_rank=config.gate_rank,
                activation="relu",
                kernel_initializer=keras.initializers.HeNormal(seed=next(seeds)),
                gate_initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
                gate_down_initializer=(
                    keras.initializers.GlorotUniform(seed=next(seeds))
                    if config.gate_rank
                    else "glorot_uniform"
                ),
                name=f"layer_{index}",
            )
            for index, units in enumerate(config.units)
        ]
        self._dropouts = [
            keras.layers.Dropout(config.dropout, seed=next(seeds))
            for _ in range(len(config.units) + 1)
        ]
        clipped = np.clip(base_rates, 1e-6, 1.0 - 1e-6)
        # Starting at the base rates spares rare objectives the steps that would only find them.
        log_odds = np.log(clipped / (1.0 - clipped))
        self.head = layers.GatedDense(
            len(base_rates),
            gate=None,
            activation="linear",
            kernel_initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
            bias_initializer=lambda shape, dtype=None: tf.constant(log_odds, dtype=tf.float32),
            name="head",
        )

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = self._dropouts[0](x, training=training)
        for layer, dropout in zip(self.hidden, self._dropouts[1:], strict=True):
            x = dropout(layer(x), training=training)
        return self.head(x)


def _cross_layers(config: CrossConfig, seeds: Iterator[int]) -> Iterator[layers.CrossLayer]:
    for index in range(config.layers):
        yield layers.CrossLayer(
            config.rank,
            kernel_initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
            down_initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
            name=f"cross_{index}",
        )


def model_of(ranker: FeedRanker) -> RankerModel:
    """The Keras model of a trained ranker."""
    base_rates = 1.0 / np.asarray(ranker.utility_weights)
    model = RankerModel(ranker.config, ranker.features.sizes, ranker.objectives, base_rates)
    model.load_tensors(ranker.tensors)
    return model


def model_inputs(examples: Examples) -> dict[str, tf.Tensor]:
    """The examples as the tensors of `RankerModel.call`."""
    arrays: dict[str, NDArray[Any]] = {
        name: getattr(examples, name)
        for name in ("viewer", "actor", "root_actor", "leaves", "shared", "dense")
    }
    for name in ("history_members", "history_hashtags", "hashtags"):
        bags = getattr(examples, name)
        arrays[f"{name}.values"] = bags.values
        arrays[f"{name}.offsets"] = bags.offsets
    arrays["leaves"] = arrays["leaves"].astype(np.int64)
    return {name: tf.constant(array) for name, array in arrays.items()}


def input_signature(sizes: Sizes) -> dict[str, tf.TensorSpec]:
    """Shapes and types of `model_inputs`, so that one traced function serves every batch."""
    one = {
        name: tf.TensorSpec([None], tf.int64, name=name)
        for name in ("viewer", "actor", "root_actor")
    }
    bags = {
        f"{name}.{part}": tf.TensorSpec([None], tf.int64, name=f"{name}_{part}")
        for name in ("history_members", "history_hashtags", "hashtags")
        for part in ("values", "offsets")
    }
    return {
        **one,
        **bags,
        "leaves": tf.TensorSpec([None, sizes.num_trees], tf.int64, name="leaves"),
        "shared": tf.TensorSpec([None, sizes.num_shared], tf.float32, name="shared"),
        "dense": tf.TensorSpec([None, sizes.num_dense], tf.float32, name="dense"),
    }


def _one_example(sizes: Sizes) -> Examples:
    row, empty = np.zeros(1, np.int64), RowBags(np.zeros(0, np.int64), np.zeros(2, np.int64))
    return Examples(
        viewer=row,
        actor=row,
        root_actor=row,
        history_members=empty,
        history_hashtags=empty,
        hashtags=empty,
        leaves=np.zeros((1, sizes.num_trees), np.int32),
        shared=np.zeros((1, sizes.num_shared), np.float32),
        dense=np.zeros((1, sizes.num_dense), np.float32),
    )


def table_specs(config: RankerConfig, sizes: Sizes, seeds: Iterator[int]) -> tuple[TableSpec, ...]:
    """The tables of a model, in the order of `TABLES`.

    Args:
        config: Dims.
        sizes: Rows.
        seeds: One for each table, of its first values.
    """
    rows = (sizes.num_members, sizes.num_hashtags, sizes.num_leaves)
    dims = (config.member.dim, config.hashtag.dim, config.forest.leaf_dim)
    return tuple(
        TableSpec(
            name=name,
            rows=num_rows,
            dim=dim,
            pooling="sqrtn" if name == "leaf_table" else "mean",
            optimizer=RowOptimization(rule="adam"),
            # Of row and column alone: the same however the table is divided.
            initializer=Normal(_TABLE_STDDEV, next(seeds)),
        )
        for name, num_rows, dim in zip(TABLES, rows, dims, strict=True)
    )


class _FirstRows(keras.initializers.Initializer):  # type: ignore[misc]
    """The first values of a whole table."""

    def __init__(self, spec: TableSpec) -> None:
        self._spec = spec

    def __call__(self, shape: Any, dtype: Any = None) -> tf.Tensor:
        spec = self._spec
        rows = np.empty((spec.rows, spec.dim), np.float32)
        fill(rows, spec.initializer, spec.name, dim=spec.dim, row_begin=0, column_begin=0)
        return tf.convert_to_tensor(rows, dtype)
