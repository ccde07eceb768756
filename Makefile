# One entry point for people and for CI. `make demo` and `make test` work on a fresh machine: they
# install system packages (as root), a virtual environment in .venv and the native build first.
# A step runs again only when what it was made from has changed.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# The demo's data set (simulated, movielens or openbandit), its folder and further arguments.
DATA ?= simulated
OUT ?= demo/$(DATA)
ARGS ?=
PRESET ?= release
# Where `make install-c` puts the C interface.
PREFIX ?= /usr/local
SECONDS ?= 60

SYSTEM_PACKAGES := g++ cmake ninja-build libxxhash-dev nlohmann-json3-dev libgtest-dev libbenchmark-dev
# Debian's own Python comes without venv and headers.
SYSTEM_PACKAGES += $(shell $(PYTHON) -c 'import ensurepip, os, sysconfig; \
  os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || echo python3.11-venv python3.11-dev)
NATIVE_SOURCES := $(shell find cpp cmake -type f) CMakeLists.txt pyproject.toml

export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup setup-horovod demo test test-cpp test-python test-distributed install-c bench fuzz lint format check-full wheel clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.native ## Install everything into .venv and build the native parts

setup-horovod: $(VENV)/.deps ## Build Horovod against the TensorFlow of .venv, for many hosts
	scripts/install_horovod.sh $(BIN)/python

demo: setup ## Train, export, open and rank: DATA=simulated|movielens|openbandit OUT=folder
	$(BIN)/feedfast demo --data $(DATA) --out $(OUT) $(ARGS)

test: setup test-cpp test-python ## C++ and Python tests

test-cpp: $(VENV)/.system
	cmake --preset $(PRESET)
	cmake --build --preset $(PRESET)
	ctest --preset $(PRESET) --output-on-failure --no-tests=error -j 2

test-python: setup
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

install-c: $(VENV)/.system ## libfeedfast, feedfast.h and their CMake package into PREFIX=/usr/local; no Python
	cmake --preset $(PRESET) -DFEEDFAST_BUILD_TESTS=OFF -DFEEDFAST_BUILD_BENCHMARKS=OFF -B build/c_api
	cmake --build build/c_api --target feedfast_c
	cmake --install build/c_api --prefix $(PREFIX) --component c_api

test-distributed: setup ## Training on 1, 2, 3, 4 and 6 processes, and long runs (CI: 2 processes, short)
	$(BIN)/python -m pytest tests/distributed $(ARGS)

bench: setup ## Latency benchmarks through pytest-benchmark, then every workload with its peers
	$(BIN)/python -m pytest benchmarks/latency --benchmark-only $(ARGS)
	$(BIN)/feedfast bench all

fuzz: $(VENV)/.system ## Fuzz every reader of files for SECONDS=60 each; needs clang
	scripts/fuzz.sh $(SECONDS)

lint: $(VENV)/.deps ## Formats, types, spelling; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/codespell
	git ls-files '*.h' '*.cc' '*.cu' | xargs -r $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.deps ## Rewrite sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.h' '*.cc' '*.cu' | xargs -r $(BIN)/clang-format -i

check-full: setup lint ## Everything, however long: every preset, every CPU target, slow tests
	scripts/check_full.sh

wheel: setup ## Write dist/*.whl with the TensorFlow op library inside
	scripts/build_wheel.sh $(BIN)/python

clean: ## Remove builds and the virtual environment
	rm -rf build dist $(VENV)

$(VENV)/.system: Makefile scripts/install_system_packages.sh
	scripts/install_system_packages.sh $(SYSTEM_PACKAGES)
	@mkdir -p $(VENV) && touch $@

$(VENV)/.deps: pyproject.toml scripts/requirements.py | $(VENV)/.system
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python scripts/requirements.py dev > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	@touch $@

$(VENV)/.native: $(VENV)/.system $(VENV)/.deps $(NATIVE_SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
	  --config-settings=cmake.define.FEEDFAST_WITH_TF=ON --editable .
	@touch $@
