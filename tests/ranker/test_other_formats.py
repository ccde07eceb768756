"""Rankers exported as SavedModel and as ONNX score as the scorer does."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from feedfast.bags import FloatArray
from feedfast.cli.main import main
from feedfast.config import CrossConfig
from feedfast.ranker.export import artifact_of
from feedfast.ranker.onnx_towers import save_towers
from feedfast.ranker.saved_model import save_model
from feedfast.ranker_artifact import RankerArtifact, publish_ranker
from feedfast.request import Request
from feedfast.scorer import Scorer
from feedfast.store import ModelStore
from feedfast.training import TrainedRun
from synthetic_ranker import random_request, synthetic_ranker

SEED = 20_261_122


def columns_of(request: Request) -> dict[str, Any]:
    """A request as the arguments of the SavedModel's signature."""
    keys, offsets = request.hashtags  # type: ignore[misc]
    n = len(request.item)

    def bag(keys: Any) -> tuple[Any, list[int]]:
        return np.array(keys, dtype=object), [0, len(keys)]

    members, hashtags = bag(request.history_members), bag(request.history_hashtags)
    return {
        "candidate_offsets": [0, n],
        "viewer": np.array([request.viewer], dtype=object),
        "history_members": members[0],
        "history_member_offsets": members[1],
        "history_hashtags": hashtags[0],
        "history_hashtag_offsets": hashtags[1],
        "shared": np.asarray(request.shared)[np.newaxis],
        "actor": np.array(request.actor, dtype=object),
        "root_actor": np.array(request.root_actor, dtype=object),
        "hashtags": np.array(keys, dtype=object),
        "hashtag_offsets": np.asarray(offsets),
        "dense": request.dense,
    }


def as_tensors(columns: dict[str, Any]) -> dict[str, tf.Tensor]:
    return {
        name: tf.constant(value, tf.string)
        if getattr(value, "dtype", np.dtype(float)).hasobject
        else tf.constant(value, tf.float32 if name in ("shared", "dense") else tf.int64)
        for name, value in columns.items()
    }


@pytest.fixture(
    scope="module",
    params=[
        ("hidden", None),
        ("low_rank", CrossConfig(layers=2)),
        (None, CrossConfig(layers=1, rank=3)),
    ],
    ids=str,
)
def artifact(request: pytest.FixtureRequest) -> RankerArtifact:
    gate, cross = request.param
    gates = {"passive": gate, "active": "input"}
    return synthetic_ranker(SEED, num_members=60, gates=gates, cross=cross)


@pytest.fixture(scope="module")
def scored(
    artifact: RankerArtifact, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Request, FloatArray]:
    folder = tmp_path_factory.mktemp("store")
    publish_ranker(ModelStore(folder), "feed", artifact)
    request = random_request(np.random.default_rng(SEED), artifact, 70)
    return request, Scorer.open(folder).score(request).probabilities


def test_saved_model_scores_as_the_scorer(
    tmp_path: Path, artifact: RankerArtifact, scored: tuple[Request, FloatArray]
) -> None:
    request, want = scored
    save_model(artifact, tmp_path / "saved")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))  # the tables live as long as it
    served = loaded.signatures["serving_default"]
    columns = as_tensors(columns_of(request))
    got = served(**columns)["probabilities"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)

    pairs = {**columns, "candidate_offsets": tf.constant([0, 20, 70], tf.int64)}
    for name in ("viewer", "shared"):
        pairs[name] = tf.concat([columns[name], columns[name]], axis=0)
    for name in ("history_member", "history_hashtag"):
        keys = columns[f"{name}s"]
        pairs[f"{name}s"] = tf.concat([keys, keys], axis=0)
        pairs[f"{name}_offsets"] = tf.constant([0, len(keys), 2 * len(keys)], tf.int64)
    np.testing.assert_allclose(served(**pairs)["probabilities"], want, rtol=0, atol=1e-5)

    nothing = {
        name: value[:0] if name != "candidate_offsets" else tf.constant([0], tf.int64)
        for name, value in columns.items()
    }
    nothing |= {n: tf.constant([0], tf.int64) for n in columns if n.endswith("_offsets")}
    assert served(**nothing)["probabilities"].shape == (0, want.shape[1])


def test_a_saved_model_that_fails_leaves_nothing(
    tmp_path: Path, artifact: RankerArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(module: object, path: str, **options: object) -> None:
        (Path(path) / "variables").mkdir(parents=True)
        raise OSError("no space left")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_model(artifact, tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_saved_model_loads_in_a_fresh_process(
    tmp_path: Path, artifact: RankerArtifact, scored: tuple[Request, FloatArray]
) -> None:
    request, want = scored
    save_model(artifact, tmp_path / "saved")
    (tmp_path / "saved").rename(tmp_path / "moved")
    (tmp_path / "columns").write_bytes(pickle.dumps(columns_of(request)))
    code = """if True:
        import pickle, sys, numpy as np, tensorflow as tf, feedfast.tf
        columns = pickle.load(open(sys.argv[2], "rb"))
        loaded = tf.saved_model.load(sys.argv[1])
        served = loaded.signatures["serving_default"]
        specs = served.structured_input_signature[1]
        tensors = {n: tf.constant(v, specs[n].dtype) for n, v in columns.items()}
        np.save(sys.argv[3], served(**tensors)["probabilities"].numpy())
    """
    out = tmp_path / "out.npy"
    arguments = [str(tmp_path / "moved"), str(tmp_path / "columns"), str(out)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(out), want, rtol=0, atol=1e-5)


def test_onnx_towers_score_as_the_scorer(
    tmp_path: Path, artifact: RankerArtifact, scored: tuple[Request, FloatArray]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    request, want = scored
    save_model(artifact, tmp_path / "saved")
    save_towers(artifact, tmp_path / "towers.onnx")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    inputs = loaded.signatures["inputs"]
    vectors = inputs(**as_tensors(columns_of(request)))["vectors"].numpy()
    assert vectors.shape == (70, artifact.layout.num_inputs)
    session = onnxruntime.InferenceSession(
        tmp_path / "towers.onnx", providers=["CPUExecutionProvider"]
    )
    for rows in (70, 1, 0):
        (got,) = session.run(["probabilities"], {"vectors": vectors[:rows]})
        np.testing.assert_allclose(got, want[:rows], rtol=0, atol=1e-5)
    names = [f"objective/{objective.name}" for objective in artifact.utility.objectives]
    assert set(session.get_modelmeta().custom_metadata_map) == set(names)


def test_parts_behind_the_towers_are_refused(tmp_path: Path) -> None:
    calibrated = synthetic_ranker(1, num_members=9, calibrated=True)
    effects = synthetic_ranker(1, num_members=9, with_effects=True)
    with pytest.raises(ValueError, match="a SavedModel has no place for calibrators; export to a"):
        save_model(calibrated, tmp_path / "saved")
    with pytest.raises(ValueError, match="a SavedModel has no place for random effects"):
        save_model(effects, tmp_path / "saved")
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match="an ONNX model has no place for calibrators"):
        save_towers(calibrated, tmp_path / "towers.onnx")
    assert list(tmp_path.iterdir()) == []
    plain = dataclasses.replace(effects, random_effects=None)
    (tmp_path / "saved").mkdir()
    with pytest.raises(FileExistsError, match="saved exists"):
        save_model(plain, tmp_path / "saved")


def test_command(trained: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(trained.directory)
    saved, towers = tmp_path / "saved", tmp_path / "towers.onnx"
    for arguments in (
        ["--format", "saved_model", "--output", str(saved)],
        ["--format", "onnx", "--output", str(towers)],
    ):
        assert main(["export", "--run", run, *arguments]) == 0
    assert (saved / "saved_model.pb").is_file()
    assert towers.is_file()
    for arguments, message in (
        (["--format", "onnx"], "--format onnx needs --output"),
        (
            ["--format", "onnx", "--output", "x", "--precision", "int8"],
            "are those of a model store",
        ),
        (["--output", "x", "--store", "y"], "--output goes with --format"),
        ([], "name the model store"),
    ):
        assert main(["export", "--run", run, *arguments]) == 2
        assert message in capsys.readouterr().err


def test_sizes_beside_the_store(
    trained: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, store = tmp_path / "saved", tmp_path / "store"
    artifact = artifact_of(trained.ranker)
    save_model(artifact, saved)
    publish_ranker(ModelStore(store), "feed", artifact, precision="int8")
    assert main(["inspect", str(store), "--compare", str(saved), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    parts = {part["part"]: part for part in entry["compared"]}
    for table in ("member_table", "hashtag_table", "leaf_table"):
        assert parts[table]["saved_model_bytes"] == getattr(artifact, table).nbytes
    on_disk = sum(p.stat().st_size for p in saved.rglob("*") if p.is_file())
    assert parts["all"]["saved_model_bytes"] == on_disk
    assert parts["all"]["bytes"] == entry["bytes"]
    assert main(["inspect", str(store), "--compare", str(store)]) == 2
    assert "is no SavedModel" in capsys.readouterr().err
