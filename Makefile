# The whole interface of this repository. CI and the workflows only call these targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What the build and the tests run beside Python: a C compiler, a registry, container tools, a linter.
PACKAGES := binutils buildah containerd curl docker-registry iproute2 musl-tools podman runc shellcheck skopeo strace

.PHONY: help setup packages lint format test coverage faults binary bench-start demo lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

setup: $(VENV)/.ready packages ## everything that the other targets need

$(VENV)/.ready: packaging/requirements.txt pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement packaging/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q provider
	touch $@

packages:
	@packaging/packages.sh $(PACKAGES)

lint: setup ## ruff, mypy, shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	shellcheck $$(git ls-files '*.sh' .ci/run)

format: setup ## let ruff rewrite the source
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint binary ## everything that must hold
	$(BIN)/pytest --numprocesses 2 --dist loadfile

coverage: setup ## which lines of the program the tests run
	$(BIN)/pytest --numprocesses 2 --dist loadfile --cov --cov-report=term --quiet

faults: setup ## the whole fault matrix, as a table
	$(BIN)/python -m tests.faults

binary: setup ## the binary for this architecture, in dist/
	$(BIN)/python packaging/build.py

bench-start: binary ## how large it is, and how fast it starts
	$(BIN)/python -m tests.bench_start

demo: setup ## the main job, told on the screen
	$(BIN)/python -m tests.demo

lock: ## resolve the requirements anew (needs uv)
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-header --no-annotate --no-emit-index-url -o packaging/requirements.txt

clean: ## remove what was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
