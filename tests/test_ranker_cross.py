"""Rankers with a cross network in the model store: round trip, precisions, bits and errors.

That scores are those of TensorFlow: tests/ranker/test_cross.py and test_other_formats.py.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedfast.config import CrossConfig
from feedfast.cross_network import CrossWeights
from feedfast.memory_plan import plan_memory, shape_of_model
from feedfast.ranker_artifact import RankerArtifact, RankerEncoder, open_ranker, publish_ranker
from feedfast.ranker_balance import balance_inputs
from feedfast.ranker_description import CrossDescription, RankerDescription
from feedfast.ranker_precision import TABLES
from feedfast.ranker_prune import prune_ranker
from feedfast.scorer import Scorer
from feedfast.store import ModelStore
from feedfast.synthetic_ranker import RankerShape, random_artifact
from synthetic_ranker import random_request, synthetic_ranker
from test_scorer import concatenated

SEED = 20_261_122
FULL, LOW_RANK = CrossConfig(layers=2), CrossConfig(layers=3, rank=4)
PRECISIONS = ("fp32", "bf16", "int8")


@pytest.fixture(scope="module", params=[FULL, LOW_RANK], ids=["full", "low_rank"])
def artifact(request: pytest.FixtureRequest) -> RankerArtifact:
    return synthetic_ranker(SEED, num_members=60, with_effects=True, cross=request.param)


def test_layers_that_add_nothing_leave_the_scores(tmp_path: Path) -> None:
    plain = synthetic_ranker(SEED, num_members=60)
    size = plain.layout.num_inputs
    nothing = CrossWeights(np.zeros((size, size), np.float32), np.zeros(size, np.float32))
    store = ModelStore(tmp_path)
    publish_ranker(store, "plain", plain)
    publish_ranker(store, "crossed", dataclasses.replace(plain, cross=[nothing, nothing]))
    request = random_request(np.random.default_rng(SEED), plain, 100)
    want = Scorer.open(tmp_path, "plain").score(request).probabilities
    got = Scorer.open(tmp_path, "crossed").score(request).probabilities
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_do_not_depend_on_batch_split_or_threads(
    tmp_path: Path, artifact: RankerArtifact, precision: str
) -> None:
    publish_ranker(ModelStore(tmp_path), "feed", artifact, precision={"layers": precision})
    scorer = Scorer.open(tmp_path, threads=1)
    rng = np.random.default_rng(SEED)
    requests = [random_request(rng, artifact, n) for n in (1, 40, 0, 133)]
    want = [scorer.score(request).probabilities for request in requests]
    for threads, mini_batch in ((1, 5), (3, 16), (2, 1000)):
        other = scorer.with_options(threads=threads, mini_batch=mini_batch)
        together = other.score_batch(concatenated(requests)).probabilities
        np.testing.assert_array_equal(together, np.concatenate(want))
        for request, one in zip(requests, want, strict=True):
            np.testing.assert_array_equal(other.score(request).probabilities, one)


@pytest.mark.parametrize(
    ("wanted", "tolerance"),
    [
        ({"cross": "bf16"}, 2e-2),
        ({"cross": "int8"}, 5e-2),
        ({"layers": "int8"}, 8e-2),
        ({"layers": "bf16", "cross": "fp32"}, 2e-2),
    ],
    ids=str,
)
def test_layers_of_every_precision_score(
    tmp_path: Path, artifact: RankerArtifact, wanted: dict[str, str], tolerance: float
) -> None:
    store = ModelStore(tmp_path)
    publish_ranker(store, "whole", artifact)
    publish_ranker(store, "small", artifact, precision=wanted)
    precision = wanted.get("cross", wanted.get("layers"))
    first = artifact.cross[0]
    for name, stored in (("whole", "fp32"), ("small", precision)):
        opened = store.open(name)
        assert opened.description["ranker_version"] == 2
        cross = {"layers": len(artifact.cross), "rank": first.rank, "precision": stored}
        assert opened.description["cross"] == cross
        tensors = opened.tensors("towers")
        assert {n.split("/")[1] for n in tensors if n.startswith("cross/")} == set(
            map(str, range(len(artifact.cross)))
        )
    if precision == "int8":
        assert tensors["cross/0/weight"].dtype == np.int8
        assert tensors["cross/0/weight_scale"].shape == (first.size,)
    request = random_request(np.random.default_rng(SEED), artifact, 100)
    want = Scorer.open(tmp_path, "whole").score(request).probabilities
    got = Scorer.open(tmp_path, "small").score(request).probabilities
    assert 0.0 < np.abs(got - want).max() < tolerance


def test_the_encoder_counts_the_network_as_one_part(
    tmp_path: Path, artifact: RankerArtifact
) -> None:
    encoder = RankerEncoder(artifact)
    assert encoder.layers[:2] == ("cross", "passive/0")
    assert encoder.sections["cross"] == ("int8", "bf16", "fp32")
    for precision in PRECISIONS:
        want = sum(layer.to(precision).nbytes for layer in artifact.cross)
        assert encoder.num_bytes("cross", precision) == want
    with pytest.raises(ValueError, match="'cross' is no table or layer"):
        publish_ranker(ModelStore(tmp_path), "m", synthetic_ranker(), precision={"cross": "int8"})


def test_balancing_changes_no_bit(tmp_path: Path, artifact: RankerArtifact) -> None:
    tables = {name: getattr(artifact, name) * np.float32(2.0**-7) for name in TABLES}
    ranker = dataclasses.replace(artifact, **tables)
    balanced = balance_inputs(ranker)
    assert not np.array_equal(balanced.leaf_table, ranker.leaf_table)
    store = ModelStore(tmp_path)
    for name, one in (("plain", ranker), ("balanced", balanced)):
        publish_ranker(store, name, one)
    request = random_request(np.random.default_rng(SEED), ranker, 100)
    np.testing.assert_array_equal(
        Scorer.open(tmp_path, "balanced").score(request).probabilities,
        Scorer.open(tmp_path, "plain").score(request).probabilities,
    )
    publish_ranker(store, "int8", ranker, precision={"cross": "int8"})
    table = store.open("int8").table("member_table")
    np.testing.assert_array_equal(table, balanced.member_table)
    given = dataclasses.replace(ranker, cross=[layer.to("bf16") for layer in ranker.cross])
    with pytest.raises(ValueError, match="a cross layer in bf16 cannot be balanced"):
        balance_inputs(given)


def test_layers_must_fit(artifact: RankerArtifact) -> None:
    first, *others = artifact.cross
    size = first.size
    narrow = CrossWeights(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    eye = np.eye(size, dtype=np.float32)
    other_rank = CrossWeights(eye[:, :7].T, np.zeros(size, np.float32), eye[:, :7])
    for cross, message in (
        ([first, narrow], f"cross: layer 1 has 3 inputs; expected {size}"),
        ([first, other_rank], r"cross: layer 1 has rank 7; layer 0 has (None|4)"),
        ([first.to("int8"), *others], "cross: layer 1 has precision 'fp32'; layer 0 has 'int8'"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(artifact, cross=cross)


def republished(store: ModelStore, change_tensors: Any, change_description: Any) -> None:
    """The model `feed` again with other tensors of the towers and another description."""
    opened = store.open("feed")
    tensors = dict(opened.tensors("towers"))
    change_tensors(tensors)
    description = dict(opened.description)
    change_description(description)
    with store.writer("feed") as writer:
        for section in opened.manifest.sections.values():
            if section.name == "towers":
                writer.add_tensors("towers", tensors)
            else:
                writer.add_present(section)
        writer.publish(description)


def test_what_does_not_fit_is_refused_at_opening(tmp_path: Path, artifact: RankerArtifact) -> None:
    size, rank = artifact.cross[0].size, artifact.cross[0].rank
    last = len(artifact.cross) - 1

    def keep(_: Any) -> None:
        pass

    def cross(**changes: Any) -> Any:
        return lambda d: d.update(cross={**d["cross"], **changes})

    for case, (tensors, description, message) in enumerate(
        (
            (lambda t: t.pop(f"cross/{last}/bias"), keep, f"cross/{last}/bias is missing"),
            (
                lambda t: t.update({"cross/0/bias": np.zeros(3, np.float32)}),
                keep,
                "section 'towers': cross/0: bias must have shape",
            ),
            (
                lambda t: t.update({"cross/0/weight": t["cross/0/weight"].astype(np.int32)}),
                keep,
                "section 'towers': cross/0: ",
            ),
            (keep, cross(layers=last + 2), f"cross/{last + 1}/weight is missing"),
            (
                keep,
                cross(rank=9),
                f"cross/0 has {size} inputs and rank {rank}; the description says {size} and 9",
            ),
            (keep, cross(precision="int8"), "section 'towers': cross/0: weight holds fp32"),
            (keep, cross(layers=0), "cross: layers must be at least 1; got 0"),
            (keep, cross(precision="fp8"), "cross: precision 'fp8' is unknown"),
            (keep, cross(rank="4"), "a value is of a wrong type: '4' is not an integer"),
            (keep, cross(ranks=1), "do not fit together"),
            (keep, lambda d: d.update(ranker_version=1), "do not fit together"),
            (keep, lambda d: d["cross"].pop("rank"), "'rank' is missing"),
        )
    ):
        store = ModelStore(tmp_path / str(case))
        publish_ranker(store, "feed", artifact)
        republished(store, tensors, description)
        with pytest.raises(ValueError, match=message):
            open_ranker(store.open("feed"))


def test_description_round_trip(artifact: RankerArtifact) -> None:
    value = artifact.description.to_json()
    again = RankerDescription.from_json(value)
    assert again == artifact.description
    assert again.cross == CrossDescription(len(artifact.cross), artifact.cross[0].rank)
    plain = dataclasses.replace(artifact, cross=()).description.to_json()
    assert plain["ranker_version"] == 1
    assert "cross" not in plain


def test_pruning_keeps_the_bits(tmp_path: Path, artifact: RankerArtifact) -> None:
    table = artifact.member_table.copy()
    table[20:] = 0
    ranker = dataclasses.replace(artifact, member_table=table)
    store = ModelStore(tmp_path)
    publish_ranker(store, "feed", ranker, precision={"cross": "bf16"})
    request = random_request(np.random.default_rng(SEED), ranker, 60)
    want = Scorer.open(tmp_path).score(request)
    report = prune_ranker(store, "feed", drop_objectives=["like", "share", "creator"])
    assert report.kept_bytes < report.bytes
    assert set(open_ranker(store.open("feed"))[0].towers) == {"passive"}
    got = Scorer.open(tmp_path).score(request).probabilities
    np.testing.assert_array_equal(got, want.probabilities[:, [0, 2]])


def test_memory_and_shape_count_the_network(tmp_path: Path, artifact: RankerArtifact) -> None:
    store = ModelStore(tmp_path)
    publish_ranker(store, "feed", artifact)
    opened = store.open("feed")
    plans = {p.name: p for p in plan_memory(shape_of_model(opened, artifact.description))}
    stored = {section.name: section.num_bytes for section in opened.section_sizes()}
    assert plans["towers"].bytes == pytest.approx(stored["towers"], rel=0.03)
    parameters = sum(tensor.size for tensor in opened.tensors("towers").values())
    assert plans["towers"].parameters == parameters
    shape = RankerShape.from_model(opened)
    assert shape.cross == CrossConfig(layers=len(artifact.cross), rank=artifact.cross[0].rank)
    again = random_artifact(dataclasses.replace(shape, num_members=9, num_hashtags=4))
    assert [layer.rank for layer in again.cross] == [layer.rank for layer in artifact.cross]
