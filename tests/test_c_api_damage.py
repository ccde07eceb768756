"""What libfeedfast makes of damaged stores: refused where Python refuses, and never a crash.

Each test works in a process of its own, because what must not happen is a crash.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from c_interface import ROOT, library_path
from feedfast.config import CrossConfig
from feedfast.ranker_artifact import publish_ranker
from feedfast.store import ModelStore
from synthetic_ranker import synthetic_ranker

LIBRARY = library_path()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no preset has built libfeedfast")

COMMON = """
import json, sys
from pathlib import Path
import numpy as np
from c_interface import CallError, CRequest, CScorer, DATA_LOSS, load, library_path
from feedfast import Scorer
from feedfast.store import ModelStore
from feedfast.store.manifest import _content_sha256
from synthetic_ranker import random_request, synthetic_ranker

path, cases = Path(sys.argv[1]), int(sys.argv[2])
library = load(library_path())
rng = np.random.default_rng(20_261_123)
request = random_request(rng, synthetic_ranker(3), 12)

def replace(file, content):
    unfinished = file.with_name("unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(file)

def refused(model, verify=0):
    # The message, or None; a request is scored of what opens.
    try:
        scorer = CScorer(library, path, model, verify=verify)
    except CallError as error:
        assert error.status == DATA_LOSS, (error.status, str(error))
        return str(error)
    try:
        scorer.score(CRequest(request))
    finally:
        scorer.close()
    return None
"""

BLOBS = (
    COMMON
    + """
models_of = {}
for entry in ModelStore(path).list():
    for section in ModelStore(path).open(entry.model).manifest.sections.values():
        for blob in section.blobs:
            models_of.setdefault(blob.sha256, []).append(entry.model)
blobs = sorted(models_of)
opened = 0
for case in range(cases):
    name = blobs[case % len(blobs)]
    file = path / "blobs" / name
    original = file.read_bytes()
    content = bytearray(original)
    kind = ("flip", "flip", "run", "cut", "grow")[int(rng.integers(5))]
    # Half of them in the headers.
    at = int(rng.integers(min(len(content), 400) if case % 2 else len(content)))
    if kind == "flip":
        content[at] ^= 1 << int(rng.integers(8))
    elif kind == "run":
        content[at : at + 64] = rng.bytes(len(content[at : at + 64]))
    elif kind == "cut":
        del content[at:]
    else:
        content += rng.bytes(int(rng.integers(1, 200)))
    if bytes(content) == original:
        continue
    model = models_of[name][case // len(blobs) % len(models_of[name])]
    print(case, model, name, kind, at, flush=True)
    replace(file, content)
    message = refused(model, verify=1)
    assert message is not None and name in message, message
    opened += refused(model) is None
    replace(file, original)
print("done", opened)
"""
)

# Values of the manifest, header or description replaced by others, with the digest made right.
VALUES = (
    COMMON
    + """
def places(value, before=()):
    # Every place but names that tests do not break alike: the digests of blobs.
    if isinstance(value, dict):
        for key, member in value.items():
            yield (*before, key)
            yield from places(member, (*before, key))
    elif isinstance(value, list):
        for at, member in enumerate(value):
            yield (*before, at)
            yield from places(member, (*before, at))

OTHERS = [None, True, -1, 0, 1, 2, 3, 0.5, -0.0, 1e16, 1e-7, 123456789.125, 1 << 40, (1 << 62),
          (1 << 63) - 1, "", "fp32", "int8", "passive", "none", "\\u00e4\\u2028\\U0001f600\\x7f",
          [], {}, [1], {"a": 1}]
models = [entry.model for entry in ModelStore(path).list()]
differ = []
accepted = 0
for case in range(cases):
    model = models[case % len(models)]
    file = path / "models" / model / "000001" / "manifest.json"
    original = file.read_bytes()
    content = json.loads(original)
    del content["content_sha256"]
    places_ = list(places(content))
    place = places_[int(rng.integers(len(places_)))]
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    if rng.random() < 0.15:
        del holder[place[-1]]
        other = "removed"
    else:
        other = OTHERS[int(rng.integers(len(OTHERS)))]
        holder[place[-1]] = other
    content["content_sha256"] = _content_sha256(content)
    replace(file, json.dumps(content, ensure_ascii=case % 2 == 0).encode())
    print(case, model, place, repr(other), flush=True)
    try:
        python = Scorer.open(path, model=model).score(request)
        python_refused = None
    except (ValueError, FileNotFoundError, OverflowError) as error:
        python_refused = str(error)
    message = refused(model)
    assert message is None or "content_sha256" not in message, message
    if (message is None) != (python_refused is None):
        differ.append((model, place, other, message, python_refused))
    accepted += message is None
    replace(file, original)
assert not differ, differ
print("done", accepted)
"""
)


def run(code: str, path: Path, cases: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(cases)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = done.stdout.splitlines()[-1] if done.stdout else "nothing"
    assert done.returncode == 0, f"after {last}: {done.returncode}\n{done.stderr}"
    word, count = last.split()
    assert word == "done"
    return int(count)


def publish(path: Path) -> None:
    arguments = {"num_members": 60, "with_effects": True, "calibrated": True}
    small = {"member_table": "int8", "hashtag_table": "int4", "leaf_table": "bf16"}
    publish_ranker(ModelStore(path), "plain", synthetic_ranker(3, **arguments))
    publish_ranker(
        ModelStore(path),
        "small",
        synthetic_ranker(3, **arguments, cross=CrossConfig(layers=2, rank=3)),
        precision={**small, "layers": "int8"},
    )


def test_damaged_blobs_are_refused_or_harmless(tmp_path: Path) -> None:
    publish(tmp_path)
    assert 50 < run(BLOBS, tmp_path, 600) < 550


def test_altered_manifests_are_refused_where_python_refuses(tmp_path: Path) -> None:
    publish(tmp_path)
    assert run(VALUES, tmp_path, 800) > 20
