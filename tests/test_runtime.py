from __future__ import annotations

import os
import subprocess
import sys

import pytest

import feedfast
from feedfast import runtime

HEAVY = ("tensorflow", "horovod", "xgboost", "pyarrow", "ibis", "grpc", "sklearn", "pandas")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_loads_no_heavy_package() -> None:
    code = f"import sys, feedfast; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run_python(code).stdout.strip() == "[]"


def test_version_is_the_distribution_version() -> None:
    from importlib import metadata

    assert feedfast.__version__ == metadata.version("feedfast")


def test_environment_forces_a_target() -> None:
    done = run_python(
        "from feedfast import runtime; print(runtime.cpu_target())", FEEDFAST_CPU_TARGET="scalar"
    )
    assert done.stdout.strip() == "scalar"


def test_unknown_forced_target_is_an_error_that_lists_the_allowed_ones() -> None:
    done = run_python("import feedfast", FEEDFAST_CPU_TARGET="sse9")
    assert done.returncode != 0
    assert "FEEDFAST_CPU_TARGET: CPU target 'sse9' is unknown; allowed: scalar" in done.stderr


def test_unsupported_target_is_refused() -> None:
    missing = {"scalar", "avx2", "avx512", "avx512_bf16"} - set(runtime.supported_cpu_targets())
    for target in missing:
        with pytest.raises(RuntimeError, match="not supported here"):
            runtime.force_cpu_target(target)
    assert runtime.cpu_target() in runtime.supported_cpu_targets()
