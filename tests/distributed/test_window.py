"""The window of micro-batches against sums made by hand, with threads as processes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from thread_engines import on_ranks

from feedfast.comm import Engine, NullEngine
from feedfast.tf.distributed import equal_steps
from feedfast.tf.distributed.sparse_exchange import Wire, rows_are_cheaper
from feedfast.tf.distributed.window import GradientSlot, GradientWindow

SLOTS = [
    GradientSlot(name="matrix", shape=(7, 5), sparse=False, local=False),
    GradientSlot(name="large", shape=(500, 3), sparse=True, local=False),
    GradientSlot(name="scalar", shape=(), sparse=False, local=False),
    GradientSlot(name="tiny", shape=(2, 7), sparse=True, local=False),
    GradientSlot(name="own", shape=(3, 2), sparse=False, local=True),
    GradientSlot(name="own_table", shape=(40, 2), sparse=True, local=True),
    GradientSlot(name="vector", shape=(90,), sparse=True, local=False),
]
NUM_WINDOWS = 4


def draw(window: int, step: int, rank: int) -> list[Any]:
    """The gradients of one micro-batch: sometimes no rows at all, always some twice."""
    rng = np.random.default_rng([window, step, rank])
    gradients: list[Any] = []
    for slot in SLOTS:
        if not slot.sparse:
            gradients.append(rng.standard_normal(slot.shape).astype(np.float32))
            continue
        count = int(rng.choice([0, 1, 6, 40]))
        hot = slot.name == "tiny"
        rows = np.zeros(count, np.int64) if hot else rng.integers(0, slot.shape[0], count)
        gradients.append((rows, rng.standard_normal((count, slot.dim)).astype(np.float32)))
    return gradients


def dense_mean(window: int, k: int, ranks: range, total: int) -> list[NDArray[np.float64]]:
    """Sum over micro-batches and `ranks`, whole tables, divided by `total`."""
    sums = [np.zeros((slot.shape[0], slot.dim) if slot.sparse else slot.shape) for slot in SLOTS]
    for step in range(k):
        for rank in ranks:
            for table, slot, gradient in zip(sums, SLOTS, draw(window, step, rank), strict=True):
                if slot.sparse:
                    np.add.at(table, *gradient)
                else:
                    table += gradient
    return [table / total for table in sums]


def touched(window: int, k: int, ranks: range, index: int) -> NDArray[np.int64]:
    rows = [draw(window, step, rank)[index][0] for step in range(k) for rank in ranks]
    return np.unique(np.concatenate(rows))


def run_windows(engine: Engine, k: int, wire: Wire = "exact") -> tuple[list[Any], list[Any]]:
    window = GradientWindow(SLOTS, engine=engine, k=k, wire=wire)
    results, choices = [], []
    for index in range(NUM_WINDOWS):
        for step in range(k):
            assert not window.is_full
            window.add(draw(index, step, engine.rank), weight=1.0)
        results.append(window.exchange())
        choices.append(window.choices)
    return results, choices


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_a_window_is_the_mean_over_all_micro_batches_of_all_processes(size: int, k: int) -> None:
    by_rank = on_ranks(size, lambda engine: run_windows(engine, k))
    for rank, (windows, choices) in enumerate(by_rank):
        for index, gradients in enumerate(windows):
            everybody = dense_mean(index, k, range(size), k * size)
            mine = dense_mean(index, k, range(rank, rank + 1), k * size)
            for i, slot in enumerate(SLOTS):
                want = (mine if slot.local else everybody)[i]
                ranks = range(rank, rank + 1) if slot.local else range(size)
                got = gradients[i]
                if slot.sparse:
                    rows, values = got
                    np.testing.assert_array_equal(np.sort(rows), touched(index, k, ranks, i))
                    got = np.zeros_like(want)
                    got[rows] = values
                np.testing.assert_allclose(got, want, atol=1e-6 * max(1.0, np.abs(want).max()))
        # Both forms occur, and all processes choose alike.
        assert choices == by_rank[0][1]
        assert [choice.name for choice in choices[0]] == ["large", "tiny", "vector"]
        if size > 1 and k == 5:
            assert {choice.form for window in choices for choice in window} == {"rows", "table"}
        for i, slot in enumerate(SLOTS):
            if slot.local:
                continue
            for ours, theirs in zip(windows, by_rank[0][0], strict=True):
                pair = (
                    zip(ours[i], theirs[i], strict=True) if slot.sparse else [(ours[i], theirs[i])]
                )
                for one, other in pair:
                    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [2, 3])
def test_bfloat16_on_the_wire_rounds_gradients_and_keeps_weights(size: int) -> None:
    for windows, _ in on_ranks(size, lambda engine: run_windows(engine, 5, "bf16")):
        for index, gradients in enumerate(windows):
            want = dense_mean(index, 5, range(size), 5 * size)
            np.testing.assert_allclose(gradients[0], want[0], atol=0.02)
            rows, values = gradients[1]
            np.testing.assert_allclose(values, want[1][rows], atol=0.02)


def test_a_window_is_one_dense_and_at_most_one_sparse_exchange() -> None:
    def count(engine: Engine) -> dict[str, int]:
        run_windows(engine, 5)
        return {name: traffic.exchanges for name, traffic in engine.exchanges_by_name.items()}

    assert (
        on_ranks(2, count)
        == [{"feedfast_layout": 1, "feedfast_window_dense": 4, "feedfast_window_rows": 4}] * 2
    )


NARROW_SLOTS = [
    GradientSlot(name="wide", shape=(5,), sparse=False, local=False),
    GradientSlot(name="half", shape=(40, 3), sparse=False, local=False, dtype="float16"),
    GradientSlot(name="brain", shape=(33,), sparse=False, local=False, dtype="bfloat16"),
    GradientSlot(name="own", shape=(9,), sparse=False, local=True, dtype="bfloat16"),
]


@pytest.mark.parametrize("clip_norm", [None, 1e6, 0.5])
def test_gradients_of_16_bits_are_summed_in_float32_and_rounded_once(
    clip_norm: float | None,
) -> None:
    size, k = 3, 4

    def gradients_of(step: int, rank: int) -> list[Any]:
        rng = np.random.default_rng([step, rank])
        return [np.asarray(rng.normal(0, 9, s.shape), DTYPES[s.dtype]) for s in NARROW_SLOTS]

    def run(engine: Engine) -> list[Any]:
        window = GradientWindow(NARROW_SLOTS, engine=engine, k=k, clip_norm=clip_norm)
        for step in range(k):
            mine = gradients_of(step, engine.rank)
            window.add([g.view(np.uint16) if is_brain(g) else g for g in mine], weight=1.0)
        got = window.exchange()
        assert engine.exchanges_by_name["feedfast_window_dense"].exchanges == 1
        return got

    drawn = [[gradients_of(step, rank) for step in range(k)] for rank in range(size)]
    everybody: list[Any] = [
        sum(drawn[rank][step][i].astype(np.float64) for rank in range(size) for step in range(k))
        for i in range(3)
    ]
    own = [
        sum(drawn[rank][step][3].astype(np.float64) for step in range(k)) for rank in range(size)
    ]
    norm = np.sqrt(sum(np.sum(s**2) for s in (*everybody, *own))) / (k * size)
    multiplier = 1.0 if clip_norm is None else min(1.0, clip_norm / norm)
    assert (multiplier < 1.0) == (clip_norm == 0.5)
    results = on_ranks(size, run)
    for rank, got in enumerate(results):
        for slot, gradient, total in zip(NARROW_SLOTS, got, [*everybody, own[rank]], strict=True):
            dtype = DTYPES[slot.dtype]
            found = gradient.view(dtype)
            # One rounding to 16 bits, behind a few of float32.
            epsilon = float(ml_dtypes.finfo(dtype).eps)
            want = total * multiplier / (k * size)
            np.testing.assert_allclose(
                found.astype(np.float64), want, rtol=0.51 * epsilon + 1e-6, atol=1e-6
            )
            if not slot.local:
                np.testing.assert_array_equal(gradient, results[0][NARROW_SLOTS.index(slot)])


DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}


def is_brain(array: NDArray[Any]) -> bool:
    return array.dtype == ml_dtypes.bfloat16


def test_weights_make_a_weighted_mean_and_weight_zero_touches_no_row() -> None:
    def run(engine: Engine) -> list[Any]:
        window = GradientWindow(SLOTS, engine=engine, k=2)
        window.add(draw(0, 0, engine.rank), weight=1.0)
        window.add(draw(0, 1, engine.rank), weight=1.0 if engine.rank == 0 else 0.0)
        first = window.exchange()
        window.add(draw(1, 0, 0), weight=float(engine.rank == 0))
        window.add(draw(1, 0, 0), weight=0.0)
        return [first, window.exchange()]

    for first, second in on_ranks(2, run):
        parts = [draw(0, 0, 0), draw(0, 1, 0), draw(0, 0, 1)]
        np.testing.assert_allclose(first[0], sum(part[0] for part in parts) / 3, atol=1e-6)
        np.testing.assert_array_equal(
            np.sort(first[1][0]), np.unique(np.concatenate([part[1][0] for part in parts]))
        )
        np.testing.assert_array_equal(second[0], draw(1, 0, 0)[0])


def test_a_window_of_weight_zero_is_zero() -> None:
    window = GradientWindow(SLOTS, engine=NullEngine(), k=1)
    window.add(draw(0, 0, 0), weight=1.0)
    window.exchange()
    window.add(draw(0, 0, 0), weight=0.0)
    gradients = window.exchange()
    assert not gradients[0].any()
    assert not gradients[4].any()
    assert len(gradients[1][0]) == 0


class Owner:
    """A participant whose process owns one number."""

    def __init__(self, gradient: float) -> None:
        self.gradient, self.calls = gradient, []

    def begin_backward(self, weight: float) -> None:
        raise AssertionError("the tape calls it, not the window")

    def exchange_window(self, scale: float) -> float:
        self.calls.append(("exchange", scale))
        return (self.gradient * scale) ** 2

    def apply_window(self, multiplier: float) -> None:
        self.calls.append(("apply", multiplier))

    def discard_window(self) -> None:
        self.calls.append(("discard",))


@pytest.mark.parametrize("clip_norm", [0.5, 1e6])
@pytest.mark.parametrize("size", [1, 3])
def test_clipping_by_the_norm_of_shared_local_and_sharded_gradients(
    size: int, clip_norm: float
) -> None:
    def run(engine: Engine, clip: float | None) -> tuple[list[Any], list[Any]]:
        owner = Owner(10.0 + engine.rank)
        window = GradientWindow(SLOTS, engine=engine, k=2, participants=[owner], clip_norm=clip)
        for step in range(2):
            window.add(draw(3, step, engine.rank), weight=1.0)
        return window.exchange(), owner.calls

    plain = on_ranks(size, lambda engine: run(engine, None))
    clipped = on_ranks(size, lambda engine: run(engine, clip_norm))
    squares = 0.0
    for rank, (gradients, _) in enumerate(plain):
        squares += ((10.0 + rank) / (2 * size)) ** 2
        for slot, gradient in zip(SLOTS, gradients, strict=True):
            if slot.local or rank == 0:
                squares += float(np.sum(np.square(gradient[1] if slot.sparse else gradient)))
    multiplier = min(1.0, clip_norm / np.sqrt(squares))
    for (before, _), (after, calls) in zip(plain, clipped, strict=True):
        assert calls[0] == ("exchange", 1 / (2 * size))
        assert calls[1] == ("apply", pytest.approx(multiplier, rel=1e-6))
        for slot, one, other in zip(SLOTS, before, after, strict=True):
            pair = (one[1], other[1]) if slot.sparse else (one, other)
            np.testing.assert_allclose(pair[1], pair[0] * multiplier, rtol=1e-5, atol=1e-7)


def test_a_norm_that_is_not_finite_is_refused_everywhere_and_the_window_forgotten() -> None:
    def run(engine: Engine) -> list[Any]:
        owner = Owner(1.0)
        window = GradientWindow(SLOTS, engine=engine, k=1, participants=[owner], clip_norm=1.0)
        gradients = draw(0, 0, engine.rank)
        if engine.rank == 1:
            gradients[0][0, 0] = np.nan
        window.add(gradients, weight=1.0)
        with pytest.raises(FloatingPointError, match="the global norm of the gradients is nan"):
            window.exchange()
        assert window.num_added == 0
        return owner.calls

    for calls in on_ranks(2, run):
        assert [call[0] for call in calls] == ["exchange", "discard"]


def test_processes_with_other_variables_are_told_so() -> None:
    def run(engine: Engine) -> None:
        shape = (2, 2) if engine.rank == 0 else (2, 3)
        slot = GradientSlot(name="matrix", shape=shape, sparse=False, local=False)
        window = GradientWindow([slot], engine=engine, k=1)
        window.add([np.ones(shape, np.float32)], weight=1.0)
        with pytest.raises(ValueError, match=r"has other variables.*matrix"):
            window.exchange()

    on_ranks(2, run)


def test_windows_are_exchanged_when_they_are_full_and_only_then() -> None:
    window = GradientWindow(SLOTS, engine=NullEngine(), k=2)
    window.add(draw(0, 0, 0), weight=1.0)
    with pytest.raises(RuntimeError, match="1 of its 2 micro-batches"):
        window.exchange()
    window.add(draw(0, 1, 0), weight=1.0)
    with pytest.raises(RuntimeError, match="has its 2 micro-batches"):
        window.add(draw(0, 1, 0), weight=1.0)


@pytest.mark.parametrize("dim", [1, 16, 64])
@pytest.mark.parametrize("size", [2, 4])
def test_the_choice_minimises_the_bytes(size: int, dim: int) -> None:
    num_rows = 1000
    for rows in range(0, num_rows + 1, 25):
        as_rows = (size - 1) * rows * (4 * dim + 8)
        as_table = 2 * (size - 1) / size * num_rows * 4 * dim
        got = rows_are_cheaper(rows, num_rows, dim, size, "exact")
        assert got == (as_rows < as_table)
    assert rows_are_cheaper(1e9, None, dim, size, "exact")
    assert rows_are_cheaper(num_rows, num_rows, dim, 1, "exact")


def test_processes_without_local_gradients_take_part_in_the_norm() -> None:
    def run(engine: Engine) -> float:
        slots = SLOTS[: 4 + (engine.rank == 1)]
        window = GradientWindow(slots, engine=engine, k=1, clip_norm=1e-3)
        window.add(draw(0, 0, engine.rank)[: len(slots)], weight=1.0)
        return float(window.exchange()[2])

    assert len(set(on_ranks(3, run))) == 1


def test_a_process_without_any_batch_is_an_error_in_all() -> None:
    def run(engine: Engine) -> None:
        batches = "ab" if engine.rank == 0 else ""
        with pytest.raises(ValueError, match="process 1 has no batch"):
            list(equal_steps(batches, engine, k=1))

    on_ranks(2, run)
