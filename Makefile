# Every chore of this project; `make help` lists them. A machine needs cargo and a
# Python 3.10 or later with pip: the rest is fetched into .venv by the first target
# that wants it.
#
#   PYTHON=python3.13 make test     another interpreter (.venv is then made anew)
#   ARGS='-k sockets' make test-python     passed on to pytest, the demo, the benches

PYTHON ?= python3
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
TARGET := $(or $(CARGO_TARGET_DIR),target)

# PyO3 asks an interpreter what to build for. Naming ours for every cargo command keeps
# clippy, maturin and an editor from rebuilding each other's work.
export PYO3_PYTHON := $(CURDIR)/$(PY)

# What the extension module is made of. Python files are not: maturin installs them as
# a link to python/, so that an edit needs no build.
SOURCES := Cargo.toml $(wildcard Cargo.lock) pyproject.toml \
           $(shell find crates -name '*.rs' -o -name Cargo.toml)

# maturin too calls pip, for the tools that are there already.
export PIP_QUIET := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

##@ To see it work

.PHONY: demo
demo: $(VENV)/.extension ## the demo on this terminal: Python, then Rust
	cargo build --quiet --release -p curio --example demo
	$(PY) examples/demo.py --rust $(TARGET)/release/examples/demo $(ARGS)

.PHONY: test
test: test-rust test-python ## all tests, Rust and Python

.PHONY: test-rust
test-rust: ## the crate's tests, its documentation's examples too (no Python needed)
	cargo test -p curio --all-features

.PHONY: test-python
test-python: $(VENV)/.extension ## the package's tests
	$(if $(ARGS),$(PY) -m pytest $(ARGS),bash .ci/test-python $(PY) $(VENV)/test.log)

##@ Before a commit

.PHONY: check
check: check-format lint test-rust docs site test-python stubs ## everything: formats, lints, tests, docs, stubs
	@echo "check: all is well"

.PHONY: check-format
check-format: $(VENV)/.tools ## are all files formatted?
	cargo fmt --all --check
	$(if $(wildcard benches/Cargo.toml),cargo fmt --manifest-path benches/Cargo.toml --check)
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	$(PY) -m ruff format --check .

.PHONY: lint
lint: $(VENV)/.tools ## clippy and ruff, warnings are errors
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	$(PY) -m ruff check .

# What is documented there for help() has Python in its examples.
PYTHON_DOCS := -A rustdoc::private_intra_doc_links -A rustdoc::invalid_rust_codeblocks

.PHONY: docs
docs: $(VENV)/.tools ## the Rust documentation, its warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc -p curio --no-deps --all-features
	RUSTDOCFLAGS="-D warnings $(PYTHON_DOCS)" cargo doc -p curio-py --no-deps --document-private-items

.PHONY: stubs
stubs: $(VENV)/.extension ## do the type stubs agree with the built package, and help its users?
	$(PY) -m mypy.stubtest curio \
	    $(if $(wildcard tests/stubtest-allow.txt),--allowlist tests/stubtest-allow.txt)
	$(PY) -m mypy --strict --no-error-summary tests/typed.py examples

.PHONY: fmt
fmt: $(VENV)/.tools ## format all files
	cargo fmt --all
	$(if $(wildcard benches/Cargo.toml),cargo fmt --manifest-path benches/Cargo.toml)
	cargo fmt --manifest-path fuzz/Cargo.toml
	$(PY) -m ruff check --select I --fix .
	$(PY) -m ruff format .

##@ Now and then

.PHONY: bench
bench: $(VENV)/.extension ## the benchmarks, with every peer (long)
	$(PY) benches/run.py $(ARGS)

.PHONY: bench-quick
bench-quick: $(VENV)/.extension ## the benchmarks, short rounds
	$(PY) benches/run.py --quick $(ARGS)

.PHONY: plots
plots: $(VENV)/.tools ## the documentation's page on speed, from the stored results
	$(PY) -m pip install --quiet matplotlib
	$(PY) benches/plot.py

# Both languages: the guides, help() of the package, and what rustdoc makes of the crate.
.PHONY: site
site: $(VENV)/.extension $(VENV)/.site ## the documentation as a site, in target/site
	RUSTDOCFLAGS="-D warnings" cargo doc -p curio --no-deps --all-features
	$(PY) -m sphinx -q -W --keep-going -E -d $(TARGET)/site-cache -b html docs $(TARGET)/site
	rm -rf $(TARGET)/site/rust && cp -r $(TARGET)/doc $(TARGET)/site/rust
	@echo "site: $(TARGET)/site/index.html"

.PHONY: scale
scale: $(VENV)/.extension ## a million sleeping tasks, ten thousand connections (bytes and lines)
	$(PY) tests/scale.py $(ARGS)

.PHONY: leaks
leaks: $(VENV)/.extension ## loops over every operation and watches memory and descriptors
	$(PY) tests/leaks.py $(ARGS)

.PHONY: interrupt
interrupt: $(VENV)/.extension ## every operation, and whole programs, interrupted in every place: a table
	@$(PY) tests/test_interrupt_everything.py
	@$(PY) tests/test_interrupt_programs.py
	@cargo test --quiet -p curio --all-features --test interrupt_everything -- --nocapture

.PHONY: soak
soak: $(VENV)/.extension ## everything at once for ten minutes, with 10 000 connections
	$(PY) tests/soak.py $(ARGS)

.PHONY: simulate
simulate: $(VENV)/.extension ## random programs on a simulated network: SEEDS=1000000 of them, or one SEED=n
	@cargo test --quiet -p curio --all-features --test simulation --no-run
	$(PY) tests/simulate.py $(if $(SEED),--seed $(SEED),$(or $(SEEDS),1000000))

.PHONY: fuzz
fuzz: ## the line buffer and the monitor's protocol are fuzzed, SECONDS=300 each
	@cargo +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
	@cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz
	cargo +nightly fuzz run lines -- -max_total_time=$(or $(SECONDS),300) -max_len=1000
	@# Threads of the monitor are at work while leaks would be looked for.
	cargo +nightly fuzz run monitor -- -max_total_time=$(or $(SECONDS),300) -max_len=1000 -detect_leaks=0

.PHONY: loom
loom: ## the wake door under every order of events of its threads
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$(TARGET)/loom cargo test -p curio --release --lib loom

.PHONY: devmode
devmode: $(VENV)/.extension ## the package's tests in Python's development mode
	$(PY) -X dev -m pytest $(ARGS)

.PHONY: coverage
coverage: $(VENV)/.tools ## lines and branches that the tests reach, in Rust and Python
	@cargo llvm-cov --version >/dev/null 2>&1 || cargo install cargo-llvm-cov
	PYTHON=$(PY) bash .ci/coverage

.PHONY: miri
miri: ## the crate's unit tests under Miri, which sees undefined behaviour
	@cargo +nightly miri --version >/dev/null 2>&1 \
	    || rustup toolchain install nightly --profile minimal --component miri --component rust-src
	CARGO_PROFILE_TEST_OPT_LEVEL=0 MIRIFLAGS="-Zmiri-disable-isolation" \
	    cargo +nightly miri test -p curio --lib

# Valgrind moves the vDSO, which rustix reads by itself unless it goes through libc.
.PHONY: valgrind
valgrind: ## the crate's tests under Valgrind: invalid accesses and lost memory
	@command -v valgrind >/dev/null || { echo "make: valgrind is not installed" >&2; exit 1; }
	RUSTFLAGS="--cfg rustix_use_libc" CARGO_TARGET_DIR=$(TARGET)/valgrind \
	cargo test -p curio --profile profiling --lib --tests --config \
	    "target.'cfg(all())'.runner = 'valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite'"

.PHONY: semver
semver: ## does the crate break what it has promised since BASE=tag?
	@cargo semver-checks --version >/dev/null 2>&1 || cargo install cargo-semver-checks
	cargo semver-checks -p curio --baseline-rev $(or $(BASE),$(shell git describe --tags --abbrev=0 2>/dev/null || git rev-list --max-parents=0 HEAD))

.PHONY: pyright
pyright: $(VENV)/.extension ## what a second type checker, which editors use, says of the stubs
	$(PY) -m pip install --group pyright
	$(PY) -m basedpyright

.PHONY: wheels
wheels: $(VENV)/.tools ## a wheel in dist/ for each Python found on this machine
	bash .ci/pythons | while read -r version path; do \
	    $(PY) -m maturin build --release --out dist --interpreter "$$path" </dev/null || exit; \
	done

.PHONY: clean
clean: ## remove all that can be made again, .venv included
	rm -rf target benches/target benches/.venv $(VENV) .venvs dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	rm -f python/curio/*.so
	find python tests examples benches -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

# --- what the targets stand on ----------------------------------------------------------
#
# Three stamps in .venv: which interpreter it was made from, the tools as pyproject.toml
# has them in [dependency-groups], the extension as built from the sources.

# Looked at each time, touched only when $(PYTHON) has become another one (or .venv is
# broken): that is why it is forced and why nothing after it is done needlessly.
$(VENV)/.python: FORCE
	@wanted=$$($(PYTHON) -c 'import sys; print(sys.base_prefix, sys.version)') || exit; \
	if [ "$$(cat $@ 2>/dev/null)" != "$$wanted" ] || ! $(PY) -c '' 2>/dev/null; then \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "make: Python 3.10 or later, please")' \
	    && echo "make: .venv from $(PYTHON)" \
	    && rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && echo "$$wanted" >$@; \
	fi

# A pip of 2025 or later reads [dependency-groups]; the one an old Python brings cannot.
$(VENV)/.tools: $(VENV)/.python pyproject.toml
	$(PY) -m pip install --upgrade 'pip>=25.1'
	$(PY) -m pip install --upgrade --group dev
	@touch $@

$(VENV)/.extension: $(VENV)/.tools $(SOURCES)
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(PY) -m maturin develop --release
	@touch $@

$(VENV)/.site: $(VENV)/.tools
	$(PY) -m pip install --upgrade --group site
	@touch $@

.PHONY: FORCE
FORCE:
