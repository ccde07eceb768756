#!/usr/bin/env bash
# Builds Horovod against the TensorFlow of an environment: scripts/install_horovod.sh [PYTHON]
# (default .venv/bin/python). Does nothing when the one that is there fits and starts.
#
# Horovod's last release is older than the TensorFlow it is built against here, hence:
# - its TensorFlow sources include XLA headers under the names they had before XLA moved: forwarding
#   headers in a folder of their own, named in CPATH;
# - TensorFlow's headers include highwayhash and farmhash, which its wheel lacks: Debian's packages;
# - its CMake files and those of its Gloo ask for CMake versions that CMake 4 dropped;
# - never from pip's cache: a wheel built for another TensorFlow installs and then refuses to load.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-.venv/bin/python}
export TF_CPP_MIN_LOG_LEVEL=3

fail() {
  echo "install_horovod.sh: $*" >&2
  exit 1
}

starts() { # Horovod refuses to load when it was built for another TensorFlow
  "$python" - "$version" <<'PY'
import sys
from importlib import metadata

if metadata.version("horovod") != sys.argv[1]:
    sys.exit(f"horovod {metadata.version('horovod')} is installed; wanted {sys.argv[1]}")
import horovod.tensorflow as hvd

hvd.init()
if hvd.size() != 1 or not hvd.gloo_built():
    sys.exit("Horovod without Gloo")
PY
}

requirements=$("$python" scripts/requirements.py horovod 2>/dev/null) ||
  fail "no Python at $python; run \`make setup\` first"
version=$(sed -n 's/^horovod==//p' <<<"$requirements")
include=$("$python" -c 'import tensorflow as tf; print(tf.sysconfig.get_include())' 2>/dev/null) ||
  fail "$python has no TensorFlow; run \`make setup\` first"
if starts >/dev/null 2>&1; then
  exit 0
fi

scripts/install_system_packages.sh g++ cmake libhighwayhash-dev libfarmhash-dev
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

forward() { # name that Horovod includes, name in this TensorFlow
  [ -e "$include/$2" ] || fail "TensorFlow has no header $2 (looked in $include)"
  mkdir -p "$work/include/$(dirname "$1")"
  echo "#include \"$2\"" >"$work/include/$1"
}
forward tensorflow/compiler/xla/client/xla_builder.h xla/hlo/builder/xla_builder.h
for header in service/custom_call_target_registry.h service/hlo.pb.h shape.h xla_data.pb.h; do
  forward "tensorflow/compiler/xla/$header" "xla/$header"
done

pip=("$python" -m pip install --quiet --disable-pip-version-check)
grep -v -e '^horovod==' -e '^tensorflow' <<<"$requirements" >"$work/requirements"
"${pip[@]}" -r "$work/requirements" setuptools wheel
echo "building Horovod $version against $include: 3 to 6 minutes on 2 cores"
if ! env CPATH="$work/include${CPATH:+:$CPATH}" CXXFLAGS=-w MAKEFLAGS=-j2 \
  HOROVOD_CMAKE="$(command -v /usr/bin/cmake || command -v cmake)" CMAKE_POLICY_VERSION_MINIMUM=3.5 \
  HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
  HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI="${HOROVOD_WITHOUT_MPI-1}" \
  "${pip[@]}" --force-reinstall --no-deps --no-cache-dir --no-build-isolation --no-binary horovod \
  "horovod==$version" >"$work/log" 2>&1; then
  tail -n 60 "$work/log" >&2
  fail "the build of Horovod $version failed; the end of its log is above"
fi
starts || fail "Horovod $version was built and does not start"
