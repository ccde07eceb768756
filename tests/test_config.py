"""Configuration: checks, messages and the JSON round trip."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from feedfast import config
from feedfast.config import RankerConfig


def test_json_round_trip() -> None:
    changed = RankerConfig(
        member=config.TableConfig(dim=3, min_count=1, id_dropout=0.0),
        passive=config.TowerConfig(units=(), gate="none", dropout=0.0),
        weighting=config.WeightingConfig(kind="ips"),
        seed=7,
    )
    for one in (RankerConfig(), changed):
        assert RankerConfig.from_json(one.to_json()) == one


def test_missing_fields_keep_their_default_and_integers_may_be_floats() -> None:
    read = RankerConfig.from_json('{"forest": {"learning_rate": 1}, "passive": {"units": [8]}}')
    assert read.forest == config.ForestConfig(learning_rate=1.0)
    assert read.passive.units == (8,)
    assert RankerConfig.from_json("{}") == RankerConfig()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[]", r"config: must be an object"),
        ("{", r"config: not JSON"),
        ('{"forrest": {}}', r"config: unknown field 'forrest'; allowed: member, .*"),
        ('{"forest": {"trees": 3}}', r"config\.forest: unknown field 'trees'"),
        ('{"forest": {"num_trees": "3"}}', r"config\.forest\.num_trees: must be int; got '3'"),
        ('{"forest": {"num_trees": true}}', r"config\.forest\.num_trees: must be int; got True"),
        ('{"forest": {"num_trees": 0}}', r"config\.forest: forest: num_trees must be >= 1; got 0"),
        ('{"active": {"units": 3}}', r"config\.active\.units: must be a list"),
        ('{"active": {"units": [4, "x"]}}', r"config\.active\.units\[1\]: must be int"),
        ('{"active": {"gate": "soft"}}', r"gate must be hidden, input or none; got 'soft'"),
        ('{"training": {"learning_rate": NaN}}', r"learning_rate must be finite and > 0; got nan"),
        ("[" * 100_000, r"config: not JSON"),
    ],
)
def test_bad_documents_name_the_field(document: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RankerConfig.from_json(document)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (config.TableConfig, {"dim": 0}, "dim must be >= 1; got 0"),
        (config.TableConfig, {"id_dropout": 1.0}, r"id_dropout must be in \[0, 1\); got 1.0"),
        (config.TowerConfig, {"units": (4, -1)}, r"units\[1\] must be >= 1; got -1"),
        (config.TowerConfig, {"dropout": -0.1}, "dropout"),
        (config.ForestConfig, {"learning_rate": math.inf}, "learning_rate must be finite"),
        (config.HistoryConfig, {"max_members": -1}, "max_members must be >= 0"),
        (config.SplitConfig, {"kind": "day"}, "kind must be member_time or random; got 'day'"),
        (config.SplitConfig, {"test_fraction": 1.0}, r"test_fraction must be in \(0, 1\)"),
        (config.WeightingConfig, {"kind": "x"}, "kind must be none, rate_ratio or ips"),
        (config.WeightingConfig, {"clip": 0.5}, "clip must be finite and >= 1"),
        (config.TrainingConfig, {"warmup_steps": -1}, "warmup_steps must be >= 0"),
        (config.RankerConfig, {"seed": -1}, "seed must be >= 0"),
    ],
)
def test_checks(kind: type[Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_json_is_plain() -> None:
    assert json.loads(RankerConfig().to_json())["active"]["units"] == [64, 32]
