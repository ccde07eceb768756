"""The keys of the vocabulary benchmarks are what the workload says they are."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

KEYS = Path(__file__).resolve().parents[1] / "benchmarks" / "peers" / "vocab_keys.py"


@pytest.fixture(scope="module")
def vocab_keys() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vocab_keys", KEYS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("members", r"^urn:li:member:\d{1,11}$"),
        ("hashtags", r"^#tag\d{1,11}$"),
        ("uuids", r"^uid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"),
    ],
)
def test_keys_are_distinct_and_depend_on_the_index_alone(
    vocab_keys: ModuleType, kind: str, pattern: str
) -> None:
    keys = vocab_keys.first_keys(kind, 5000)
    assert len(keys.unique()) == 5000
    picked = np.array([4999, 0, 7, 7])
    assert vocab_keys.keys_at(kind, picked).to_pylist() == [keys[i].as_py() for i in picked]
    assert all(re.match(pattern, key) for key in keys[:100].to_pylist())


def test_text_files_hold_a_key_per_line(vocab_keys: ModuleType) -> None:
    keys = vocab_keys.first_keys("members", 100)
    path = Path(vocab_keys.text_file(keys))
    assert path.read_text().splitlines() == keys.to_pylist()
