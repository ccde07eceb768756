"""A thousand random flips and truncations over all blobs of rankers.

Full verification refuses every one. Header verification may open what is altered; then a request
is scored from it, in a process of its own, because what must not happen is a crash.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from feedfast.ranker_artifact import publish_ranker
from feedfast.store import ModelStore
from synthetic_ranker import synthetic_ranker

CASES = 1000
MODELS = {
    "plain": "fp32",
    "small": {
        "member_table": "int8",
        "hashtag_table": "int4",
        "leaf_table": "bf16",
        "layers": "int8",
    },
}

# Prints a line before each case, so that the last one is known when it crashes.
DAMAGE = """
import os, sys
from pathlib import Path
import numpy as np
from feedfast import Scorer
from feedfast.store import ModelStore, check_store
from synthetic_ranker import random_request, synthetic_ranker

path, cases = Path(sys.argv[1]), int(sys.argv[2])
store = ModelStore(path)
models_of = {}
for entry in store.list():
    for section in store.open(entry.model).manifest.sections.values():
        for blob in section.blobs:
            models_of.setdefault(blob.sha256, []).append((entry.model, section.name))
blobs = sorted(models_of)
rng = np.random.default_rng(20_261_122)
request = random_request(rng, synthetic_ranker(3, with_effects=True), 12)
opened = scored = 0

def replace(file, content):
    # A new file: what is mapped must not change, that is the contract of mappings.
    unfinished = file.with_name("unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(file)

def refused(model, verify):
    try:
        return None, Scorer.open(path, model=model, verify=verify)
    except ValueError as error:
        return str(error), None

for case in range(cases):
    name = blobs[case % len(blobs)]
    file = path / "blobs" / name
    original = file.read_bytes()
    content = bytearray(original)
    kind = ("flip", "flip", "run", "cut", "grow")[int(rng.integers(5))]
    at = int(rng.integers(len(content)))
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
    model, section = models_of[name][case // len(blobs) % len(models_of[name])]
    print(case, model, section, kind, at, flush=True)
    replace(file, content)
    message, scorer = refused(model, "full")
    assert scorer is None, "full verification opened it"
    assert name in message, message
    message, scorer = refused(model, "header")
    if scorer is not None:
        opened += 1
        try:
            scorer.score(request)
            scored += 1
        except (ValueError, IndexError):
            pass
        try:
            scorer.wait_verified(60)
        except ValueError as error:
            assert name in str(error)
        else:
            raise AssertionError("background verification found nothing")
    replace(file, original)
assert not check_store(path).faults
print("done", opened, scored)
"""


def test_no_damage_is_served_and_none_crashes(tmp_path: Path) -> None:
    artifact = synthetic_ranker(3, with_effects=True, calibrated=True)
    for model, precision in MODELS.items():
        publish_ranker(ModelStore(tmp_path), model, artifact, precision=precision)
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE, str(tmp_path), str(CASES)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    last = done.stdout.splitlines()[-1] if done.stdout else "nothing"
    assert done.returncode == 0, f"after {last}: {done.returncode}\n{done.stderr}"
    word, opened, scored = last.split()
    assert word == "done"
    # Flips in numbers open and score; everything with a checksum of its own is refused.
    assert int(opened) > CASES / 10
    assert int(scored) > CASES / 10
