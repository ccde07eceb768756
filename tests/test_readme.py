"""The Python examples of README.md and of the guides run as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from feedfast import ModelStore
from feedfast.ranker_artifact import publish_ranker
from synthetic_ranker import synthetic_ranker

ROOT = Path(__file__).resolve().parents[1]

# Guides whose examples build on each other and check themselves.
GUIDES = ("docs/vocabulary.md",)


def python_examples(document: str = "README.md") -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_keras_example_builds_a_model_that_fits(tmp_path: Path) -> None:
    for_tensorflow, _ = python_examples()
    fit = (
        'keys = tf.ragged.constant([["member:1", "member:2"], [], ["never"]])\n'
        "labels = tf.constant([[0.0], [1.0], [1.0]])\n"
        "model.fit([keys, tf.zeros((3, 16))], labels, verbose=0)\n"
        "print(model.count_params())\n"
    )
    assert int(run_python(for_tensorflow + fit, tmp_path)) > 6_400_000


def test_the_serving_example_scores(tmp_path: Path) -> None:
    _, for_serving = python_examples()
    ranker = synthetic_ranker(seed=20_240_601)
    publish_ranker(ModelStore(tmp_path / "store"), "feed", ranker)
    assert "[" in run_python(for_serving, tmp_path)


@pytest.mark.parametrize("guide", GUIDES)
def test_the_examples_of_a_guide_run_one_after_the_other(guide: str, tmp_path: Path) -> None:
    examples = python_examples(guide)
    assert examples
    run_python("".join(examples), tmp_path)
