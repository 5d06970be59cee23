# The whole interface of this repository. CI and the workflows only call these targets.
PYTHON ?= $(shell packaging/python.sh)
export PYTHON
, := ,
VENV := .venv
BIN := $(VENV)/bin
# In front of what makes network namespaces, mounts or a chroot.
AS_ROOT := @packaging/as_root.sh
# Debian packages; % is the version of Python. What the demo runs: a registry, and pulls from it.
DEMO_PACKAGES := python% python%-venv containerd docker-registry runc skopeo
# What lint, build and tests need besides: C compilers, container tools, a linter. PyInstaller needs
# Python as a library.
PACKAGES := $(DEMO_PACKAGES) binutils buildah curl gcc iproute2 libc6-dev libpython% musl-tools \
	podman shellcheck strace systemd

.PHONY: help setup lint format test coverage faults binary bench bench-start demo lock clean
.PHONY: demo-fresh demo-in-container
.PHONY: lint-workflows audit binary-portable binary-arm64 sbom verify-in-container
.PHONY: release-notes release-assets release-draft release-download release-check release-rehearsal

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

setup: ## everything that the other targets need
	@packaging/packages.sh $(PACKAGES)
	@packaging/venv.sh $(VENV) packaging/requirements.txt \
		"0.8 GB, of which OCI's SDK is 0.5; a minute or two" --editable

lint: setup lint-workflows ## ruff, mypy, shellcheck, zizmor
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	shellcheck $$(git ls-files '*.sh' .ci/run)

format: setup ## let ruff rewrite the source
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint binary ## everything that must hold
	@echo "Running the tests (some ten minutes on two idle cores)"
	$(AS_ROOT) $(BIN)/pytest --numprocesses 2 --dist loadfile

coverage: setup ## which lines of the program the tests run
	$(AS_ROOT) $(BIN)/pytest --numprocesses 2 --dist loadfile --cov --cov-report=term --quiet

faults: setup ## the whole fault matrix, as a table
	$(AS_ROOT) $(BIN)/python -m tests.campaigns.faults

binary: setup ## the binary for this architecture, in dist/
	$(BIN)/python packaging/build.py

bench-start: binary ## how large it is, and how fast it starts
	$(AS_ROOT) $(BIN)/python -m tests.campaigns.bench_start

bench: binary ## time, memory and requests of each form beside a naive program (BENCH=--check: bars)
	$(AS_ROOT) $(BIN)/python -m tests.cloud -- $(BIN)/python -m tests.campaigns.bench \
		--markdown build/bench.md --plot build/bench.svg $(BENCH)

.PHONY: soak
soak: setup ## 2,000 calls, 20 at once, while OCI fails at random
	$(AS_ROOT) $(BIN)/python -m tests.campaigns.soak

.PHONY: mutations
mutations: setup ## take one guard out at a time; a test must notice
	$(AS_ROOT) $(BIN)/python -m tests.campaigns.mutations

.PHONY: fuzz
fuzz: setup ## every way in, under a fuzzer guided by coverage (FUZZ_SECONDS for each)
	$(BIN)/python -m pip install --quiet --upgrade --target build/atheris --no-deps --require-hashes \
		--requirement packaging/fuzz.txt
	PYTHONPATH=build/atheris $(BIN)/python -m tests.campaigns.fuzz --seconds $(or $(FUZZ_SECONDS),60)

demo: ## the main job, told on the screen
	@packaging/packages.sh $(DEMO_PACKAGES)
	@packaging/venv.sh build/demo packaging/demo.txt "30 MB; half a minute"
	$(AS_ROOT) build/demo/bin/python -m tests.demo

# SUITE USER COMMAND...: runs a command in a clone of HEAD on a Debian as its installer leaves it.
FRESH_MACHINE ?= ../shared/fresh-machine
demo-fresh: ## the demo on a machine that nobody prepared (as root)
	$(FRESH_MACHINE) trixie dev make demo

demo-in-container: ## the demo in a clean container of IMAGE (docker)
	packaging/demo_in_container.sh "$$IMAGE"

lock: ## resolve the requirements anew (needs uv)
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-header --no-annotate --no-emit-index-url -o packaging/requirements.txt
	uv pip compile --group pyproject.toml:demo --universal --python-version 3.11 \
		--constraint packaging/requirements.txt \
		--generate-hashes --no-header --no-annotate --no-emit-index-url -o packaging/demo.txt

# --- the workflows, and what they publish ---

lint-workflows: setup ## zizmor, JSON schemas, shellcheck of each step
	$(BIN)/zizmor --quiet --offline --pedantic --strict-collection .github
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/python packaging/check_steps.py .github/workflows/*.yml

audit: setup ## known vulnerabilities of the locked dependencies (asks PyPI)
	$(BIN)/pip-audit --requirement packaging/requirements.txt --require-hashes --disable-pip

ARCHITECTURE := $(if $(filter aarch64,$(shell uname -m)),arm64,amd64)
BINARY := dist/oke-credential-provider-for-ocir-linux-$(ARCHITECTURE)
# The interpreter that froze the binary: versions and licences come from its packages.
FREEZER ?= $(BIN)/python

binary-portable: setup ## as released: for glibc 2.28 and newer, with sbom
	@packaging/packages.sh autoconf automake debian-archive-keyring debootstrap dpkg-dev libltdl-dev libtool perl
	packaging/portable_binary.sh
	$(BIN)/python packaging/glibc_floor.py --max 2.28 $(BINARY)
	$(MAKE) sbom FREEZER=build/portable/venv/bin/python

# Emulated, an arm64 program finds its libraries in the root that it was built in.
ARM64 := env QEMU_LD_PREFIX=$(CURDIR)/build/roots/bookworm-arm64 $(CURDIR)/dist/oke-credential-provider-for-ocir-linux-arm64
binary-arm64: setup ## the arm64 binary, built and tried under emulation (as root; most of an hour)
	@packaging/packages.sh binfmt-support debian-archive-keyring debootstrap qemu-user-static
	packaging/arm64_root.sh make binary VENV=build/arm64/venv PACKAGES="binutils gcc libpython3.11 musl-tools"
	$(ARM64) version
	PROGRAMS='{"arm64": ["$(subst $() ,"$(,) ",$(ARM64))"]}' $(BIN)/pytest --numprocesses 2 \
		tests/e2e/test_end_to_end.py -k "honours or containerd or version or token_near or another_registry"

sbom: ## what is in $(BINARY), and its licences, beside it
	$(FREEZER) packaging/sbom.py $(BINARY) >$(BINARY).cdx.json
	$(BINARY) licenses >$(BINARY).licenses.txt

verify-in-container: setup ## BINARY in a clean IMAGE: install, exchange, pull
	$(AS_ROOT) packaging/verify_in_container.sh "$$IMAGE" $(BINARY)

release-notes: ## from the changelog; TAG=vX.Y.Z must agree
	@$(PYTHON) packaging/release_notes.py --tag "$${TAG-}"

release-assets: ## what is published, into dist/release (ARCHITECTURES="amd64 arm64")
	packaging/release_assets.sh $${ARCHITECTURES-}

release-draft: ## a draft on GitHub of dist/release (TAG, gh)
	packaging/release_draft.sh

release-download: ## TAG's files into dist/download, verified (gh)
	packaging/release_download.sh

release-check: setup ## FOLDER with a release's files, as a user would
	$(AS_ROOT) $(BIN)/python -m tests.support.rehearsal "$${FOLDER-dist/release}"

release-rehearsal: binary ## a release, as far as one machine can
	$(MAKE) sbom release-assets
	$(MAKE) release-check

clean: ## remove what was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
