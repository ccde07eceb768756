from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

import feedfast.tf as fft
from reference.row_optimizer import RowOptimizer

NUM_ROWS, DIM = 53, 6
RULES: dict[str, type[keras.optimizers.Optimizer]] = {
    "sgd": fft.optimizers.SparseSGD,
    "adagrad": fft.optimizers.SparseAdagrad,
    "rowwise_adagrad": fft.optimizers.RowwiseAdagrad,
    "adam": fft.optimizers.SparseAdam,
    "rowwise_adam": fft.optimizers.RowwiseAdam,
}


def slices(rng: np.random.Generator, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Repeated rows in no order."""
    return (
        rng.integers(0, NUM_ROWS, count),
        rng.standard_normal((count, DIM)).astype(np.float32),
    )


def oracle(table: np.ndarray, rule: str) -> RowOptimizer:
    return RowOptimizer(table, rule, initial=0.1 if rule.endswith("adagrad") else 0.0)


def start() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((NUM_ROWS, DIM)).astype(np.float32)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_follows_the_oracle_over_many_steps(rule: str, traced: bool) -> None:
    rng = np.random.default_rng(2)
    variable = tf.Variable(start())
    optimizer = RULES[rule](0.05)
    want = oracle(start(), rule)

    def step(rows: tf.Tensor, values: tf.Tensor) -> None:
        optimizer.apply_gradients([(tf.IndexedSlices(values, rows, [NUM_ROWS, DIM]), variable)])

    optimizer.build([variable])
    call = tf.function(step) if traced else step
    for _ in range(200 if traced else 20):
        rows, values = slices(rng)
        call(tf.constant(rows), tf.constant(values))
        want.apply(rows, values, 0.05)
    # float32 against float64 over 200 steps
    np.testing.assert_allclose(variable.numpy(), want.table, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["sgd", "adagrad"])
def test_agrees_with_the_raw_ops_on_summed_gradients(rule: str) -> None:
    rng = np.random.default_rng(3)
    ours, theirs = tf.Variable(start()), tf.Variable(start())
    accumulator = tf.Variable(tf.fill([NUM_ROWS, DIM], 0.1))
    optimizer = RULES[rule](0.05)
    for _ in range(200):
        rows, values = slices(rng)
        optimizer.apply_gradients([(tf.IndexedSlices(values, rows), ours)])
        unique, positions = np.unique(rows, return_inverse=True)
        summed = np.zeros((len(unique), DIM), np.float32)
        np.add.at(summed, positions, values)
        if rule == "sgd":
            theirs.scatter_sub(tf.IndexedSlices(0.05 * summed, unique))
        else:
            tf.raw_ops.ResourceSparseApplyAdagradV2(
                var=theirs.handle,
                accum=accumulator.handle,
                lr=0.05,
                epsilon=1e-7,
                grad=summed,
                indices=unique,
            )
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_dense_gradients_follow_the_same_rule(rule: str) -> None:
    rng = np.random.default_rng(4)
    table, bias = tf.Variable(start()), tf.Variable([1.0, 2.0, 3.0])
    scalar = tf.Variable(0.5)
    optimizer = RULES[rule](0.05)
    want_table, want_bias = oracle(start(), rule), oracle(np.array([[1.0], [2.0], [3.0]]), rule)
    everything = np.arange(NUM_ROWS)
    for _ in range(10):
        grad = rng.standard_normal((NUM_ROWS, DIM)).astype(np.float32)
        bias_grad = rng.standard_normal(3).astype(np.float32)
        optimizer.apply_gradients(
            [(tf.constant(grad), table), (tf.constant(bias_grad), bias), (tf.constant(1.0), scalar)]
        )
        want_table.apply(everything, grad, 0.05)
        want_bias.apply(np.arange(3), bias_grad[:, None], 0.05)
    np.testing.assert_allclose(table.numpy(), want_table.table, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), want_bias.table[:, 0], rtol=1e-4, atol=1e-5)
    assert scalar.numpy() < 0.5


def test_adam_is_keras_adam_where_every_row_is_touched() -> None:
    rng = np.random.default_rng(5)
    ours, theirs = tf.Variable(start()), tf.Variable(start())
    our_optimizer, their_optimizer = fft.optimizers.SparseAdam(0.01), keras.optimizers.Adam(0.01)
    for _ in range(20):
        grad = tf.constant(rng.standard_normal((NUM_ROWS, DIM)), tf.float32)
        our_optimizer.apply_gradients([(tf.IndexedSlices(grad, tf.range(NUM_ROWS)), ours)])
        their_optimizer.apply_gradients([(grad, theirs)])
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6)


def test_touches_nothing_but_the_rows_of_the_batch() -> None:
    variable = tf.Variable(start())
    optimizer = fft.optimizers.SparseAdam(0.01)
    for _ in range(3):
        optimizer.apply_gradients([(tf.IndexedSlices(tf.ones([3, DIM]), [7, 2, 7]), variable)])
    changed = np.flatnonzero((variable.numpy() != start()).any(1))
    assert changed.tolist() == [2, 7]
    momentum, velocity = optimizer.variables[2:4]
    assert np.flatnonzero(momentum.numpy().any(1)).tolist() == [2, 7]
    assert np.flatnonzero(velocity.numpy().any(1)).tolist() == [2, 7]


def test_clipping_and_decay_see_the_summed_rows() -> None:
    rng = np.random.default_rng(6)
    variable = tf.Variable(start())
    optimizer = fft.optimizers.SparseSGD(0.5, clipnorm=3.0, row_weight_decay=0.1)
    want = oracle(start(), "sgd")
    for _ in range(5):
        rows, values = slices(rng)
        optimizer.apply_gradients([(tf.IndexedSlices(values, rows), variable)])
        want.apply(rows, values, 0.5, clipnorm=3.0, decay=0.1)
    np.testing.assert_allclose(variable.numpy(), want.table, rtol=1e-4, atol=1e-5)

    # Two opposite slices of a row cancel before they are clipped.
    variable = tf.Variable(tf.zeros([2, 1]))
    optimizer = fft.optimizers.SparseSGD(1.0, clipvalue=0.5)
    gradient = tf.IndexedSlices([[5.0], [-4.9], [2.0]], [0, 0, 1])
    optimizer.apply_gradients([(gradient, variable)])
    np.testing.assert_allclose(variable.numpy(), [[-0.1], [-0.5]], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_stochastic_rounding_keeps_small_updates(dtype: str) -> None:
    numpy_dtype = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    steps, update = 200, 1e-4  # far below half a unit in the last place of 1
    tables = {}
    for stochastic in (True, False):
        variable = tf.Variable(np.ones((512, 16), numpy_dtype))
        optimizer = fft.optimizers.SparseSGD(1.0, stochastic_rounding=stochastic, seed=3)
        gradient = tf.cast(tf.fill([512, 16], update), dtype)
        for _ in range(steps):
            optimizer.apply_gradients([(tf.IndexedSlices(gradient, tf.range(512)), variable)])
        tables[stochastic] = tf.cast(variable, tf.float32).numpy()
    assert (tables[False] == 1.0).all()
    # 8192 elements: the standard deviation of the mean is below 1e-3 of a unit in the last place
    assert tables[True].mean() == pytest.approx(1 - steps * update, abs=1e-3)
    again = tf.Variable(np.ones((512, 16), numpy_dtype))
    optimizer = fft.optimizers.SparseSGD(1.0, seed=3)
    for _ in range(steps):
        optimizer.apply_gradients([(tf.IndexedSlices(gradient, tf.range(512)), again)])
    np.testing.assert_array_equal(tf.cast(again, tf.float32).numpy(), tables[True])


def test_in_place_but_never_under_a_held_value() -> None:
    variable = tf.Variable(start())
    optimizer = fft.optimizers.SparseSGD(0.1)
    gradient = tf.IndexedSlices(tf.ones([1, DIM]), [3])
    optimizer.apply_gradients([(gradient, variable)])
    held = variable.read_value()
    before = held.numpy().copy()
    optimizer.apply_gradients([(gradient, variable)])
    np.testing.assert_array_equal(held.numpy(), before)
    assert (variable.numpy()[3] != before[3]).all()


class Model(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.bags = fft.layers.PooledEmbedding(NUM_ROWS, DIM, pooling="mean", name="bags")
        self.head = keras.layers.Dense(1, kernel_initializer="ones")

    def call(self, ids: Any) -> Any:
        return self.head(self.bags(ids))


def model_and_data() -> tuple[Model, tf.data.Dataset]:
    rng = np.random.default_rng(7)
    model = Model()
    ids = rng.integers(0, NUM_ROWS, (64, 5))
    labels = (ids.sum(1) % 2).astype(np.float32)[:, None]
    model(ids[:1])
    model.bags.embeddings.assign(start())
    return model, tf.data.Dataset.from_tensor_slices((ids, labels)).batch(16).repeat(2)


FIT_MODES: list[dict[str, Any]] = [
    {},
    {"run_eagerly": True},
    {"jit_compile": False},
    {"steps_per_execution": 4},
]


@pytest.mark.parametrize("rule", ["rowwise_adagrad", "adam"])
def test_every_mode_of_fit_trains_the_same(rule: str) -> None:
    tables = []
    for mode in FIT_MODES:
        model, data = model_and_data()
        model.compile(RULES[rule](0.05), "mse", **mode)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # shuffle=True on a tf.data.Dataset
            history = model.fit(data, epochs=2, verbose=0)
        assert history.history["loss"][-1] < history.history["loss"][0]
        tables.append(model.bags.embeddings.numpy())
    for table in tables[1:]:
        np.testing.assert_allclose(table, tables[0], rtol=1e-5, atol=1e-6)


def test_single_worker_strategies_train_the_same() -> None:
    tables = []
    for strategy in (
        tf.distribute.get_strategy(),
        tf.distribute.OneDeviceStrategy("/cpu:0"),
        tf.distribute.MirroredStrategy(["/cpu:0"]),
    ):
        with strategy.scope():
            model, data = model_and_data()
            model.compile(fft.optimizers.RowwiseAdagrad(0.05), "mse")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model.fit(data, epochs=1, verbose=0)
        tables.append(model.bags.embeddings.numpy())
    for table in tables[1:]:
        np.testing.assert_allclose(table, tables[0], rtol=1e-5, atol=1e-6)
    assert (tables[0] != start()).any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("rule", ["sgd", "rowwise_adam"])
def test_training_goes_on_from_keras_files_and_checkpoints(rule: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    batches = [(rng.integers(0, NUM_ROWS, (16, 5)), rng.random((16, 1))) for _ in range(8)]

    def build() -> keras.Model:
        inputs = keras.Input((5,), dtype="int64")
        bags = fft.layers.PooledEmbedding(NUM_ROWS, DIM, name="bags")
        model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(bags(inputs)))
        model.get_layer("bags").embeddings.assign(start())
        model.compile(RULES[rule](0.05, seed=4), "mse")
        return model

    whole = build()
    for batch in batches:
        whole.train_on_batch(*batch)
    half = build()
    for batch in batches[:4]:
        half.train_on_batch(*batch)
    half.save(tmp_path / "model.keras")
    checkpoint = tf.train.Checkpoint(model=half, optimizer=half.optimizer)
    path = checkpoint.save(str(tmp_path / "checkpoint"))

    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == half.optimizer.get_config()
    restored = build()
    restored.optimizer.build(restored.trainable_variables)
    tf.train.Checkpoint(model=restored, optimizer=restored.optimizer).restore(
        path
    ).assert_consumed()
    for model in (loaded, restored):
        for batch in batches[4:]:
            model.train_on_batch(*batch)
        np.testing.assert_allclose(
            model.get_layer("bags").embeddings.numpy(),
            whole.get_layer("bags").embeddings.numpy(),
            rtol=1e-6,
        )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_saved_train_step_trains(tmp_path: Path) -> None:
    module = tf.Module()
    module.table = tf.Variable(start())
    module.optimizer = fft.optimizers.SparseAdagrad(0.1)
    module.optimizer.build([module.table])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def step(ids: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(fft.ops.pooled_lookup(module.table, ids, [0, tf.size(ids)]) ** 2)
        module.optimizer.apply_gradients([(tape.gradient(loss, module.table), module.table)])
        return loss

    module.step = step
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    losses = [float(loaded.step(tf.constant([3, 4, 3], tf.int64))) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(module.table.numpy(), start())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("global_clipnorm", 1.0),
        ("gradient_accumulation_steps", 2),
        ("loss_scale_factor", 128.0),
        ("weight_decay", 0.1),
        ("weight_decay", 0.0),
        ("use_ema", True),
    ],
)
def test_refuses_what_would_make_gradients_dense(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"SparseSGD does not take {option}={value}: Keras .*; "):
        fft.optimizers.SparseSGD(0.1, **{option: value})


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="at most one of clipnorm, clipvalue and row_clipnorm"):
        fft.optimizers.SparseSGD(0.1, clipnorm=1.0, row_clipnorm=1.0)
    with pytest.raises(ValueError, match="a clipping bound must be above 0; got -1"):
        fft.optimizers.SparseSGD(0.1, row_clipnorm=-1.0)
    with pytest.raises(ValueError, match="beta_1 and beta_2 must be in"):
        fft.optimizers.SparseAdam(0.1, beta_1=1.0)
    with pytest.raises(ValueError, match="weight_decay_mode must be one of 'l2', 'decouple'; got"):
        fft.optimizers.SparseSGD(0.1, weight_decay_mode="adamw")

    with pytest.raises(ValueError, match="epsilon above 0; got"):
        fft.optimizers.RowwiseAdagrad(0.1, epsilon=0.0)

    variable = tf.Variable(start())
    rule = fft.ops.RowRule(rule="sgd")
    invalid = tf.errors.InvalidArgumentError

    def refused(message: str, error: type[Exception] = invalid, **changes: Any) -> None:
        arguments: dict[str, Any] = {
            "table": variable,
            "states": [],
            "rows": [1],
            "values": tf.ones([1, DIM]),
            "rule": rule,
            "learning_rate": 0.1,
            "step": 1,
            **changes,
        }
        with pytest.raises(error, match=re.escape(message)):
            fft.ops.row_update(**arguments)

    message = "rows[1] = 53 is not a row of a table with 53 rows"
    refused(message, rows=[1, NUM_ROWS], values=tf.ones([2, DIM]))
    refused("rows[0] = -1 is not a row", rows=[-1])
    refused("values must have 1 x 6 elements; got shape [1,5]", values=tf.ones([1, 5]))
    refused("learning_rate = nan must be finite", learning_rate=float("nan"))
    refused("step = 0 must be at least 1", step=0)
    refused("the rule has 1 states; got 0", rule=fft.ops.RowRule(rule="adagrad"))
    refused(
        "states[0] has 6 elements; the rule needs 53",
        rule=fft.ops.RowRule(rule="rowwise_adagrad"),
        states=[tf.Variable(tf.zeros([6]))],
    )
    refused(
        "table and states must be different variables; states[0] is given twice",
        rule=fft.ops.RowRule(rule="adagrad"),
        states=[variable],
    )
    refused(
        "epsilon = 0 must be finite and above 0",
        rule=fft.ops.RowRule(rule="rowwise_adagrad", epsilon=0.0),
        states=[tf.Variable(tf.zeros([NUM_ROWS]))],
    )
    refused("beta1 = 1 must be in [0, 1)", rule=fft.ops.RowRule(rule="adam", beta1=1.0))
    refused("rows are updated in variables of", TypeError, table=tf.ones([3]))
    np.testing.assert_array_equal(variable.numpy(), start())  # nothing was written


def test_assign_and_reset_rows() -> None:
    variable = tf.Variable(start())
    optimizer = fft.optimizers.SparseAdagrad(0.1)
    optimizer.apply_gradients([(tf.IndexedSlices(tf.ones([2, DIM]), [3, 5]), variable)])
    fft.ops.assign_rows(variable, [5, 0], tf.stack([tf.zeros(DIM), tf.ones(DIM)]))
    optimizer.reset_rows(variable, [5])
    assert variable.numpy()[[5, 0], 0].tolist() == [0.0, 1.0]
    accumulator = optimizer.variables[2].numpy()
    np.testing.assert_allclose(accumulator[[3, 5], 0], [1.1, 0.1])
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=re.escape("rows[0] = 53 is not a row")
    ):
        fft.ops.assign_rows(variable, [NUM_ROWS], tf.zeros([1, DIM]))


def test_empty_gradient_changes_nothing() -> None:
    variable = tf.Variable(start())
    fft.optimizers.SparseAdam(0.1).apply_gradients(
        [(tf.IndexedSlices(tf.zeros([0, DIM]), tf.zeros([0], tf.int32)), variable)]
    )
    np.testing.assert_array_equal(variable.numpy(), start())
