"""Shared by all tests: quiet TensorFlow, one place for the CPU-target fixture."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_NUM_THREADS", "2")

from feedfast import runtime


@pytest.fixture(params=runtime.supported_cpu_targets())
def cpu_target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once under every CPU target of this machine."""
    before = runtime.cpu_target()
    runtime.force_cpu_target(request.param)
    yield request.param
    runtime.force_cpu_target(before)
