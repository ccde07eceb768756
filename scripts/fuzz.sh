#!/usr/bin/env bash
# fuzz.sh SECONDS [STEM...]: fuzzes each target (default: all of fuzz/) for so long, from its corpus.
# A finding ends the run, and its input is kept in build/fuzz/findings. fuzz.sh --merge [STEM...]
# rewrites the corpora in fuzz/corpus to the smallest set of inputs with the coverage of all found.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v clang++ >/dev/null || { echo "fuzzing needs clang: apt-get install clang" >&2; exit 1; }

seconds=$1
shift
stems=("$@")
if [ $# -eq 0 ]; then
  for source in fuzz/fuzz_*.cc; do
    stem=${source#fuzz/fuzz_}
    stems+=("${stem%.cc}")
  done
fi
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz

largest=8192 # bytes of an input; images of every shape fit
for stem in "${stems[@]}"; do
  program=build/fuzz/fuzz/fuzz_$stem
  found=build/fuzz/corpus/$stem
  mkdir -p "$found" build/fuzz/findings
  if [ "$seconds" = --merge ]; then
    merged=$(mktemp -d)
    "$program" -set_cover_merge=1 -use_counters=0 -max_len=$largest "$merged" "fuzz/corpus/$stem" "$found"
    rm -rf "fuzz/corpus/$stem"
    mkdir "fuzz/corpus/$stem"
    cp "$merged"/* "fuzz/corpus/$stem"
    rm -rf "$merged"
  else
    echo "== $stem, $seconds s"
    options=(-max_total_time="$seconds" -max_len=$largest -artifact_prefix="build/fuzz/findings/$stem-")
    [ -f "fuzz/$stem.dict" ] && options+=(-dict="fuzz/$stem.dict")
    "$program" "${options[@]}" -print_final_stats=1 "$found" "fuzz/corpus/$stem"
  fi
done
