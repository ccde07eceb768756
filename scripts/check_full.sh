#!/usr/bin/env bash
# Every C++ preset, every forced CPU target, the slow tests, the CUDA build where nvcc is.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python

presets=(release asan ubsan tsan)
command -v nvcc >/dev/null && presets+=(cuda)
for preset in "${presets[@]}"; do
  echo "== C++ tests, preset $preset"
  cmake --preset "$preset"
  cmake --build --preset "$preset"
  ctest --preset "$preset" --output-on-failure --no-tests=error
done
if command -v clang-tidy >/dev/null; then
  echo "== clang-tidy, every file"
  scripts/tidy.sh --all
fi
for target in $($python -c 'from feedfast import runtime; print(*runtime.supported_cpu_targets())'); do
  echo "== Python tests, CPU target $target"
  FEEDFAST_CPU_TARGET=$target $python -m pytest
done
