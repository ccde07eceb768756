"""Keras layer for embedding tables that live in several processes."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from feedfast.bags import Bags
from feedfast.comm import Engine, connect
from feedfast.sharded_tables import (
    KeyBags,
    RowOptimization,
    ShardedTables,
    ShardedVocabulary,
    TableSpec,
)
from feedfast.sharded_tables.checkpoint import load_tables, save_tables
from feedfast.sharded_tables.weight_format import weights_dtype
from feedfast.sharding import ShardingPlan, TableShape, row_wise
from feedfast.tf.hashing import hash_keys
from feedfast.tf.optimizers import RowOptimizer
from feedfast.tf.pooled_embedding import flat_weights, values_and_offsets
from feedfast.tf.pooled_lookup import as_indexes, pooled_lookup


class ShardedEmbedding(keras.layers.Layer):  # type: ignore[misc]
    """All embedding tables of a model, divided between processes; a call pools rows of each.

    Ids of a table have the forms of `fft.layers.PooledEmbedding`, or are a triple `(values [nnz],
    offsets [batch + 1], weights [nnz])`; those of a table with a vocabulary may be strings. All
    processes call the layer equally often, each with its own examples; a process that has none left
    calls it with empty bags. A call makes two exchanges whatever the number of tables, inside a
    `tf.function` too; `ShardedTables` has their bytes.

    The tables are no variables: a backward pass collects the gradients of the rows, and at the end
    of a window of backward passes `exchange_window` sends them to the processes that hold the rows,
    where `apply_window` updates them. `AccumulatingGradientTape(participants=[layer])` calls both.
    The layer has one trainable scalar, `trigger`, with gradient 0: backward passes that do not
    differentiate by it collect nothing. Tables on which the loss does not depend get no gradient.

    Args:
        tables: What they are, in the same order on all processes. A `TableSpec.optimizer` is a
            `RowOptimization` or one of `fft.optimizers`, whose learning rate may be changed at any
            time; its own iterations do not advance.
        plan: Where the parts live; default: all tables by rows over all processes.
        engine: Default: `feedfast.comm.connect()`.
        initialize: Set the weights to their first values; not needed before `load_tables`.
        vocabularies: By table, of keys that are looked up where the rows are; of the same engine.
            `ShardedVocabulary.placement` has the place of such a table in a plan.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: As `ShardedTables`; or an optimizer clips the norm of rows or tables, which no
            process knows (clip by the global norm, in the tape). In a call: a table is missing.
        BadBagsError: In a call, on all processes, for bad ids of any of them; in a traced function
            as tf.errors.InvalidArgumentError.
    """

    def __init__(
        self,
        tables: Sequence[TableSpec],
        *,
        plan: ShardingPlan | None = None,
        engine: Engine | None = None,
        initialize: bool = True,
        vocabularies: Mapping[str, ShardedVocabulary] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.autocast = False  # float weights would be rounded to the compute dtype
        self.supports_jit = False  # exchanges are no XLA ops
        engine = connect() if engine is None else engine
        self.sharded = ShardedTables(
            [
                dataclasses.replace(table, optimizer=row_optimization(table.optimizer))
                for table in tables
            ],
            rows_over_all(tables, engine.size, vocabularies) if plan is None else plan,
            engine,
            initialize=initialize,
            vocabularies=vocabularies,
        )
        self._seeds = {name: each.seed for name, each in (vocabularies or {}).items()}
        self._weight = 1.0
        self._failure: Exception | None = None
        self.trigger = self.add_weight(
            name="trigger", shape=(), initializer="zeros", dtype="float32", autocast=False
        )

    def build(self, input_shape: Any = None) -> None:
        """Nothing depends on the shapes of ids."""

    def call(self, ids: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Pools the rows of the ids of every table.

        Args:
            ids: For every table ids, see the class.

        Returns:
            For every table [batch, dim] in the layer's compute dtype.
        """
        names = [spec.name for spec in self.sharded.specs]
        if sorted(ids) != sorted(names):
            raise ValueError(f"layer {self.name!r} has tables {names}; got ids of {sorted(ids)}")
        bags = [_bags(ids[name], self._seeds.get(name)) for name in names]
        rows, positions = self._fetch(bags)
        return {
            spec.name: tf.cast(
                pooled_lookup(
                    rows[table],
                    positions[table],
                    bags[table][1],
                    bags[table][2],
                    pooling=spec.pooling,
                    name=spec.name,
                ),
                self.compute_dtype,
            )
            for table, spec in enumerate(self.sharded.specs)
        }

    def begin_backward(self, weight: float) -> None:
        """Tells the weight of the next backward passes; see `WindowParticipant`."""
        self._weight = weight

    def exchange_window(self, scale: float) -> float:
        """Sends the window's gradients to the owners of their rows; see `WindowParticipant`."""
        self._weight = 1.0
        return self.sharded.exchange_window(scale)

    def apply_window(self, multiplier: float) -> None:
        """Updates the rows of this process; see `WindowParticipant`."""
        self.sharded.apply_window(multiplier)

    def discard_window(self) -> None:
        """Forgets the window; see `WindowParticipant`."""
        self._weight = 1.0
        self.sharded.discard_window()

    def save_tables(self, folder: str | os.PathLike[str]) -> None:
        """Saves the tables with their optimizer states; collective.

        See `feedfast.sharded_tables.checkpoint.save_tables`. Keras' own files do not have them.
        """
        save_tables(self.sharded, Path(folder))

    def load_tables(self, folder: str | os.PathLike[str]) -> None:
        """Loads what `save_tables` saved, under any plan on any number of processes; collective.

        See `feedfast.sharded_tables.checkpoint.load_tables`.
        """
        load_tables(self.sharded, Path(folder))

    @contextmanager
    def python_errors(self) -> Iterator[None]:
        """Around a traced function: errors of lookups in it are raised as outside of one."""
        self._failure = None
        try:
            yield
        except tf.errors.OpError:
            if self._failure is None:
                raise
            raise self._failure from None

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        """Remembers an error for `python_errors`: TensorFlow makes one of its own of it."""
        try:
            yield
        except Exception as error:
            self._failure = error
            raise

    def _fetch(self, bags: Sequence[tuple[Any, Any, Any]]) -> tuple[list[Any], list[Any]]:
        """Distinct rows [unique, dim] of every table, and each id's position among them [nnz]."""
        specs = self.sharded.specs
        is_weighted = [weights is not None for _, _, weights in bags]

        def look_up(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
            remaining = iter(arrays)
            with self._remembering():
                fetched = self.sharded.lookup(
                    [
                        _numpy_bags(
                            next(remaining), next(remaining), next(remaining) if weighted else None
                        )
                        for weighted in is_weighted
                    ]
                )
            return [
                *(found.rows for found in fetched),
                *(found.ids for found in fetched),
                *(found.positions for found in fetched),
            ]

        def accumulate(tables: Sequence[int], *arrays: NDArray[Any]) -> NDArray[np.float32]:
            if self._weight != 0.0:
                with self._remembering():
                    self.sharded.accumulate(
                        arrays[: len(tables)], arrays[len(tables) :], tables=tables
                    )
            return np.zeros((), np.float32)

        found = tf.numpy_function(
            look_up,
            [tensor for bag in bags for tensor in bag if tensor is not None],
            [tf.float32] * len(specs) + [tf.int64] * (2 * len(specs)),
            name="sharded_lookup",
        )
        rows = found[: len(specs)]
        unique = found[len(specs) : 2 * len(specs)]
        positions = found[2 * len(specs) :]
        for spec, table_rows, table_positions in zip(specs, rows, positions, strict=True):
            table_rows.set_shape([None, spec.dim])
            table_positions.set_shape([None])

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def collect(trigger: tf.Tensor, *rows: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
            del trigger

            def grad(*upstream: Any) -> tuple[tf.Tensor, ...]:
                # Where the loss does not depend on a table, TensorFlow makes a dense gradient of
                # zeros, which rules with momentum must not take for one of its rows.
                used = [i for i, g in enumerate(upstream) if isinstance(g, tf.IndexedSlices)]
                zero = tf.numpy_function(
                    functools.partial(accumulate, used),
                    # Of a pooled lookup: its rows are unique and ascend, and all of them are in it.
                    [*(unique[i] for i in used), *(upstream[i].values for i in used)],
                    tf.float32,
                    name="sharded_accumulate",
                )
                zero.set_shape([])
                return (zero, *([None] * len(rows)))

            return [tf.identity(table_rows) for table_rows in rows], grad

        return collect(tf.convert_to_tensor(self.trigger.value), *rows), positions


def row_optimization(optimizer: Any) -> RowOptimization:
    """What `ShardedTables` needs of one of `fft.optimizers`; a `RowOptimization` stays itself.

    Raises:
        ValueError: It is something else, or clips the norm of rows or of a table.
    """
    if isinstance(optimizer, RowOptimization):
        return optimizer
    if not isinstance(optimizer, RowOptimizer):
        raise ValueError(
            "the optimizer of a sharded table must be a RowOptimization or one of "
            f"fft.optimizers; got {type(optimizer).__name__}"
        )
    rule = optimizer.row_rule()
    if rule.clipping not in ("none", "value"):
        raise ValueError(
            f"{type(optimizer).__name__} clips the norm of gradients of which a process holds "
            "parts; use clipvalue, or clip_norm of AccumulatingGradientTape"
        )
    return RowOptimization(
        rule=rule.rule,
        learning_rate=lambda updates: float(optimizer.rate_at(updates)),
        initial_state=optimizer.initial_state,
        epsilon=rule.epsilon,
        beta1=rule.beta1,
        beta2=rule.beta2,
        weight_decay=rule.weight_decay,
        weight_decay_mode=rule.weight_decay_mode,
        max_value=rule.max_gradient if rule.clipping == "value" else None,
        stochastic_rounding=optimizer.stochastic_rounding,
        seed=optimizer.seed,
    )


def rows_over_all(
    tables: Sequence[TableSpec],
    num_ranks: int,
    vocabularies: Mapping[str, ShardedVocabulary] | None = None,
) -> ShardingPlan:
    """Every table by rows over all ranks, as if each had a host of its own.

    Tables with one of the `vocabularies` are divided as it is.
    """
    shapes = tuple(
        TableShape(
            name=table.name,
            rows=table.rows,
            dim=table.dim,
            bytes_per_element=weights_dtype(table.dtype).itemsize,
        )
        for table in tables
    )
    vocabularies = vocabularies or {}
    return ShardingPlan(
        num_ranks=num_ranks,
        ranks_per_host=1,
        tables=shapes,
        placements=tuple(
            vocabularies[shape.name].placement(shape)
            if shape.name in vocabularies
            else row_wise(shape, range(num_ranks))
            for shape in shapes
        ),
    )


def _bags(ids: Any, seed: int | None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Values, offsets and weights of ids in any of their forms; strings become uint64 codes.

    `seed` is of the table's vocabulary, None where it has none.
    """
    weights = None
    if isinstance(ids, tuple | list) and len(ids) == 3:
        *ids, weights = ids
    values, offsets = values_and_offsets(ids)
    if weights is not None:
        weights = tf.cast(flat_weights(weights), tf.float32)
    values = tf.convert_to_tensor(values)
    if seed is not None and values.dtype == tf.string:
        values = hash_keys(values, seed=seed)
    else:
        values = tf.cast(as_indexes("values", values), tf.int64)
    return values, tf.cast(as_indexes("offsets", offsets), tf.int64), weights


def _numpy_bags(values: Any, offsets: Any, weights: Any) -> Bags | KeyBags:
    """What `_bags` gave, on the way to `ShardedTables`."""
    kind = KeyBags if values.dtype == np.uint64 else Bags
    return kind(values, offsets, weights)
