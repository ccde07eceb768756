#!/usr/bin/env bash
# Builds dist/feedfast-*.whl with the given Python and fails when the TensorFlow op library is not in it
# (an isolated build has no TensorFlow and would leave it out without a word).
set -euo pipefail

python=$1
cd "$(dirname "$0")/.."
rm -rf dist
FEEDFAST_WITH_TF=ON "$python" -m pip wheel --quiet --disable-pip-version-check --no-build-isolation \
  --no-deps --wheel-dir dist .
wheel=$(ls dist/feedfast-*.whl)
listing=$("$python" -m zipfile -l "$wheel")
for needed in 'feedfast/_core\..*\.so' 'feedfast/tf/_feedfast_ops\.so' 'feedfast/tf/_built_for\.py'; do
  grep -q "$needed" <<<"$listing" || {
    echo "feedfast: $wheel lacks $needed" >&2
    exit 1
  }
done
echo "$wheel"
