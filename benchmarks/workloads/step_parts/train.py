"""A whole training step of a ranker, in examples a second, by every way to train its tables.

Member table of `num_rows`, 200 k hashtags, both of dim 64, and 6400 leaves of dim 16. An example
has 50 members of a history, viewer, actor and root actor, 20 + 3 hashtags, 100 leaves and 832
floats, 768 of them a text vector; Zipf(1.05) ids, fresh in every step. Two hidden-gate towers of
512-256-128 with 4 heads each: the dense part of a step is 28 GFLOP at batch 2048, and the same
Keras layers in every way. The optimizer is Adagrad throughout.

    raw        a loop of one's own: tf.nn.embedding_lookup_sparse, ResourceSparseApplyAdagradV2
    drop-in    the same loop with fft.embedding_lookup_sparse
    optimizer  a compiled model of PooledEmbedding with fft.optimizers.SparseAdagrad
    fused      the same with fused_optimizer, and Keras' Adagrad for the towers
    stock      keras.layers.Embedding and Keras' Adagrad, which walks the tables; a few steps
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import feedfast.tf as fft
from feedfast.bench import BenchOptions, BenchRow, row, time_interleaved
from step_parts.common import Step, apply_raw_adagrad, in_turn

BATCH = 2048
NUM_FLOATS = 832
UNITS = (512, 256, 128)
NUM_HEADS = 8
NUM_BATCHES = 4

# Of the raw loop: what the tables may still cost beside a dense part that is the same in both.
TARGETS = {"float32": 1 / 1.2, "mixed_bfloat16": 1 / 1.8}
STOCK_TARGETS = {1_000_000: 1 / 3, 10_000_000: 1 / 8}  # of plain Keras, in float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """One table and the bags that an example has in it, each pooled to one vector."""

    name: str
    num_rows: int
    dim: int
    lengths: tuple[int, ...]
    pooling: str

    def offsets(self, batch: int) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(np.tile(self.lengths, batch))]).astype(np.int64)


def features(num_rows: int, *, quick: bool) -> list[Feature]:
    return [
        Feature(name="members", num_rows=num_rows, dim=64, lengths=(50, 1, 1, 1), pooling="mean"),
        Feature(
            name="hashtags",
            num_rows=2_000 if quick else 200_000,
            dim=64,
            lengths=(20, 3),
            pooling="mean",
        ),
        Feature(name="leaves", num_rows=6_400, dim=16, lengths=(100,), pooling="sqrtn"),
    ]


def zipf_ids(rng: np.random.Generator, num_rows: int, shape: tuple[int, int]) -> np.ndarray:
    """Rows by rank, P(rank) ~ rank ** -1.05; neighbouring ranks are not neighbouring rows."""
    shares = np.cumsum(np.arange(1, num_rows + 1) ** -1.05)
    ranks = np.searchsorted(shares, rng.random(shape) * shares[-1])
    return ranks * 2_654_435_761 % num_rows


def make_batches(tables: list[Feature], batch: int) -> list[tuple[tuple[Any, ...], Any]]:
    """Inputs (ids of each table, floats) and labels."""
    rng = np.random.default_rng(1)
    ids = [
        zipf_ids(rng, table.num_rows, (NUM_BATCHES * batch, sum(table.lengths)))
        if table.name != "leaves"
        # One leaf of each tree.
        else rng.integers(0, 64, (NUM_BATCHES * batch, 100)) + 64 * np.arange(100)
        for table in tables
    ]
    floats = rng.standard_normal((NUM_BATCHES * batch, NUM_FLOATS), dtype=np.float32)
    labels = (rng.random((NUM_BATCHES * batch, NUM_HEADS)) < 0.1).astype(np.float32)
    return [
        (
            tuple(tf.constant(each[part]) for each in (*ids, floats)),
            tf.constant(labels[part]),
        )
        for part in (slice(i * batch, (i + 1) * batch) for i in range(NUM_BATCHES))
    ]


def make_head(tables: list[Feature], policy: str) -> keras.Model:
    """[batch, inputs] to logits [batch, NUM_HEADS] in float32."""
    keras.utils.set_random_seed(0)  # every way starts from the same weights
    width = NUM_FLOATS + sum(len(table.lengths) * table.dim for table in tables)
    inputs = keras.Input((width,))
    logits = []
    for _ in range(2):
        x = inputs
        for units in UNITS:
            a = keras.layers.Dense(units, activation="relu", dtype=policy)(x)
            gate = keras.layers.Dense(units, activation="sigmoid", dtype=policy)(a)
            x = keras.layers.Multiply(dtype=policy)([a, gate])
        logits.append(keras.layers.Dense(NUM_HEADS // 2, dtype="float32")(x))
    return keras.Model(inputs, keras.layers.Concatenate(dtype="float32")(logits))


class Ranker(keras.Model):  # type: ignore[misc]
    """`pools[i]` turns the ids of table i into [batch, inputs]; `layers_of` are their layers."""

    def __init__(
        self, pools: Sequence[Callable[[Any], Any]], layers_of: list[Any], head: keras.Model
    ) -> None:
        super().__init__()
        self.pools = tuple(pools)
        self.table_layers = layers_of
        self.head = head

    def build(self, _: Any = None) -> None:
        for layer in self.table_layers:
            if not layer.built:
                layer.build()

    def call(self, inputs: tuple[Any, ...]) -> Any:
        *ids, floats = inputs
        pooled = [pool(each) for pool, each in zip(self.pools, ids, strict=True)]
        return self.head(tf.concat([*pooled, floats], 1))


LOSS = keras.losses.BinaryCrossentropy(from_logits=True)


def compiled(model: Ranker, optimizer: Any) -> Step:
    """`train_on_batch` of the model."""
    model.compile(optimizer, LOSS)
    return lambda batch: model.train_on_batch(*batch)


def pooled_layers(tables: list[Feature], batch: int, fused: Any) -> tuple[list[Any], list[Any]]:
    """PooledEmbedding layers and what calls them on ids [batch, n]."""
    layers = [
        fft.layers.PooledEmbedding(
            table.num_rows,
            table.dim,
            pooling=table.pooling,
            embeddings_initializer="zeros",
            fused_optimizer=fused,
            name=table.name,
        )
        for table in tables
    ]

    def pool(layer: Any, offsets: Any) -> Callable[[Any], Any]:
        width = layer.dim * (len(offsets) - 1) // batch
        return lambda ids: tf.reshape(layer((tf.reshape(ids, [-1]), offsets)), [batch, width])

    return layers, [
        pool(layer, table.offsets(batch)) for layer, table in zip(layers, tables, strict=True)
    ]


def stock_layers(tables: list[Feature]) -> tuple[list[Any], list[Any]]:
    """keras.layers.Embedding and means over the ids of each bag."""
    layers = [
        keras.layers.Embedding(table.num_rows, table.dim, embeddings_initializer="zeros")
        for table in tables
    ]

    def pool(layer: Any, table: Feature) -> Callable[[Any], Any]:
        def call(ids: Any) -> Any:
            bags = tf.split(layer(ids), table.lengths, axis=1)
            scale = 1.0 if table.pooling == "mean" else table.lengths[0] ** 0.5
            return scale * tf.concat([tf.reduce_mean(bag, 1) for bag in bags], 1)

        return call

    return layers, [pool(layer, table) for layer, table in zip(layers, tables, strict=True)]


class Loop:
    """A loop of one's own on variables, with tables and accumulators for several lookups."""

    def __init__(self, tables: list[Feature], batch: int) -> None:
        self._tables = tables
        self._batch = batch
        self._variables = [tf.Variable(tf.zeros([t.num_rows, t.dim])) for t in tables]
        self._accumulators = [tf.Variable(tf.fill([t.num_rows, t.dim], 0.1)) for t in tables]

    def step(self, lookup: Callable[..., Any], policy: str) -> Step:
        """`lookup` with the signature of tf.nn.embedding_lookup_sparse."""
        head = make_head(self._tables, policy)
        dense = keras.optimizers.Adagrad(0.01)
        dense.build(head.trainable_variables)
        weights = [weight.value for weight in head.trainable_variables]
        places = [self._indices(table) for table in self._tables]

        @tf.function
        def step(inputs: tuple[Any, ...], labels: Any) -> Any:
            *ids, floats = inputs
            with tf.GradientTape() as tape:
                pooled = []
                for table, variable, each, (indices, shape) in zip(
                    self._tables, self._variables, ids, places, strict=True
                ):
                    sparse = tf.SparseTensor(indices, tf.reshape(each, [-1]), shape)
                    vectors = lookup(variable, sparse, None, combiner=table.pooling)
                    width = len(table.lengths) * table.dim
                    pooled.append(tf.reshape(vectors, [self._batch, width]))
                loss = LOSS(labels, head(tf.concat([*pooled, floats], 1)))
            gradients = tape.gradient(loss, [*self._variables, *weights])
            for variable, accumulator, gradient in zip(
                self._variables, self._accumulators, gradients, strict=False
            ):
                apply_raw_adagrad(variable, accumulator, gradient)
            by_head = gradients[len(self._variables) :]
            dense.apply_gradients(zip(by_head, head.trainable_variables, strict=True))
            return loss

        return lambda batch: step(*batch)

    def _indices(self, table: Feature) -> tuple[Any, Any]:
        lengths = np.tile(table.lengths, self._batch)
        bags = np.repeat(np.arange(len(lengths)), lengths)
        places = np.arange(len(bags)) - np.repeat(table.offsets(self._batch)[:-1], lengths)
        shape = [len(lengths), max(table.lengths)]
        return tf.constant(np.stack([bags, places], 1)), tf.constant(shape, tf.int64)


# A process that fills tables of 10 million rows for every way takes longer than two minutes.
LARGE_WAYS = {"raw": ("drop-in", "fused"), "keras": ("optimizer",)}


def run(options: BenchOptions, case: tuple[int, str]) -> Iterator[BenchRow]:
    """All ways beside the raw loop, in turns with it, or beside plain Keras."""
    num_rows, peer = case
    quick = options.quick
    ways = LARGE_WAYS[peer] if num_rows > 1_000_000 else ("drop-in", "fused", "optimizer")
    num_rows = 5_000 if quick else num_rows
    batch = 32 if quick else BATCH
    tables = features(num_rows, quick=quick)
    batches = make_batches(tables, batch)
    path = f"step/train/rows={num_rows}/batch={batch}/threads={options.threads}"
    if peer == "raw":
        yield from _beside_raw(path, ways, tables, batches, repeats=2 if quick else 7)
    else:
        target = STOCK_TARGETS.get(num_rows)
        yield from _beside_keras(path, ways, tables, batches, target)


def _beside_raw(
    path: str, ways: Sequence[str], tables: list[Feature], batches: list[Any], *, repeats: int
) -> Iterator[BenchRow]:
    batch = batches[0][1].shape[0]
    loop = Loop(tables, batch)
    raw = in_turn(loop.step(tf.nn.embedding_lookup_sparse, "float32"), batches)
    for way, policy, step in _steps(ways, tables, batch, loop):
        sides = [in_turn(step, batches), raw]
        ours, theirs = (
            batch / float(taken.min()) for taken in time_interleaved(sides, repeats=repeats)
        )
        yield row(
            f"{path}/way={way}/dense={policy}/vs=raw",
            ours,
            "examples/s",
            peer="tf.nn.embedding_lookup_sparse + ResourceSparseApplyAdagradV2, float32",
            peer_value=theirs,
            target=TARGETS[policy],
            smaller_is_better=False,
        )
        del step, sides
        gc.collect()


def _beside_keras(
    path: str,
    ways: Sequence[str],
    tables: list[Feature],
    batches: list[Any],
    target: float | None,
) -> Iterator[BenchRow]:
    """Keras last: it makes several copies of every table, which need the memory of the others."""
    batch = batches[0][1].shape[0]
    fastest: dict[str, float] = {}
    for way, policy, step in _steps(ways, tables, batch, None):
        (taken,) = time_interleaved([in_turn(step, batches)], repeats=4)
        fastest[f"way={way}/dense={policy}"] = batch / float(taken.min())
        del step
        gc.collect()
    layers, pools = stock_layers(tables)
    model = Ranker(pools, layers, make_head(tables, "float32"))
    stock = compiled(model, keras.optimizers.Adagrad(0.01))
    (taken,) = time_interleaved([in_turn(stock, batches)], repeats=2)
    for name, ours in fastest.items():
        yield row(
            f"{path}/{name}/vs=keras",
            ours,
            "examples/s",
            peer=f"keras.layers.Embedding + keras.optimizers.Adagrad, {keras.__version__}",
            peer_value=batch / float(taken.min()),
            target=target,
            smaller_is_better=False,
        )


def _steps(
    ways: Sequence[str], tables: list[Feature], batch: int, loop: Loop | None
) -> Iterator[tuple[str, str, Step]]:
    """Way, dtype policy of the dense part, step; tables are shared where that changes nothing."""
    if "drop-in" in ways:
        loop = loop or Loop(tables, batch)
        for policy in TARGETS:
            yield "drop-in", policy, loop.step(fft.embedding_lookup_sparse, policy)
    del loop
    gc.collect()

    if "fused" in ways:
        layers, pools = pooled_layers(tables, batch, fft.optimizers.SparseAdagrad(0.01))
        for policy in TARGETS:
            model = Ranker(pools, layers, make_head(tables, policy))
            yield "fused", policy, compiled(model, keras.optimizers.Adagrad(0.01))
        del layers, pools, model
        gc.collect()

    if "optimizer" in ways:
        layers, pools = pooled_layers(tables, batch, None)
        heads = [make_head(tables, policy) for policy in TARGETS]
        for layer in layers:
            layer.build()
        optimizer = fft.optimizers.SparseAdagrad(0.01)
        weights = [weight for part in (*layers, *heads) for weight in part.trainable_variables]
        optimizer.build(weights)
        for policy, head in zip(TARGETS, heads, strict=True):
            yield "optimizer", policy, compiled(Ranker(pools, layers, head), optimizer)
