# The interface of this repository. CI and the workflows call only these targets.
PYTHON ?= $(shell packaging/setup/python.sh)
export PYTHON
, := ,
VENV := .venv
BIN := $(VENV)/bin
# Prefix of commands that create network namespaces, mounts or a chroot.
AS_ROOT := @packaging/setup/as_root.sh
# Test processes, for two cores: many tests wait for a time limit most of the time.
WORKERS := 3
# Debian packages of the demo: a registry and its clients. % is the version of Python.
DEMO_PACKAGES := python% python%-venv containerd docker-registry runc skopeo
# To build the binary and its Python.
BUILD_PACKAGES := python%-venv autoconf automake binutils debian-archive-keyring dpkg-dev gcc libltdl-dev \
	libtool make musl-tools perl
# More packages for lint and tests: C compilers, container tools, linters (prometheus: promtool, 22 MB).
PACKAGES := $(DEMO_PACKAGES) $(BUILD_PACKAGES) buildah curl debootstrap gettext-base iproute2 jq libc6-dev \
	podman prometheus shellcheck strace systemd util-linux-extra

.PHONY: help packages setup lint format test coverage faults interpreter binary bench bench-start
.PHONY: demo demo-fresh demo-in-container lock clean
.PHONY: lint-workflows audit audit-release release-binary binary-arm64 sbom verify-in-container image
.PHONY: release-notes release-assets release-image release-draft release-download release-check release-rehearsal

help: ## [Start] list all targets
	@awk -F ':[^#]*## ' '/^[a-z0-9-]+:[^#]*## / { \
	        end = index($$2, "]"); group = substr($$2, 2, end - 2); \
	        if (!(group in lines)) order[++groups] = group; \
	        lines[group] = lines[group] sprintf("  %-20s%s\n", $$1, substr($$2, end + 2)) } \
	    END { for (i = 1; i <= groups; i++) printf "%s%s:\n%s", (i > 1 ? "\n" : ""), order[i], lines[order[i]] }' \
	    $(MAKEFILE_LIST)

packages:
	@packaging/setup/packages.sh $(PACKAGES)

setup: packages ## [Start] install everything that the other targets need
	@packaging/setup/venv.sh $(VENV) packaging/locks/requirements.txt \
		"0.8 GB, of which OCI's SDK is 0.5; a minute or two" --editable

lint: setup lint-workflows ## [Test] run ruff, mypy, import-linter, shellcheck, zizmor
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	shellcheck $$(git ls-files '*.sh' .ci/run)

format: setup ## [Test] format the source with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: packages ## [Test] run everything that must pass
	@echo "Installing, linting and building (some minutes, the first time)"
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint binary
	@echo "Running the tests (some ten minutes on two idle cores)"
	$(AS_ROOT) $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile

# Without the tests of the frozen program itself: coverage replaces it (tests/support/built.py).
coverage: binary ## [Test] report which lines of the program the tests run
	$(AS_ROOT) $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --cov --cov-report=term --quiet \
		--ignore tests/repo --ignore tests/e2e/test_binary.py --ignore tests/e2e/test_nodes.py

faults: setup ## [Campaigns] run the complete fault matrix and print a table
	$(AS_ROOT) $(BIN)/python -m tests.campaigns.faults

# The Python in the binary, built once for this user.
PORTABLE := packaging/python/portable_python.sh
interpreter: packages
	@ALLOW_OLDER=1 $(PORTABLE) >/dev/null

binary: setup interpreter ## [Build] build the binary for this architecture, for glibc 2.28 and newer, in dist/
	@packaging/python/portable_binary.sh "$$(ALLOW_OLDER=1 $(PORTABLE))"

# The major version of ziglang's clang. An older LLVM writes a profile that this clang refuses, or none.
LLVM := 22
.PHONY: profile
profile: setup ## [Build] measure anew which parts of Python a call executes, for the compiler
	@packaging/setup/packages.sh llvm-$(LLVM) libclang-rt-$(LLVM)-dev
	packaging/python/profile.sh $(LLVM)

bench-start: binary ## [Campaigns] measure the size and the start time of each form
	$(AS_ROOT) $(BIN)/python -m tests.campaigns.bench_start

bench: binary ## [Campaigns] measure time, memory and requests of each form and a naive program (BENCH=--check: limits; --readme: update README.md)
	$(AS_ROOT) $(BIN)/python -m tests.cloud -- $(BIN)/python -m tests.campaigns.bench \
		--markdown build/bench.md --plot build/bench.svg $(BENCH)

.PHONY: soak
soak: setup ## [Campaigns] make 2,000 calls, 20 at once, while OCI fails at random
	$(AS_ROOT) $(BIN)/python -m tests.campaigns.soak

KUBELET ?= build/kubelet
PODS ?= 10
.PHONY: kubelet kubelet-download
kubelet: binary ## [Campaigns] pull PODS private images at once with the kubelet KUBELET (RUNTIME=/path/to/crio: only with that runtime; FORM=source: not the binary)
	$(AS_ROOT) $(BIN)/python -u -m tests.campaigns.kubelet --kubelet $(KUBELET) --pods $(PODS) \
		$(addprefix --runtime ,$(RUNTIME)) $(if $(FORM),--form $(FORM))

kubelet-download: ## [Campaigns] download the newest official kubelet of VERSION (1.36) for KUBELET
	packaging/setup/kubelet.sh "$$VERSION" $(KUBELET)

.PHONY: mutations
mutations: setup ## [Campaigns] remove one guard at a time; a test must fail
	$(AS_ROOT) $(BIN)/python -m tests.campaigns.mutations

.PHONY: fuzz
fuzz: setup ## [Campaigns] fuzz each input with coverage guidance (FUZZ_SECONDS per target)
	$(BIN)/python -m pip install --quiet --upgrade --target build/atheris --no-deps --require-hashes \
		--requirement packaging/locks/fuzz.txt
	PYTHONPATH=build/atheris $(BIN)/python -m tests.campaigns.fuzz --seconds $(or $(FUZZ_SECONDS),60)

demo: ## [Start] run the demo: a pull against the stand-in for OCI
	@packaging/setup/packages.sh $(DEMO_PACKAGES)
	@packaging/setup/venv.sh build/demo packaging/locks/demo.txt "30 MB; half a minute"
	$(AS_ROOT) build/demo/bin/python -m tests.demo

# FRESH_MACHINE SUITE USER COMMAND... runs a command in a clone of HEAD on a new Debian system.
FRESH_MACHINE ?= ../shared/fresh-machine
demo-fresh: ## [Start] run the demo on an unprepared machine (root)
	$(FRESH_MACHINE) trixie dev make demo

demo-in-container: ## [Start] run the demo in a clean container of IMAGE (docker)
	packaging/setup/demo_in_container.sh "$$IMAGE"

lock: ## [Build] update the locked requirements (needs uv)
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-header --no-annotate --no-emit-index-url -o packaging/locks/requirements.txt
	uv pip compile --group pyproject.toml:demo --universal --python-version 3.11 \
		--constraint packaging/locks/requirements.txt \
		--generate-hashes --no-header --no-annotate --no-emit-index-url -o packaging/locks/demo.txt
	uv pip compile pyproject.toml --group pyproject.toml:binary --universal --python-version 3.13 \
		--constraint packaging/locks/requirements.txt \
		--generate-hashes --no-header --no-annotate --no-emit-index-url -o packaging/locks/binary.txt

# --- workflows and releases ---

lint-workflows: setup ## [Test] check the workflows: zizmor, JSON schemas
	$(BIN)/zizmor --quiet --offline --pedantic --strict-collection .github examples/github-actions/ocir.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml examples/github-actions/ocir.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml

audit: setup ## [Test] report known vulnerabilities of the locked dependencies (asks PyPI)
	$(BIN)/pip-audit --requirement packaging/locks/requirements.txt --require-hashes --disable-pip

audit-release: packages ## [Test] compare the newest release's CPython and OpenSSL with Debian's security archive (gh)
	packaging/release/audit.sh

ARCHITECTURE := $(if $(filter aarch64,$(shell uname -m)),arm64,amd64)
BINARY := dist/oke-credential-provider-for-ocir-linux-$(ARCHITECTURE)
# The environment of the frozen program. Versions and licenses come from its packages.
FREEZER := build/portable/bin/python

CHECK_GLIBC := $(BIN)/python packaging/freeze/glibc_floor.py --max 2.28

# Nothing that earlier builds kept, and no source but the newest that Debian lists.
release-binary: setup ## [Release] build the binary and its bill of materials as a release does
	rm -rf build/release build/portable build/binary
	packaging/python/portable_binary.sh "$$($(PORTABLE) build/release)"
	$(CHECK_GLIBC) $(BINARY)
	$(MAKE) sbom

ARM64_BINARY := dist/oke-credential-provider-for-ocir-linux-arm64
# Runs a command of this machine with the libraries of the emulated root behind its own. With
# QEMU_LD_PREFIX, qemu would also replace / and with it /run and /tmp.
ARM64 := unshare --mount sh -euc 'mount -t overlay overlay \
	-o lowerdir=/usr/lib:build/roots/bookworm-arm64/usr/lib /usr/lib; exec "$$@"' sh
binary-arm64: setup ## [Build] build and test the arm64 binary under emulation (root; half an hour)
	@packaging/setup/packages.sh binfmt-support debian-archive-keyring debootstrap qemu-user-static
	packaging/python/arm64_root.sh make binary PACKAGES="$(BUILD_PACKAGES)"
	$(CHECK_GLIBC) $(ARM64_BINARY)
	$(ARM64) $(ARM64_BINARY) version
	PROGRAMS='{"arm64": ["$(CURDIR)/$(ARM64_BINARY)"]}' $(ARM64) $(BIN)/pytest --numprocesses 2 \
		tests/e2e/test_end_to_end.py

sbom: ## [Build] write the bill of materials and the licenses next to $(BINARY)
	$(FREEZER) packaging/release/sbom.py $(BINARY) >$(BINARY).cdx.json
	$(BINARY) licenses >$(BINARY).licenses.txt

verify-in-container: setup ## [Build] test BINARY in a clean IMAGE: install, exchange, pull
	$(AS_ROOT) packaging/release/verify_in_container.sh "$$IMAGE" $(BINARY)

image: setup ## [Build] build the installer image of the binaries in dist/ (DaemonSet, check.yaml) in dist/image
	$(AS_ROOT) packaging/image/build.sh

release-notes: ## [Release] print the notes from the changelog; TAG=vX.Y.Z must agree
	@$(PYTHON) packaging/release/notes.py --tag "$${TAG-}"

release-assets: ## [Release] collect the published files in dist/release, and the image (ARCHITECTURES="amd64 arm64")
	@packaging/setup/packages.sh buildah jq musl-tools python%-venv
	packaging/release/assets.sh $${ARCHITECTURES-}

release-draft: ## [Release] create a draft on GitHub from dist/release (TAG, gh)
	packaging/release/draft.sh

release-download: ## [Release] download and verify the files of TAG into dist/download (gh)
	packaging/release/download.sh

release-image: ## [Release] push the image with DIGEST to ghcr.io (TAG, skopeo, gh)
	packaging/release/image.sh

release-check: setup ## [Release] test a release's files in FOLDER as a user would
	$(AS_ROOT) $(BIN)/python -m tests.support.rehearsal "$${FOLDER-dist/release}"

release-rehearsal: binary ## [Release] run a whole release on one machine
	$(MAKE) sbom release-assets
	$(MAKE) release-check

clean: ## [Build] remove build output and .venv
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
