#!/usr/bin/env bash
# Builds the binary, for each node with glibc 2.28 (Oracle Linux 8) or newer: it freezes a Python of
# portable_python.sh with the locked packages. Run `make setup` first.
#
#   packaging/python/portable_binary.sh PYTHON [OPTION...]
#
# PYTHON is the folder that portable_python.sh printed. The options are those of freeze/build.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=packaging/setup/step.sh
. packaging/setup/step.sh

python=$1
shift
venv=build/portable
lock=packaging/locks/binary.txt
made=$venv/.made # the Python and the packages of the last run
key="$python $(cat "$lock")"

install_packages() {
    # Only wheels: a package compiled here would need this machine's glibc.
    "$python/bin/python3" -m venv --clear --without-pip "$venv" &&
        .venv/bin/python -m pip --python "$venv/bin/python" install --no-deps --require-hashes \
            --only-binary :all: --no-compile --requirement "$lock" &&
        echo "$key" >"$made"
}

if [ "$(cat "$made" 2>/dev/null)" != "$key" ]; then
    step "Installing the packages of the binary into $venv (0.3 GB)" install_packages
fi
"$venv/bin/python" packaging/freeze/build.py --max-mb 32 "$@"
