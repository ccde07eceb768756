"""Reads every include and import line and fails on an arrow that DESIGN's layers do not have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CORE = {"mph", "embedding_kernels", "gated_mlp", "tree_encoder", "allreduce"}
MAY_INCLUDE: dict[str, set[str]] = {
    "common": set(),
    **{folder: {"common"} for folder in CORE},
    "scorer": {"common", *CORE},
    "model_store": {"common", "embedding_kernels"},
    "ranker": {"common", "scorer", "model_store", *CORE},
    "c_api": {"common", "scorer", "model_store", "ranker", *CORE},
    "bindings": {"common", "scorer", *CORE},
    "tf_ops": {"common", "scorer", *CORE},
}

# Python: which top-level parts of feedfast a part may import (itself always).
NUMPY = {
    *("_core", "runtime", "vocab", "vocab_sources", "hashing", "bags", "row_optimizers"),
    *(
        "grouped_lookup",
        "table_memory",
        "quantize",
        "live_vocabulary",
        "gated_mlp",
        "cross_network",
        "layer_weights",
        "trees",
        "metrics",
    ),
    *("input_layout", "ranker_artifact", "ranker_description", "request", "request_columns"),
    *("ranker_precision", "ranker_balance", "precision_search"),
    *("synthetic_ranker", "latency_plan"),
    *("ranker_prune", "process_memory", "memory_plan", "sharding"),
    *("weighting", "calibration", "objectives", "random_effects", "store", "scorer", "config"),
}
MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(NUMPY, NUMPY),
    "sharding": {*NUMPY, "comm"},
    "bench": NUMPY,
    "scorer_sweep": NUMPY,
    "comm": NUMPY,
    "sharded_tables": {*NUMPY, "comm"},
    "data": NUMPY,
    "tf": {*NUMPY, "comm", "sharded_tables"},
    "ranker": {*NUMPY, "comm", "sharded_tables", "tf", "data"},
    "training": {*NUMPY, "comm", "sharded_tables", "tf", "data", "ranker"},
    "serving": NUMPY,
    "cli": {
        *NUMPY,
        "bench",
        "comm",
        "sharded_tables",
        "data",
        "tf",
        "ranker",
        "training",
        "serving",
    },
}

# Third-party packages and the only parts (or files) that may import them.
OWNERS: dict[str, set[str]] = {
    "tensorflow": {"tf", "ranker", "training", "comm/horovod_engine.py"},
    "keras": {"tf", "ranker", "training"},
    "horovod": {"comm/horovod_engine.py"},
    "xgboost": {"trees.py"},
    "pyarrow": {"data", "cli"},
    "ibis": {"data"},
    "grpc": {"serving"},
    "sklearn": {"ranker"},
    "onnx": {"ranker"},
    "matplotlib": {"cli"},
    "rich": {"cli"},
}


def includes() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "cpp").rglob("*")):
        if path.suffix not in {".h", ".cc", ".cu"}:
            continue
        for line in path.read_text().splitlines():
            match = re.match(r'\s*#\s*include\s+[<"]([^>"]+)[>"]', line)
            if match:
                yield str(path.relative_to(ROOT)), match[1]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def python_files() -> list[Path]:
    return sorted((ROOT / "python" / "feedfast").rglob("*.py"))


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT / "python" / "feedfast")
    return relative.parts[0].removesuffix(".py")


def test_includes_follow_the_layers() -> None:
    wrong = []
    for source, included in includes():
        folder = source.split("/")[1]
        if not included.startswith("cpp/"):
            continue
        target = included.split("/")[1]
        if target != folder and target not in MAY_INCLUDE[folder]:
            wrong.append(f"{source} includes {included}")
    assert not wrong


def test_only_bindings_know_python_and_only_tf_ops_know_tensorflow() -> None:
    wrong = []
    for source, included in includes():
        folder = source.split("/")[1]
        if included.startswith(("pybind11/", "Python.h", "numpy/")) and folder != "bindings":
            wrong.append(f"{source} includes {included}")
        if included.startswith(("tensorflow/", "absl/")) and folder != "tf_ops":
            wrong.append(f"{source} includes {included}")
    assert not wrong


def test_kernel_sources_have_no_containers() -> None:
    """Library templates in a file built for AVX-512 become weak symbols that others may link to."""
    allowed = re.compile(r"^(cpp/|immintrin\.h$|math\.h$|c(std(int|def)|math|string|float)$)")
    wrong = [
        f"{source} includes {included}"
        for source, included in includes()
        if source.endswith("_kernel.cc") and not allowed.match(included)
    ]
    assert not wrong


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_layers(path: Path) -> None:
    part = part_of(path)
    relative = str(path.relative_to(ROOT / "python" / "feedfast"))
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "feedfast" and rest and part != "__init__":
            target = rest.split(".")[0]
            if (ROOT / "python" / "feedfast" / target).is_dir() or target in MAY_IMPORT:
                allowed = MAY_IMPORT[part] | {part}
                assert target in allowed, f"{relative} ({part}) may not import {name}"
        owners = OWNERS.get(package)
        if owners is not None:
            assert part in owners or relative in owners, f"{relative} may not import {name}"
