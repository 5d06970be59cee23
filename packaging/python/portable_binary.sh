#!/usr/bin/env bash
# Builds the binary as it is released: for every node with glibc 2.28 (Oracle Linux 8) or newer.
# It is frozen from the Python of portable_python.sh with the locked packages; `make setup` comes first.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=$PWD/build/portable/venv
python=$(packaging/python/portable_python.sh)
rm -rf "$venv"
"$python/bin/python3" -m venv --without-pip "$venv"
# Wheels alone: what is compiled here would want this machine's glibc.
.venv/bin/python -m pip --python "$venv/bin/python" install --quiet --no-deps --require-hashes \
    --only-binary :all: --requirement packaging/locks/requirements.txt
"$venv/bin/python" packaging/freeze/build.py --max-mb 32
