#!/usr/bin/env bash
# clang-tidy on the C++ sources that changed since TIDY_BASE (default: the last ten commits), and on
# those that include a changed header; on all of them with --all.
set -euo pipefail
cd "$(dirname "$0")/.."

cmake --preset dev >/dev/null
base=${TIDY_BASE:-HEAD~10}
if [ "${1:-}" = --all ] || ! git rev-parse -q --verify "$base" >/dev/null ||
  ! git diff --quiet "$base" -- .clang-tidy; then
  files=$(git ls-files 'cpp/*.cc' 'fuzz/*.cc' 'tests/cpp/*.cc')
else
  files=$(git diff --name-only --diff-filter=AM "$base" -- 'cpp/*.cc' 'fuzz/*.cc' 'tests/cpp/*.cc')
  for header in $(git diff --name-only --diff-filter=AM "$base" -- 'cpp/*.h' 'fuzz/*.h' 'tests/cpp/*.h'); do
    files+=$'\n'$(git grep -l "#include \"$header\"" -- 'cpp/*.cc' 'fuzz/*.cc' 'tests/cpp/*.cc' || true)
  done
  files=$(sort -u <<<"$files")
fi
# Bindings, ops and device tests need the headers of pybind11, TensorFlow and CUDA; the dev preset
# has none of them.
files=$(printf '%s\n' "$files" | grep -vE '^cpp/(bindings|tf_ops)/|_cuda_test\.cc$|^$' || true)
if [ -z "$files" ]; then
  echo "no C++ source to check"
  exit 0
fi
printf '%s\n' "$files" | \
  xargs -r -P 2 -n 2 clang-tidy --quiet -p build/dev --extra-arg=-Wno-unknown-warning-option
