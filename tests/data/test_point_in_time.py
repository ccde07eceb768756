from __future__ import annotations

import numpy as np
import pytest

from feedfast.data.point_in_time import Timeline


@pytest.mark.parametrize("num_rows", [0, 1, 2, 200])
def test_timeline_matches_the_naive_definition(num_rows: int) -> None:
    rng = np.random.default_rng(num_rows)
    codes = rng.integers(0, 7, num_rows)
    times = rng.integers(0, 30, num_rows)
    values = rng.normal(size=(num_rows, 2))
    timeline = Timeline.build(codes, times)
    sums, counts = timeline.sum_before(values), timeline.count_before()
    first, last = timeline.time_since_first(), timeline.time_since_last()
    assert sums.shape == (num_rows, 2)
    for row in range(num_rows):
        earlier = (codes == codes[row]) & (times < times[row])
        # float64 running sums of 200 values near 1
        np.testing.assert_allclose(sums[row], values[earlier].sum(axis=0), atol=1e-12)
        assert counts[row] == earlier.sum()
        if earlier.any():
            assert first[row] == times[row] - times[earlier].min()
            assert last[row] == times[row] - times[earlier].max()
        else:
            assert np.isnan([first[row], last[row]]).all()
