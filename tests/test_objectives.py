from __future__ import annotations

import numpy as np
import pytest

from feedfast.objectives import Objective, Utility, check_objectives, inverse_base_rates

OBJECTIVES = (
    Objective("click", "passive"),
    Objective("like", "active"),
    Objective("reply", "other"),
    Objective("dwell", "passive"),
)


def test_score_is_the_closed_form() -> None:
    utility = Utility(
        objectives=OBJECTIVES, weights=(2.0, 5.0, 7.0, 3.0), alpha=0.25, other_weight=0.5
    )
    p = np.random.default_rng(1).random((50, 4)).astype(np.float32)
    passive = 2.0 * p[:, 0] + 3.0 * p[:, 3]
    want = 0.25 * passive + 0.75 * 5.0 * p[:, 1] + 0.5 * 7.0 * p[:, 2]
    got = utility.score(p)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-6)  # four float32 additions


def test_score_never_falls_when_a_probability_rises() -> None:
    rng = np.random.default_rng(2)
    p = rng.random((200, 4)).astype(np.float32)
    for _ in range(20):
        utility = Utility(
            objectives=OBJECTIVES,
            weights=tuple(rng.uniform(0, 100, 4)),
            alpha=float(rng.random()),
            other_weight=float(rng.random()),
        )
        for head in range(4):
            higher = p.copy()
            higher[:, head] = np.minimum(1.0, p[:, head] + rng.random(200).astype(np.float32))
            assert (utility.score(higher) >= utility.score(p)).all()


def test_score_does_not_depend_on_the_batch() -> None:
    utility = Utility(objectives=OBJECTIVES, weights=(1.1, 20.3, 333.3, 3.7))
    p = np.random.default_rng(3).random((101, 4)).astype(np.float32)
    alone = np.concatenate([utility.score(p[i : i + 1]) for i in range(101)])
    np.testing.assert_array_equal(utility.score(p), alone)
    np.testing.assert_array_equal(utility.score(np.asfortranarray(p)), alone)
    assert utility.score(p[:0]).shape == (0,)


def test_inverse_base_rates() -> None:
    nan = np.nan
    labels = np.array([[1, 0, nan, 1], [1, 0, nan, 0], [0, 0, 1, nan], [0, 0, 0, 0]], np.float32)
    weights = inverse_base_rates(labels, OBJECTIVES)
    np.testing.assert_array_equal(weights, np.float32([2, 8, 2, 3]))  # no like: as if half of one
    labels[:, 2] = nan
    with pytest.raises(ValueError, match="objective 'reply': no row has a defined label"):
        inverse_base_rates(labels, OBJECTIVES)
    with pytest.raises(ValueError, match=r"shape \(4, 3\) does not have one column for each of 4"):
        inverse_base_rates(labels[:, :3], OBJECTIVES)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="group must be one of passive, active, other; got 'new'"):
        Objective("click", "new")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name is empty"):
        Objective("", "passive")
    with pytest.raises(ValueError, match="'click' occurs twice"):
        check_objectives([OBJECTIVES[0], OBJECTIVES[0]])
    with pytest.raises(ValueError, match="at least one is needed"):
        check_objectives([])
    weights = (1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="3 weights for 4 objectives"):
        Utility(objectives=OBJECTIVES, weights=weights[:3])
    with pytest.raises(ValueError, match=r"weight of 'like' must be finite and >= 0; got -1\.0"):
        Utility(objectives=OBJECTIVES, weights=(1.0, -1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]; got 1\.5"):
        Utility(objectives=OBJECTIVES, weights=weights, alpha=1.5)
    with pytest.raises(ValueError, match="other_weight must be finite"):
        Utility(objectives=OBJECTIVES, weights=weights, other_weight=float("inf"))
    with pytest.raises(ValueError, match="add up to 1e\\+300; allowed: at most 1e\\+38"):
        Utility(objectives=OBJECTIVES, weights=(2e300, 1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="one column for each of 4 objectives"):
        Utility(objectives=OBJECTIVES, weights=weights).score(np.zeros((2, 3), np.float32))
