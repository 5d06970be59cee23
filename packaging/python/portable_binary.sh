#!/usr/bin/env bash
# Builds the released binary, for each node with glibc 2.28 (Oracle Linux 8) or newer. It freezes the
# Python of portable_python.sh with the locked packages. Run `make setup` first.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=$PWD/build/portable/venv
python=$(packaging/python/portable_python.sh)
rm -rf "$venv"
"$python/bin/python3" -m venv --without-pip "$venv"
# Only wheels: a package compiled here would need this machine's glibc.
.venv/bin/python -m pip --python "$venv/bin/python" install --quiet --no-deps --require-hashes \
    --only-binary :all: --requirement packaging/locks/requirements.txt
"$venv/bin/python" packaging/freeze/build.py --max-mb 32
