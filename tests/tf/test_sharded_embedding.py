from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import feedfast.tf as fft
from feedfast.comm import NullEngine
from feedfast.sharded_tables import BadBagsError, RowOptimization, ShardedVocabulary, TableSpec
from feedfast.tf.distributed.sharded_embedding import ShardedEmbedding

ROWS, DIM, BATCH = 50, 5, 8
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda: fft.optimizers.SparseSGD(0.1),
    "adagrad": lambda: fft.optimizers.SparseAdagrad(0.1),
    "rowwise_adagrad": lambda: fft.optimizers.RowwiseAdagrad(0.1),
    "adam": lambda: fft.optimizers.SparseAdam(0.1, epsilon=1e-3),
    "rowwise_adam": lambda: fft.optimizers.RowwiseAdam(0.1, epsilon=1e-3),
}
POOLINGS = ("sum", "mean", "sqrtn")


def ragged(rng: np.random.Generator) -> tf.RaggedTensor:
    lengths = rng.integers(0, 4, BATCH)
    return tf.RaggedTensor.from_row_lengths(rng.integers(0, ROWS, lengths.sum()), lengths)


def batch_of(step: int) -> tuple[dict[str, Any], tf.Tensor]:
    rng = np.random.default_rng(step)
    bags = {pooling: ragged(rng) for pooling in POOLINGS}
    weights = rng.uniform(0.5, 2.0, bags["mean"].flat_values.shape[0]).astype(np.float32)
    ids = {**bags, "mean": (bags["mean"].flat_values, bags["mean"].row_splits, weights)}
    return ids, tf.constant(rng.standard_normal((BATCH, DIM)), tf.float32)


def loss_of(pooled: list[tf.Tensor], target: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.square(tf.add_n(pooled) - target))


def trained_layer(name: str, *, traced: bool, steps: int = 20) -> list[np.ndarray]:
    layer = ShardedEmbedding(
        [
            TableSpec(
                name=pooling, rows=ROWS, dim=DIM, pooling=pooling, optimizer=OPTIMIZERS[name]()
            )
            for pooling in POOLINGS
        ],
        engine=NullEngine(),
    )

    def backward(ids: dict[str, Any], target: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = loss_of(list(layer(ids).values()), target)
        (gradient,) = tape.gradient(loss, layer.trainable_variables)
        tf.debugging.assert_equal(gradient, 0.0)

    if traced:
        backward = tf.function(backward, reduce_retracing=True)
    for step in range(steps):
        for micro in range(2):
            backward(*batch_of(2 * step + micro))
        layer.exchange_window(0.5)
        layer.apply_window(1.0)
    return [part.weights for part in layer.sharded.parts.values()]


def trained_whole(name: str, *, steps: int = 20) -> list[np.ndarray]:
    optimizer = OPTIMIZERS[name]()
    start = TableSpec(name="sum", rows=ROWS, dim=DIM).initializer
    tables = [tf.Variable(start(pooling, 0, ROWS, DIM)) for pooling in POOLINGS]
    for step in range(steps):
        with tf.GradientTape() as tape:
            losses = []
            for micro in range(2):
                ids, target = batch_of(2 * step + micro)
                pooled = []
                for pooling, table in zip(POOLINGS, tables, strict=True):
                    bags = ids[pooling]
                    parts = bags if isinstance(bags, tuple) else (bags.flat_values, bags.row_splits)
                    pooled.append(fft.ops.pooled_lookup(table, *parts, pooling=pooling))
                losses.append(loss_of(pooled, target))
            loss = 0.5 * tf.add_n(losses)
        optimizer.apply(tape.gradient(loss, tables), tables)
    return [table.numpy() for table in tables]


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_trains_as_variables_do(name: str, traced: bool) -> None:
    for got, want in zip(trained_layer(name, traced=traced), trained_whole(name), strict=True):
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_all_forms_of_ids() -> None:
    layer = ShardedEmbedding([TableSpec(name="t", rows=ROWS, dim=DIM)], engine=NullEngine())
    (table,) = (part.weights for part in layer.sharded.parts.values())
    ids = np.array([[1, 2], [3, 3]])
    want = table[ids].sum(axis=1)
    flat, offsets = ids.ravel(), np.array([0, 2, 4])
    forms = [
        ids,
        tf.RaggedTensor.from_row_splits(flat, offsets),
        tf.sparse.from_dense(ids),
        (flat, offsets),
        (tf.constant(flat, tf.int32), tf.constant(offsets, tf.int32)),
        (flat, offsets, np.ones(4)),
    ]
    for form in forms:
        np.testing.assert_allclose(layer({"t": form})["t"], want, rtol=1e-6)
    np.testing.assert_array_equal(layer({"t": ids[:, 0]})["t"], table[ids[:, 0]])
    assert layer({"t": tf.zeros([0], tf.int64)})["t"].shape == (0, DIM)


def test_weights_have_a_gradient() -> None:
    layer = ShardedEmbedding([TableSpec(name="t", rows=ROWS, dim=DIM)], engine=NullEngine())
    (table,) = (part.weights for part in layer.sharded.parts.values())
    weights = tf.Variable([1.0, 2.0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer({"t": (np.array([4, 9]), np.array([0, 2]), weights)})["t"])
    np.testing.assert_allclose(
        tape.gradient(loss, weights), table[[4, 9]].sum(axis=1), rtol=1e-5, atol=1e-6
    )


def test_bad_ids_say_rank_table_position_and_value() -> None:
    layer = ShardedEmbedding([TableSpec(name="t", rows=ROWS, dim=DIM)], engine=NullEngine())
    message = r"rank 0: table 't': values\[1\] = 50 is not a row of a table with 50 rows"
    look_up = tf.function(lambda ids: layer({"t": ids}))
    calls = (
        (lambda ids: layer({"t": ids}), BadBagsError),
        (look_up, tf.errors.InvalidArgumentError),
    )
    for call, error in calls:
        with pytest.raises(error, match=message):
            call(tf.constant([3, 50]))
        assert call(tf.constant([3, 49]))["t"].shape == (2, DIM)
    with pytest.raises(ValueError, match=r"has tables \['t'\]; got ids of \['u'\]"):
        layer({"u": tf.constant([1])})


def test_the_learning_rate_is_that_of_the_optimizer_at_the_time() -> None:
    optimizer = fft.optimizers.SparseSGD(
        keras.optimizers.schedules.PiecewiseConstantDecay([1], [1.0, 0.0])
    )
    layer = ShardedEmbedding(
        [TableSpec(name="t", rows=ROWS, dim=DIM, optimizer=optimizer)], engine=NullEngine()
    )
    (table,) = (part.weights for part in layer.sharded.parts.values())
    seen = []
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer({"t": tf.constant([7])})["t"])
        tape.gradient(loss, layer.trainable_variables)
        layer.exchange_window(1.0)
        layer.apply_window(1.0)
        seen.append(table[7, 0])
    first = TableSpec(name="t", rows=1, dim=1).initializer("t", 7, 8, DIM)[0, 0]
    np.testing.assert_allclose(np.diff([first, *seen]), [-1.0, -1.0, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (fft.optimizers.SparseSGD(0.1, clipnorm=1.0), "clips the norm"),
        (fft.optimizers.SparseSGD(0.1, row_clipnorm=1.0), "clips the norm"),
        (keras.optimizers.SGD(0.1), "must be a RowOptimization or one of"),
    ],
)
def test_optimizers_that_cannot_work_are_refused(optimizer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShardedEmbedding(
            [TableSpec(name="t", rows=2, dim=2, optimizer=optimizer)], engine=NullEngine()
        )


def test_in_a_keras_model_the_trigger_is_the_only_variable() -> None:
    spec = TableSpec(
        name="t", rows=ROWS, dim=DIM, optimizer=RowOptimization(rule="sgd", learning_rate=0.1)
    )
    layer = ShardedEmbedding([spec], engine=NullEngine())
    ids = keras.Input((3,), dtype="int64", name="t")
    model = keras.Model({"t": ids}, keras.layers.Dense(1)(layer({"t": ids})["t"]))
    assert [v.name for v in layer.trainable_variables] == ["trigger"]
    assert model({"t": np.array([[1, 2, 3]])}).shape == (1, 1)


@pytest.mark.parametrize("traced", [False, True])
def test_a_micro_batch_of_weight_zero_touches_no_row(traced: bool) -> None:
    spec = TableSpec(name="sum", rows=ROWS, dim=DIM, optimizer=OPTIMIZERS["adam"]())
    layer = ShardedEmbedding([spec], engine=NullEngine())
    tape = fft.distributed.AccumulatingGradientTape(2, engine=NullEngine(), participants=[layer])

    def step(values: tf.Tensor, weight: tf.Tensor) -> None:
        with tape:
            loss = tf.reduce_mean(layer({"sum": (values, tf.constant([0, 2]))})["sum"])
        tape.minimize(loss, layer.trainable_variables, lambda gradients: None, weight=weight)

    if traced:
        step = tf.function(step)
    (part,) = layer.sharded.parts.values()
    steps = [([3, 4], 1.0), ([5, 6], 1.0), ([3, 7], 1.0), ([5, 8], 0.0)]
    for values, weight in steps[:2]:
        step(tf.constant(values), tf.constant(weight))
    before = part.weights.copy()
    for values, weight in steps[2:]:
        step(tf.constant(values), tf.constant(weight))
    # Adam would move row 5 by its moments.
    np.testing.assert_array_equal(np.flatnonzero((part.weights != before).any(axis=1)), [3, 7])


def test_a_tape_that_would_not_train_the_tables_says_so() -> None:
    layer = ShardedEmbedding([TableSpec(name="sum", rows=ROWS, dim=DIM)], engine=NullEngine())
    tape = fft.distributed.AccumulatingGradientTape(engine=NullEngine(), participants=[layer])
    scale = tf.Variable(1.0)
    with tape:
        loss = scale * tf.reduce_mean(layer({"sum": tf.ragged.constant([[1]])})["sum"])
    with pytest.raises(ValueError, match=r"participants\[0\].*its `trigger` must be among"):
        tape.gradient(loss, [scale])


@pytest.mark.parametrize("traced", [False, True])
def test_a_table_that_the_loss_does_not_use_stays_as_it_is(traced: bool) -> None:
    layer = ShardedEmbedding(
        [
            TableSpec(name=name, rows=ROWS, dim=DIM, optimizer=fft.optimizers.SparseAdam(0.1))
            for name in ("used", "unused")
        ],
        engine=NullEngine(),
    )
    ids = tf.constant([[1, 2], [3, 4]])

    def backward(*, both: bool) -> None:
        with tf.GradientTape() as tape:
            pooled = layer({"used": ids, "unused": ids})
            loss = tf.reduce_sum(pooled["used"]) + (tf.reduce_sum(pooled["unused"]) if both else 0)
        tape.gradient(loss, layer.trainable_variables)

    if traced:
        backward = tf.function(backward)
    held = []
    for both in (True, False):  # there is momentum when it is left out
        backward(both=both)
        layer.exchange_window(1.0)
        layer.apply_window(1.0)
        parts = layer.sharded.parts.values()
        held.append([[array.copy() for array in (p.weights, *p.states)] for p in parts])
    (used, unused), (used_after, unused_after) = held
    assert not np.array_equal(used[0], used_after[0])
    for before, after in zip(unused, unused_after, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("traced", [False, True])
def test_strings_train_the_table_that_their_rows_train(traced: bool) -> None:
    engine = NullEngine()
    keys = [b"", b"\xff\x00", b"k" * 10_000, *(b"key %d" % i for i in range(60))]
    vocabulary = ShardedVocabulary.build([keys], engine, num_parts=3, fingerprint_bits=32)
    specs = [
        TableSpec(name=name, rows=rows, dim=DIM, pooling="mean", optimizer=OPTIMIZERS["adam"]())
        for name, rows in (("keyed", vocabulary.num_rows), ("plain", ROWS))
    ]

    def trained(by_key: bool) -> list[np.ndarray]:
        layer = ShardedEmbedding(specs, engine=engine, vocabularies={"keyed": vocabulary})

        def backward(keyed: Any, offsets: Any, weights: Any, plain: Any, target: Any) -> None:
            with tf.GradientTape() as tape:
                pooled = layer({"keyed": (keyed, offsets, weights), "plain": plain})
                loss = loss_of(list(pooled.values()), target)
            tape.gradient(loss, layer.trainable_variables)

        if traced:
            backward = tf.function(backward, reduce_retracing=True)
        for step in range(6):
            rng = np.random.default_rng(step)
            lengths = rng.integers(0, 4, BATCH)
            words = [*keys, b"unknown", b"other"]
            chosen = [words[i] for i in rng.integers(0, len(words), lengths.sum())]
            backward(
                tf.constant(chosen, tf.string)
                if by_key
                else tf.constant(vocabulary.lookup(chosen)),
                tf.constant(np.concatenate([[0], np.cumsum(lengths)])),
                tf.constant(rng.uniform(0.5, 2.0, len(chosen)), tf.float32),
                ragged(rng),
                tf.constant(rng.standard_normal((BATCH, DIM)), tf.float32),
            )
            layer.exchange_window(1.0)
            layer.apply_window(1.0)
        parts = [*layer.sharded.parts.values(), *layer.sharded.replicas.values()]
        return [part.weights for part in parts]

    for got, want in zip(trained(True), trained(False), strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.std() > 0


def test_codes_of_strings_are_those_of_the_vocabulary() -> None:
    keys = ["", "a", b"\xff\x00", "für", "k" * 10_000]
    for seed in (0, 5, 2**64 - 1):
        vocabulary = ShardedVocabulary.build([keys], NullEngine(), seed=seed)
        codes = fft.hashing.hash_keys(tf.constant([keys, keys]), seed=seed)
        np.testing.assert_array_equal(codes, [vocabulary.hash_keys(keys)] * 2)


def test_strings_need_a_vocabulary() -> None:
    layer = ShardedEmbedding([TableSpec(name="t", rows=4, dim=2)], engine=NullEngine())
    with pytest.raises(TypeError, match="values must be an integer tensor"):
        layer({"t": tf.constant(["a"])})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tables_of_16_bits_train_as_pooled_embeddings_of_that_type_do(dtype: Any) -> None:
    def optimizer() -> Any:
        return fft.optimizers.RowwiseAdagrad(0.1, seed=5)

    sharded = ShardedEmbedding(
        [TableSpec(name="t", rows=ROWS, dim=DIM, optimizer=optimizer(), dtype=dtype)],
        engine=NullEngine(),
    )
    whole = fft.layers.PooledEmbedding(
        ROWS, DIM, table_dtype=dtype, fused_optimizer=optimizer(), name="t"
    )
    whole.build()
    (part,) = sharded.sharded.parts.values()
    whole.embeddings.assign(tf.cast(part.values(0, ROWS), dtype))
    for step in range(10):
        ids, target = batch_of(step)
        for layer in (sharded, whole):
            with tf.GradientTape() as tape:
                pooled = layer({"t": ids["sum"]})["t"] if layer is sharded else layer(ids["sum"])
                loss = loss_of([pooled], target)
            tape.gradient(loss, [v.value for v in layer.trainable_variables])
        sharded.exchange_window(1.0)
        sharded.apply_window(1.0)
    after = tf.cast(whole.embeddings.value, tf.float32).numpy()
    np.testing.assert_array_equal(part.values(0, ROWS), after)
    np.testing.assert_array_equal(part.states[0], whole.fused_accumulator.numpy().reshape(-1))
