from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from feedfast.row_optimizers import RowUpdater, Rule
from reference.row_optimizer import RowOptimizer

NUM_ROWS, DIM = 61, 7
RULES: tuple[Rule, ...] = ("sgd", "adagrad", "rowwise_adagrad", "adam", "rowwise_adam")


def start() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((NUM_ROWS, DIM), dtype=np.float32)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rule", RULES)
def test_rows_and_bags_follow_the_oracle(rule: Rule, threads: int) -> None:
    rng = np.random.default_rng(2)
    table, updater = start(), RowUpdater(rule, threads=threads)
    states = updater.states(table)
    want = RowOptimizer(start(), rule)
    for step in range(1, 21):
        rows = rng.integers(0, NUM_ROWS, 40)
        if step % 2:
            values = rng.standard_normal((40, DIM), dtype=np.float32)
            updater.apply_rows(table, states, rows, values, learning_rate=0.05, step=step)
        else:
            grad = rng.standard_normal((8, DIM), dtype=np.float32)
            offsets = np.arange(0, 41, 5)
            updater.apply_bags(
                table, states, rows, offsets, None, grad,
                pooling="mean", learning_rate=0.05, step=step,
            )  # fmt: skip
            values = np.repeat(grad / 5, 5, axis=0)
        want.apply(rows, values, 0.05)
    np.testing.assert_allclose(table, want.table, rtol=1e-4, atol=1e-5)  # float32, 20 steps


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bit_tables_round_reproducibly(dtype: Any) -> None:
    tables = []
    for seed, threads in ((1, 1), (1, 2), (2, 1)):
        table = np.ones((NUM_ROWS, 64), dtype)
        updater = RowUpdater("sgd", seed=seed, threads=threads)
        grad = np.full((NUM_ROWS, 64), 1e-3, np.float32)
        updater.apply_rows(table, [], np.arange(NUM_ROWS), grad, learning_rate=1.0, step=1)
        tables.append(table.astype(np.float32))
    np.testing.assert_array_equal(tables[0], tables[1])
    assert (tables[0] != tables[2]).any()
    assert tables[0].mean() == pytest.approx(0.999, abs=3e-4)


def test_one_state_for_two_moments_is_refused() -> None:
    table, updater = start(), RowUpdater("adam")
    state = np.zeros_like(table)
    ones = np.ones((1, DIM), np.float32)
    with pytest.raises(ValueError, match=re.escape("states[1] shares memory with states[0]")):
        updater.apply_rows(table, [state] * 2, np.array([1]), ones, learning_rate=0.1, step=1)
    np.testing.assert_array_equal(table, start())


def test_threads_share_an_updater() -> None:
    updater = RowUpdater("sgd")
    rng = np.random.default_rng(3)
    batches = [rng.integers(0, NUM_ROWS, rng.integers(1, 3000)) for _ in range(60)]

    def train(table: np.ndarray) -> np.ndarray:
        for step, rows in enumerate(batches, start=1):
            grad = np.ones((rows.size, DIM), np.float32)
            updater.apply_rows(table, [], rows, grad, learning_rate=0.01, step=step)
        return table

    want = train(start())
    with ThreadPoolExecutor(4) as threads:
        for got in threads.map(train, [start() for _ in range(4)]):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("rule", ["rowwise_adagrad", "rowwise_adam"])
def test_columns_of_a_wider_table_follow_the_squares_of_whole_rows(rule: Rule) -> None:
    rng = np.random.default_rng(5)
    updater = RowUpdater(rule, epsilon=1e-3)
    whole, parts = start(), [start()[:, :3].copy(), start()[:, 3:].copy()]
    states, part_states = updater.states(whole), [updater.states(part) for part in parts]
    for step in range(1, 6):
        rows = np.unique(rng.integers(0, NUM_ROWS, 30))
        grad = rng.standard_normal((rows.size, DIM), dtype=np.float32)
        updater.apply_rows(whole, states, rows, grad, learning_rate=0.1, step=step)
        squares = np.square(grad).sum(axis=1)
        for part, own, columns in zip(parts, part_states, (slice(3), slice(3, None)), strict=True):
            updater.apply_rows(
                part, own, rows, grad[:, columns].copy(),
                learning_rate=0.1, step=step, row_squares=squares, row_dim=DIM,
            )  # fmt: skip
    np.testing.assert_allclose(np.hstack(parts), whole, rtol=1e-5, atol=1e-6)  # order of the sums


def test_bad_input_writes_nothing() -> None:
    table = start()
    updater = RowUpdater("rowwise_adagrad")
    states = updater.states(table)
    ones = np.ones((2, DIM), np.float32)

    def refused(error: type[Exception], message: str, **changes: Any) -> None:
        arguments: dict[str, Any] = {
            "table": table,
            "states": states,
            "rows": np.array([1, 2]),
            "values": ones,
            "learning_rate": 0.1,
            "step": 1,
            **changes,
        }
        with pytest.raises(error, match=re.escape(message)):
            updater.apply_rows(**arguments)

    refused(IndexError, "rows[1] = 61 is not a row of a table with 61 rows", rows=np.array([1, 61]))
    refused(ValueError, "values must have shape [2, 7]; got [2, 6]", values=ones[:, :6].copy())
    refused(ValueError, "the rule has 1 states; got 0", states=[])
    one = np.ones(1, np.float32)
    refused(ValueError, "row_squares has 1 elements; needs 2", row_squares=one, row_dim=9)
    two = np.ones(2, np.float32)
    refused(ValueError, "row_dim = 6 is below the columns", row_squares=two, row_dim=6)
    down = np.array([2, 1])
    refused(ValueError, "rows must ascend", rows=down, row_squares=two, row_dim=9)
    refused(ValueError, "states[0] has 3 elements", states=[np.zeros(3, np.float32)])
    refused(ValueError, "learning_rate = nan must be finite", learning_rate=float("nan"))
    refused(
        ValueError, "format must be one of 'float32', 'float16'", table=table.astype(np.float64)
    )
    swapped = table.astype(table.dtype.newbyteorder())
    refused(ValueError, "table must be in native byte order", table=swapped)
    refused(ValueError, "states[0] shares memory with table", states=[table.ravel()[:NUM_ROWS]])
    with pytest.raises(TypeError, match="step"):
        updater.apply_rows(table, states, np.array([1]), ones[:1], learning_rate=0.1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="epsilon = 0 must be finite and above 0"):
        RowUpdater("adam", epsilon=0.0)
    with pytest.raises(ValueError, match="rule must be one of 'sgd'"):
        RowUpdater("adamw")  # type: ignore[arg-type]
    np.testing.assert_array_equal(table, start())
