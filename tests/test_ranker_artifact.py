from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedfast.calibration import Calibrator, calibrators_from_tensors, calibrators_to_tensors
from feedfast.input_layout import InputLayout
from feedfast.random_effects import RandomEffects
from feedfast.ranker_artifact import RankerArtifact, publish_ranker
from feedfast.ranker_balance import balance_inputs
from feedfast.ranker_description import RankerDescription
from feedfast.ranker_precision import TABLES, parse_precisions, resolve_precisions
from feedfast.scorer import Scorer
from feedfast.store import ModelStore
from synthetic_ranker import random_request, synthetic_ranker

SEED = 20_261_121


@pytest.fixture(scope="module")
def artifact() -> RankerArtifact:
    return synthetic_ranker(SEED, num_members=60, calibrated=True, with_effects=True)


def test_layout_is_the_one_of_the_documentation() -> None:
    layout = InputLayout(member_dim=4, hashtag_dim=3, leaf_dim=2, num_shared=5, num_dense=6)
    blocks = [(b.feature, b.offset, b.width) for b in layout.viewer_blocks]
    assert blocks == [
        ("viewer", 0, 4),
        ("history_members", 4, 4),
        ("history_hashtags", 8, 3),
        ("shared", 11, 5),
    ]
    assert layout.num_viewer_inputs == 16
    blocks = [(b.feature, b.offset, b.width) for b in layout.candidate_blocks]
    assert blocks == [
        ("actor", 16, 4),
        ("root_actor", 20, 4),
        ("hashtags", 24, 3),
        ("leaves", 27, 2),
        ("dense", 29, 6),
    ]
    assert layout.num_inputs == 35


@pytest.mark.parametrize("knots", [1, 2, 3, 40])
def test_calibrator_and_scorer_give_the_same_bits(tmp_path: Path, knots: int) -> None:
    rng = np.random.default_rng(SEED)
    plain = synthetic_ranker(SEED, num_members=60)
    x = np.unique(rng.random(knots).astype(np.float32))
    y = np.sort(rng.random(x.size).astype(np.float32))
    calibrator = Calibrator(x, y)
    store = ModelStore(tmp_path)
    publish_ranker(store, "plain", plain)
    calibrators = {"like": calibrator}
    publish_ranker(store, "calibrated", dataclasses.replace(plain, calibrators=calibrators))
    request = random_request(rng, plain, 300)
    want = np.array(Scorer.open(tmp_path, "plain").score(request).probabilities)
    want[:, 1] = calibrator(want[:, 1])
    got = Scorer.open(tmp_path, "calibrated").score(request).probabilities
    np.testing.assert_array_equal(got, want)


def test_calibrator_closed_form() -> None:
    knots = np.float32([0.25, 0.5, 0.75]), np.float32([0.125, 0.25, 0.75])
    got = Calibrator(*knots)([0.0, 0.25, 0.375, 0.5, 0.625, 1.0])
    np.testing.assert_array_equal(got, np.float32([0.125, 0.125, 0.1875, 0.25, 0.5, 0.75]))
    assert got.dtype == np.float32
    tensors = calibrators_to_tensors({"like": Calibrator(*knots)})
    assert set(tensors) == {"like/x", "like/y"}
    assert set(calibrators_from_tensors(tensors, ["click", "like"])) == {"like"}
    assert calibrators_from_tensors({}, ["click"]) == {}


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([0.5, 0.5], [0.1, 0.2], r"x\[1\] does not ascend"),
        ([0.5, 0.6], [0.3, 0.2], r"y\[1\] does not ascend"),
        ([0.5], [1.5], r"y\[0\] = 1\.5; allowed: 0 to 1"),
        ([np.nan], [0.5], r"x\[0\] = nan; allowed: 0 to 1"),
        ([0.5, 0.6], [0.5], "got 2 and 1"),
        ([0.0, 1e-45, 1.0], [0.0, 0.5, 1.0], r"x\[1\] is too close to x\[0\]"),
        ([], [], "got 0 and 0"),
    ],
)
def test_calibrators_that_are_no_monotone_map(x: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibrator(np.array(x, np.float32), np.array(y, np.float32))


def test_calibrator_tensors_must_belong_to_an_objective() -> None:
    one = np.float32([0.5])
    with pytest.raises(ValueError, match="tensor 'dwell/x' belongs to none of"):
        calibrators_from_tensors({"dwell/x": one, "dwell/y": one}, ["like"])
    with pytest.raises(ValueError, match="'like' has x or y alone"):
        calibrators_from_tensors({"like/x": one}, ["like"])
    with pytest.raises(ValueError, match="calibrators: 'like': calibrator: x must be float32"):
        calibrators_from_tensors({"like/x": np.zeros(1), "like/y": one}, ["like"])  # type: ignore[dict-item]


def test_random_effects_are_checked(artifact: RankerArtifact) -> None:
    effects = artifact.random_effects
    assert effects is not None
    items = effects.vocabulary
    for change, message in (
        (np.zeros((items.num_rows, 5)), "must be float32"),
        (np.full((items.num_rows, 5), np.inf, np.float32), r"coefficients\[0, 0\] = inf"),
        (np.ones((items.num_rows, 5), np.float32), "row 0 of the coefficients must be"),
    ):
        with pytest.raises(ValueError, match=message):
            RandomEffects(vocabulary=items, coefficients=change)  # type: ignore[arg-type]
    short = RandomEffects(vocabulary=items, coefficients=np.zeros((3, 5), np.float32))
    with pytest.raises(ValueError, match=r"coefficients must be \[41, 5\]; got \(3, 5\)"):
        dataclasses.replace(artifact, random_effects=short)


def test_artifact_parts_must_fit(artifact: RankerArtifact) -> None:
    mean = artifact.mean.copy()
    mean[4] = np.nan
    passive = artifact.towers["passive"]
    for change, message in (
        ({"member_table": artifact.member_table[1:]}, r"member_table must be float32 \[61, dim\]"),
        ({"leaf_table": artifact.leaf_table.astype(np.float64)}, "leaf_table must be float32"),
        ({"mean": mean}, r"mean\[4\] = nan, of feature 'd1'; must be finite"),
        ({"inv_std": mean[:3]}, r"inv_std must be float32 \[10\]"),
        ({"shared_names": ("a",)}, "forest reads 10 features; there are 8"),
        ({"towers": {"passive": passive}}, r"towers must be \['active', 'passive'\]"),
        (
            {"towers": {**artifact.towers, "passive": passive[1:]}},
            "tower 'passive': layer 0 has 24 inputs; expected ",
        ),
        (
            {"towers": {**artifact.towers, "passive": passive[:-1]}},
            "tower 'passive': 10 outputs; its objectives are",
        ),
        ({"calibrators": {"x": artifact.calibrators["click"]}}, "'x' is not an objective"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(artifact, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("int2", "precision of tables must be one of fp32, fp16, bf16, int8, int4; got 'int2'"),
        ({"passive/0": "int4"}, "precision of passive/0 must be one of fp32, bf16, int8; got"),
        ({"passive/9": "fp32"}, "'passive/9' is no table or layer; allowed: tables, layers, mem"),
    ],
)
def test_precision_is_checked(
    tmp_path: Path, artifact: RankerArtifact, precision: str | dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        publish_ranker(ModelStore(tmp_path), "feed", artifact, precision=precision)
    assert ModelStore(tmp_path).list() == ()


def test_precisions_of_single_sections_go_before_those_of_all() -> None:
    wanted = parse_precisions(["int8,layers=bf16", "leaf_table=fp16, passive/0=fp32"])
    assert resolve_precisions(wanted, ["passive/0", "passive/1"]) == {
        "member_table": "int8",
        "hashtag_table": "int8",
        "leaf_table": "fp16",
        "passive/0": "fp32",
        "passive/1": "bf16",
    }
    assert set(resolve_precisions({}, ["a/0"]).values()) == {"fp32"}


@pytest.mark.parametrize(
    ("precision", "layout", "tolerance"),
    [("fp16", "float16", 2e-3), ("bf16", "bfloat16", 2e-2), ("int4", "int4_rowwise", 0.3)],
)
def test_tables_of_every_precision_score(
    tmp_path: Path, artifact: RankerArtifact, precision: str, layout: str, tolerance: float
) -> None:
    """Tables of standard normal values and odd dims."""
    store = ModelStore(tmp_path)
    publish_ranker(store, "whole", artifact)
    publish_ranker(store, "small", artifact, precision=precision)
    sections = store.open("small").manifest.sections
    assert {sections[name].layout for name in TABLES} == {layout}
    assert sections["member_table"].shape == artifact.member_table.shape
    request = random_request(np.random.default_rng(SEED), artifact, 100)
    want = Scorer.open(tmp_path, "whole").score(request).probabilities
    got = Scorer.open(tmp_path, "small").score(request).probabilities
    assert 0.0 < np.abs(got - want).max() < tolerance


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("bf16", 2e-2), ("int8", 5e-2), ("mixed", 5e-2)]
)
@pytest.mark.parametrize("gate", ["hidden", "low_rank", "input", None])
def test_layers_of_every_precision_score(
    tmp_path: Path, gate: str | None, precision: str, tolerance: float
) -> None:
    ranker = synthetic_ranker(SEED, num_members=60, gates={"passive": gate, "active": "hidden"})
    wanted = {"layers": precision}
    if precision == "mixed":
        wanted = {"passive/0": "int8", "passive/1": "bf16", "active/2": "int8"}
    store = ModelStore(tmp_path)
    publish_ranker(store, "whole", ranker)
    publish_ranker(store, "small", ranker, precision=wanted)
    opened = {name: store.open(name) for name in ("whole", "small")}
    assert [opened[n].description["ranker_version"] for n in ("whole", "small")] == [1, 2]
    request = random_request(np.random.default_rng(SEED), ranker, 100)
    want = Scorer.open(tmp_path, "whole").score(request).probabilities
    small = Scorer.open(tmp_path, "small")
    got = small.score(request).probabilities
    # Weights of int8 are within 1/254 of a column's largest, of bf16 within 1/256 of themselves.
    assert 0.0 < np.abs(got - want).max() < tolerance
    np.testing.assert_array_equal(
        small.with_options(mini_batch=7).score(request).probabilities, got
    )


@pytest.mark.parametrize("gate", ["hidden", "low_rank", "input"])
def test_balancing_changes_no_bit_in_fp32_and_saves_int8(tmp_path: Path, gate: str) -> None:
    ranker = synthetic_ranker(SEED, num_members=60, gates={"passive": gate, "active": "input"})
    small = 2.0**-7
    tables = {name: getattr(ranker, name) * np.float32(small) for name in TABLES}
    ranker = dataclasses.replace(ranker, **tables)
    balanced = balance_inputs(ranker)
    assert balanced.leaf_table[0, 0] / ranker.leaf_table[0, 0] in (4.0, 8.0, 16.0)
    store = ModelStore(tmp_path)
    request = random_request(np.random.default_rng(SEED), ranker, 100)
    for name, artifact in (("plain", ranker), ("balanced", balanced)):
        publish_ranker(store, name, artifact)
    want = Scorer.open(tmp_path, "plain").score(request).probabilities
    got = Scorer.open(tmp_path, "balanced").score(request).probabilities
    np.testing.assert_array_equal(got, want)
    publish_ranker(store, "int8", ranker, precision={"passive/0": "int8", "active/0": "int8"})
    member_table = store.open("int8").table("member_table")
    np.testing.assert_array_equal(member_table, balanced.member_table)
    assert balance_inputs(synthetic_ranker(1, num_members=9)).layout.num_inputs > 0


def test_infinite_weights_are_named() -> None:
    ranker = synthetic_ranker(1, num_members=9)
    ranker.towers["active"][0].weight[3, 1] = np.inf
    with pytest.raises(ValueError, match=r"active/0\[3, 1\] = inf; must be finite"):
        balance_inputs(ranker)
    ranker = synthetic_ranker(1, num_members=9)
    ranker.member_table[2, 0] = np.nan
    with pytest.raises(ValueError, match=r"member_table\[2, 0\] = nan; must be finite"):
        balance_inputs(ranker)


def test_a_table_beyond_a_precision_is_named(tmp_path: Path, artifact: RankerArtifact) -> None:
    table = artifact.hashtag_table.copy()
    table[2, 1] = 1e6
    large = dataclasses.replace(artifact, hashtag_table=table)
    with pytest.raises(ValueError, match=r"hashtag_table in fp16: table\[2, 1\] = 1000000"):
        publish_ranker(ModelStore(tmp_path), "feed", large, precision="fp16")


def test_variants_share_the_blobs_of_equal_sections(
    tmp_path: Path, artifact: RankerArtifact
) -> None:
    store = ModelStore(tmp_path)
    publish_ranker(store, "feed", artifact)
    before = len(list((tmp_path / "blobs").iterdir()))
    utility = dataclasses.replace(artifact.utility, alpha=0.9)
    publish_ranker(store, "feed", dataclasses.replace(artifact, utility=utility))
    assert len(list((tmp_path / "blobs").iterdir())) == before
    assert Scorer.open(tmp_path).utility.alpha == 0.9
    assert Scorer.open(tmp_path, version=1).utility.alpha == artifact.utility.alpha


def test_description_round_trip(artifact: RankerArtifact) -> None:
    value = artifact.description.to_json()
    assert RankerDescription.from_json(value) == artifact.description
    assert value["ranker_version"] == 1
    for version in (3, "1", True, None):
        with pytest.raises(ValueError, match="is unknown; this build reads 1, 2"):
            RankerDescription.from_json({**value, "ranker_version": version})
    first, *others = artifact.towers["passive"]
    towers = {**artifact.towers, "passive": [first.to("int8"), *others]}
    smaller = dataclasses.replace(artifact, towers=towers).description
    value = smaller.to_json()
    assert value["ranker_version"] == 2
    assert [layer["precision"] for layer in value["towers"][0]["layers"]] == [
        "int8",
        "fp32",
        "fp32",
    ]
    assert RankerDescription.from_json(value) == smaller
    with pytest.raises(ValueError, match="do not fit together"):
        RankerDescription.from_json({**value, "ranker_version": 1})


def mutated(value: Any, rng: np.random.Generator) -> Any:
    """The JSON value with one leaf or branch replaced or removed."""
    value = copy.deepcopy(value)
    node: Any = value
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = keys[int(rng.integers(0, len(keys)))]
        child = node[key]
        if isinstance(child, dict | list) and len(child) > 0 and rng.random() < 0.8:
            node = child
            continue
        choice = int(rng.integers(0, 7))
        if choice == 0:
            del node[key]
        else:
            node[key] = [None, -1, "x", [], {}, 1e300][choice - 1]
        return value


def test_any_description_is_read_or_refused(artifact: RankerArtifact) -> None:
    rng = np.random.default_rng(SEED)
    value = artifact.description.to_json()
    for _ in range(2000):
        try:
            RankerDescription.from_json(mutated(value, rng))
        except ValueError:
            continue


def test_damaged_sections_never_crash_a_scorer(tmp_path: Path, artifact: RankerArtifact) -> None:
    """Header verification accepts altered weights; whatever it accepts can be scored."""
    store = ModelStore(tmp_path)
    precision = {"passive/0": "int8", "active/0": "bf16", "member_table": "int4"}
    publish_ranker(store, "feed", artifact, precision=precision)
    rng = np.random.default_rng(SEED)
    request = random_request(rng, artifact, 20)
    opened = 0
    for section in store.open("feed").manifest.sections.values():
        path = tmp_path / "blobs" / section.blobs[0].sha256
        original = path.read_bytes()
        for _ in range(40):
            content = bytearray(original)
            for _ in range(int(rng.integers(1, 8))):
                content[int(rng.integers(0, len(content)))] = int(rng.integers(0, 256))
            if bytes(content) == original:
                continue
            path.write_bytes(content)
            with pytest.raises(ValueError, match=section.name):
                Scorer.open(tmp_path, verify="full")
            try:
                scorer = Scorer.open(tmp_path)
            except ValueError:
                continue
            opened += 1
            result = scorer.score(request)
            assert sorted(result.order) == list(range(20))
        path.write_bytes(original)
    assert opened > 50
