"""The small logs of the Open Bandit Dataset as an impression log, and click rates by policy and
position.

Two policies showed fashion items at three positions and logged their propensities: `random` chose
uniformly, `bts` (Bernoulli Thompson sampling) is a model. 60,000 impressions hold 287 clicks, too
few to train on: the data is for estimates with intervals. Source: Y. Saito, S. Aihara, M.
Matsutani, Y. Narita, Open Bandit Dataset and Pipeline, NeurIPS 2021 Datasets and Benchmarks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from feedfast.data.adapters.wheel_files import fetch_wheel_files
from feedfast.data.dataset import Dataset
from feedfast.data.keys import join_keys
from feedfast.data.log import ImpressionLog, concat_logs
from feedfast.data.schema import DENSE_PREFIX, LABEL_PREFIX
from feedfast.objectives import Objective

Campaign = Literal["all", "men", "women"]
CAMPAIGNS: tuple[Campaign, ...] = ("all", "men", "women")

_WHEEL = "obp==0.4.1"
_WHEEL_FOLDER = "obp/dataset/obd"
_REMEDY = (
    "or name a folder with <random|bts>/<all|men|women>/<campaign>.csv "
    "and item_context.csv: folder=..."
)
# Open Bandit's name of a policy and the schema's.
_POLICIES = {"random": "random", "bts": "model"}
_KEY_DIGITS = 8


def load_openbandit(
    *,
    campaigns: Sequence[Campaign] = CAMPAIGNS,
    folder: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Open Bandit small logs: 10,000 impressions for each policy and campaign.

    Args:
        campaigns: Which of `all`, `men`, `women`.
        folder: Holds `<policy>/<campaign>/<campaign>.csv` and `item_context.csv` beside it; the
            full-size logs have the same layout. By default the small logs come out of the wheel obp
            0.4.1, which pip downloads once.
        cache_dir: Where downloaded files are kept; by default the user's cache folder.

    Raises:
        FileNotFoundError: The folder lacks a file.
        ValueError: A campaign is unknown, or a file is not what its name says.
        RuntimeError: pip could not download the wheel.
    """
    if not campaigns:
        raise ValueError("Open Bandit: at least one campaign is needed")
    for campaign in campaigns:
        if campaign not in CAMPAIGNS:
            raise ValueError(
                f"Open Bandit: campaign must be one of {', '.join(CAMPAIGNS)}; got {campaign!r}"
            )
    if folder is None:
        members = [
            f"{_WHEEL_FOLDER}/{policy}/{campaign}/{name}.csv"
            for policy in _POLICIES
            for campaign in campaigns
            for name in (campaign, "item_context")
        ]
        cache = None if cache_dir is None else Path(cache_dir)
        folder = fetch_wheel_files(_WHEEL, members, cache_dir=cache, remedy=_REMEDY)[0].parents[2]
    log = concat_logs(
        [
            _read_log(Path(folder), policy, campaign)
            for policy in _POLICIES
            for campaign in campaigns
        ]
    )
    notes = (
        "Open Bandit small logs: policy random chose uniformly, "
        "policy bts (here: model) by Thompson sampling.",
        "A viewer is a segment of users with equal features; the data has no user ids.",
        "Too few clicks to train on: use click rates with their intervals.",
    )
    objectives = (Objective("click", "passive"),)
    return Dataset(log=log, objectives=objectives, superset="click", name="openbandit", notes=notes)


@dataclass(frozen=True, kw_only=True, slots=True)
class CtrRow:
    """Click rate of one policy at one position, or over all of them.

    Attributes:
        policy: `random` or `model`.
        position: Slot, or None for all positions together.
        impressions: Rows with a defined label.
        clicks: Rows with label 1.
        rate: clicks / impressions.
        low, high: Wilson score interval of the rate.
    """

    policy: str
    position: int | None
    impressions: int
    clicks: int
    rate: float
    low: float
    high: float


def ctr_report(
    log: ImpressionLog, *, objective: str = "click", confidence: float = 0.95
) -> tuple[CtrRow, ...]:
    """Rate of an objective by policy and position, each policy followed by its total.

    Args:
        log: Any impression log.
        objective: One of the log's.
        confidence: Coverage of the intervals, in (0, 1).

    Returns:
        Rows for the policies and positions that occur with a defined label, `random` first,
        positions ascending.

    Raises:
        KeyError: The log has no such objective.
        ValueError: `confidence` is outside (0, 1).
    """
    label = log.label(objective)
    defined = ~np.isnan(label)
    rows = []
    for policy, of_policy in (("random", log.policy_random), ("model", ~log.policy_random)):
        kept = defined & of_policy
        if not kept.any():
            continue
        positions, codes = np.unique(log.position[kept], return_inverse=True)
        impressions = np.bincount(codes)
        clicks = np.bincount(codes, weights=label[kept])
        cells = [
            *zip(positions.tolist(), clicks, impressions, strict=True),
            (None, clicks.sum(), impressions.sum()),
        ]
        for position, num_clicks, num_impressions in cells:
            low, high = wilson_interval(
                int(num_clicks), int(num_impressions), confidence=confidence
            )
            rows.append(
                CtrRow(
                    policy=policy,
                    position=position,
                    impressions=int(num_impressions),
                    clicks=int(num_clicks),
                    rate=float(num_clicks / num_impressions),
                    low=low,
                    high=high,
                )
            )
    return tuple(rows)


def wilson_interval(
    successes: int, trials: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Wilson score interval of a proportion, which stays inside [0, 1] and is not empty at 0
    successes.

    Source: E. B. Wilson, JASA 22 (1927), 209-212.

    Raises:
        ValueError: successes is outside [0, trials], trials is 0, or confidence is outside (0, 1).
    """
    if not trials > 0 or not 0 <= successes <= trials:
        raise ValueError(
            f"need 0 <= successes <= trials and trials > 0; got {successes} of {trials}"
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1); got {confidence}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    center = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low = 0.0 if successes == 0 else max(0.0, (center - spread) / scale)
    high = 1.0 if successes == trials else min(1.0, (center + spread) / scale)
    return low, high


def _read_log(folder: Path, policy: str, campaign: str) -> ImpressionLog:
    path = folder / policy / campaign / f"{campaign}.csv"
    rows = _read_csv(path)
    items = _read_csv(path.with_name("item_context.csv"))
    user_columns = [f"user_feature_{k}" for k in range(4)]
    tag_columns = [f"item_feature_{k}" for k in range(1, 4)]
    _require_columns(
        path, rows, ["timestamp", "item_id", "position", "click", "propensity_score", *user_columns]
    )
    _require_columns(
        path.with_name("item_context.csv"), items, ["item_id", "item_feature_0", *tag_columns]
    )

    num_rows, num_items = rows.num_rows, items.num_rows
    item_id = rows["item_id"].to_numpy().astype(np.int64)
    outside = np.flatnonzero((item_id < 0) | (item_id >= num_items))
    if len(outside) > 0:
        raise ValueError(
            f"{path}: row {outside[0]} has item_id {item_id[outside[0]]}; "
            f"item_context.csv has {num_items} items"
        )
    if not np.array_equal(items["item_id"].to_numpy(), np.arange(num_items)):
        raise ValueError(f"{path.with_name('item_context.csv')}: item_id must count from 0")
    affinity_columns = [f"user-item_affinity_{k}" for k in range(num_items)]
    _require_columns(path, rows, affinity_columns)
    affinity = np.column_stack([rows[name].to_numpy() for name in affinity_columns])

    # The features are hashes; their first digits tell them apart.
    segments = [pc.utf8_slice_codeunits(rows[name], 0, _KEY_DIGITS) for name in user_columns]
    viewer = join_keys("segment", *segments)
    tags = [
        join_keys(f"tag{k}", pc.utf8_slice_codeunits(items[name], 0, _KEY_DIGITS))
        for k, name in enumerate(tag_columns, start=1)
    ]
    tags_of_row = np.column_stack([tag.to_numpy() for tag in tags])[item_id]
    shown = join_keys("item", campaign, item_id)
    table = pa.table(
        {
            "request_id": join_keys("request", policy, campaign, np.arange(num_rows)),
            "timestamp": rows["timestamp"],
            "viewer": viewer,
            "item": shown,
            "actor": shown,
            "root_actor": shown,
            "hashtags": pa.ListArray.from_arrays(
                np.arange(num_rows + 1, dtype=np.int32) * len(tags),
                pa.array(tags_of_row.ravel(), pa.string()),
            ),
            # Open Bandit counts the three positions from 1, left to right.
            "position": pa.array(rows["position"].to_numpy().astype(np.int64) - 1),
            "policy": pa.array([_POLICIES[policy]] * num_rows, pa.string()),
            "propensity": rows["propensity_score"],
            f"{DENSE_PREFIX}user_item_affinity": affinity[np.arange(num_rows), item_id],
            f"{DENSE_PREFIX}item_feature_0": items["item_feature_0"].to_numpy()[item_id],
            f"{LABEL_PREFIX}click": rows["click"],
        }
    )
    return ImpressionLog.from_table(table, source=str(path))


def _read_csv(path: Path) -> pa.Table:
    if not path.is_file():
        raise FileNotFoundError(f"Open Bandit: {path} does not exist")
    types = {
        "timestamp": pa.timestamp("us", tz="UTC"),
        "item_id": pa.int64(),
        "position": pa.int64(),
    }
    types |= {"propensity_score": pa.float64(), "click": pa.int8(), "item_feature_0": pa.float64()}
    types |= {f"user_feature_{k}": pa.string() for k in range(4)} | {
        f"item_feature_{k}": pa.string() for k in range(1, 4)
    }
    try:
        return pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(column_types=types))
    except pa.ArrowException as error:
        raise ValueError(f"{path}: cannot be read as an Open Bandit log: {error}") from error


def _require_columns(path: Path, table: pa.Table, names: Sequence[str]) -> None:
    for name in names:
        if name not in table.column_names:
            raise ValueError(f"{path}: column {name!r} is missing")
