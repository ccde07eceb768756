#!/usr/bin/env bash
# clang-tidy on the C++ sources that the last commit changed; on all of them with --all.
set -euo pipefail
cd "$(dirname "$0")/.."

cmake --preset dev >/dev/null
if [ "${1:-}" = --all ] || ! git rev-parse -q --verify HEAD~1 >/dev/null; then
  files=$(git ls-files 'cpp/*.cc' 'tests/cpp/*.cc')
else
  files=$(git diff --name-only --diff-filter=AM HEAD~1 -- 'cpp/*.cc' 'tests/cpp/*.cc')
fi
# Bindings, ops and device tests need the headers of pybind11, TensorFlow and CUDA; the dev preset
# has none of them.
files=$(printf '%s\n' "$files" | grep -vE '^cpp/(bindings|tf_ops)/|_cuda_test\.cc$' || true)
if [ -z "$files" ]; then
  echo "no C++ source to check"
  exit 0
fi
printf '%s\n' "$files" | \
  xargs -r -P 2 -n 2 clang-tidy --quiet -p build/dev --extra-arg=-Wno-unknown-warning-option
