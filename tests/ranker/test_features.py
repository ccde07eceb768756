"""Features: learned on training rows alone, point in time, and equal after a round trip."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feedfast.config import RankerConfig
from feedfast.data import Simulation
from feedfast.data.fingerprint import fingerprint
from feedfast.data.key_counts import frequent_keys
from feedfast.ranker.examples import RowBags
from feedfast.ranker.features import FeatureSpace
from feedfast.ranker.normalizer import Normalizer
from feedfast.ranker.rows import history_of, split_log, split_rows


def test_normalizer_closed_form() -> None:
    x = np.array([[1, 5, np.nan], [3, 5, np.nan], [np.nan, 5, np.nan]], dtype=np.float32)
    normalizer = Normalizer.fit(x)
    np.testing.assert_array_equal(normalizer.mean, [2, 5, 0])
    np.testing.assert_array_equal(normalizer.inv_std, [1, 0, 0])
    np.testing.assert_array_equal(normalizer(x), [[-1, 0, 0], [1, 0, 0], [0, 0, 0]])
    far = np.array([[1e30, 1e30, 3e38], [-1e30, -3e38, 1]], dtype=np.float32)
    np.testing.assert_array_equal(normalizer(far), [[8, 0, 0], [-8, 0, 0]])
    assert normalizer(x[:0]).shape == (0, 3)


def test_row_bags_take() -> None:
    bags = RowBags(np.array([7, 8, 9, 10]), np.array([0, 2, 2, 4]))
    taken = bags.take(np.array([2, 1, 0, 2]))
    np.testing.assert_array_equal(taken.values, [9, 10, 7, 8, 9, 10])
    np.testing.assert_array_equal(taken.offsets, [0, 2, 2, 4, 6])
    empty = bags.take(np.zeros(0, dtype=np.int64))
    assert len(empty.values) == 0
    np.testing.assert_array_equal(empty.offsets, [0])


def test_frequent_keys_counts_columns_apart() -> None:
    a = pa.array(["x", "y", "x", ""])
    b = pa.array(["y", "z", "y", "z"]).dictionary_encode()
    assert frequent_keys([a, b], min_count=2).to_pylist() == ["x", "y", "z"]
    assert frequent_keys([a, b], min_count=1).to_pylist() == ["x", "y", "", "z"]
    assert frequent_keys([a[:0]], min_count=1).to_pylist() == []


def test_features_see_training_rows_only(
    simulation: Simulation, small_config: RankerConfig
) -> None:
    """Changing the other rows changes nothing that is learned."""
    dataset = simulation.dataset
    rows = split_rows(dataset.log, small_config)
    other = dataset.log.shared.copy()
    other[rows.test] = 1e6
    labels = dataset.log.labels.copy()
    labels[rows.test] = 1.0
    changed = replace(dataset, log=replace(dataset.log, shared=other, labels=labels))
    spaces = [FeatureSpace.fit(d, rows.train, small_config) for d in (dataset, changed)]
    np.testing.assert_array_equal(spaces[0].normalizer.mean, spaces[1].normalizer.mean)
    assert spaces[0].forest.to_bytes() == spaces[1].forest.to_bytes()
    assert spaces[0].sizes == spaces[1].sizes


def test_rare_and_unknown_ids_share_row_zero(
    simulation: Simulation, small_config: RankerConfig
) -> None:
    log = simulation.dataset.log
    rows = np.arange(0, log.num_rows, 12)
    space = FeatureSpace.fit(simulation.dataset, rows, small_config)
    examples = space.encode(log.take(rows), history_of(simulation.dataset, small_config).take(rows))
    counts = {
        role: dict(
            zip(
                *np.unique(getattr(log, role).take(pa.array(rows)), return_counts=True), strict=True
            )
        )
        for role in ("viewer", "actor", "root_actor")
    }
    most = {k: max(c.get(k, 0) for c in counts.values()) for c in counts.values() for k in c}
    for role in counts:
        keys = getattr(log, role).take(pa.array(rows)).to_pylist()
        is_rare = np.array([most[key] < small_config.member.min_count for key in keys])
        np.testing.assert_array_equal(getattr(examples, role) == 0, is_rare)
    assert 0 < np.mean(examples.actor == 0) < 1
    assert space.members.lookup(["never seen"])[0] == 0


def test_features_round_trip(
    simulation: Simulation, small_config: RankerConfig, tmp_path: Path
) -> None:
    rows = np.arange(1000)
    space = FeatureSpace.fit(simulation.dataset, rows, small_config)
    space.save(tmp_path)
    again = FeatureSpace.open(tmp_path)
    log, history = simulation.dataset.log, history_of(simulation.dataset, small_config)
    one, two = (s.encode(log, history) for s in (space, again))
    np.testing.assert_array_equal(one.actor, two.actor)
    np.testing.assert_array_equal(one.history_members.values, two.history_members.values)
    np.testing.assert_array_equal(one.leaves, two.leaves)
    np.testing.assert_array_equal(one.shared, two.shared)
    np.testing.assert_array_equal(one.dense, two.dense)

    with pytest.raises(ValueError, match=r"shared features are .*; the ranker was trained on"):
        again.encode(replace(log, shared=log.shared[:, :0], shared_names=()), history)
    (tmp_path / "normalizer.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(ValueError, match=r"normalizer\.safetensors"):
        FeatureSpace.open(tmp_path)


def test_splits_are_in_time_order_per_viewer(
    simulation: Simulation, small_config: RankerConfig
) -> None:
    log = simulation.dataset.log
    rows = split_rows(log, small_config)
    viewers = np.array(log.viewer.to_pylist())
    for viewer in np.unique(viewers[rows.test])[:20]:
        train_times = log.timestamp[rows.train][viewers[rows.train] == viewer]
        test_times = log.timestamp[rows.test][viewers[rows.test] == viewer]
        assert train_times.max(initial=0) < test_times.min()
    with pytest.raises(ValueError, match="leaves no row to"):
        split_log(log.take(np.array([0])), small_config, fraction=0.2)


def test_fingerprint_is_of_the_content(simulation: Simulation) -> None:
    dataset = simulation.dataset
    first = fingerprint(dataset)
    half = np.arange(dataset.log.num_rows // 2)
    rest = np.arange(dataset.log.num_rows // 2, dataset.log.num_rows)
    assert (
        fingerprint(replace(dataset, log=dataset.log.take(np.concatenate([half, rest])))) == first
    )
    assert fingerprint(replace(dataset, log=dataset.log.take(half))) != first
    labels = dataset.log.labels.copy()
    labels[0, 0] = 1.0 - labels[0, 0]
    assert fingerprint(replace(dataset, log=replace(dataset.log, labels=labels))) != first


def test_fit_needs_a_defined_superset(simulation: Simulation, small_config: RankerConfig) -> None:
    dataset = simulation.dataset
    labels = np.full_like(dataset.log.labels, math.nan)
    undefined = replace(dataset, log=replace(dataset.log, labels=labels))
    with pytest.raises(ValueError, match="superset objective 'any' is undefined"):
        FeatureSpace.fit(undefined, np.arange(10), small_config)
