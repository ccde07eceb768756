"""No object built for a wider instruction set may offer symbols that the linker could share."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def kernel_objects() -> list[Path]:
    return sorted(
        path
        for target in ("avx2", "avx512", "avx512_bf16", "avx512_vbmi")
        for path in ROOT.glob(f"build/**/*_{target}.dir/*_kernel.cc.o")
        if "release" in path.parts or path.parts[len(ROOT.parts) + 1].startswith("cp")
    )


def test_kernel_objects_export_no_weak_symbols() -> None:
    objects = kernel_objects()
    nm = shutil.which("nm")
    if nm is None or not objects:
        pytest.skip("needs nm and a build folder of this checkout")
    weak = []
    for path in objects:
        listed = subprocess.run([nm, "-C", str(path)], capture_output=True, text=True, check=True)
        weak += [
            f"{path.name}: {line}"
            for line in listed.stdout.splitlines()
            if line[17:18] in {"W", "V", "u"}
        ]
    assert not weak
