#!/usr/bin/env bash
# Creates a virtual environment with the locked packages if it is missing or outdated.
#
#   PYTHON=python3 packaging/setup/venv.sh FOLDER REQUIREMENTS COST [--editable]
#
# COST is the space and time that the step prints. --editable: installs this repository's program too.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=packaging/setup/step.sh
. packaging/setup/step.sh

folder=$1 requirements=$2 cost=$3 editable=${4-}
python=${PYTHON:-python3}
made=$folder/.made # the Python and the requirements of the last run
key=$("$python" -c 'import sys; print(sys.version, sys.base_prefix)' && cat "$requirements")

install_packages() {
    # --no-deps: the file lists each package. Old versions of pip (23.0 in Debian 12) resolve
    # "coverage[toml]" to its newest release, which has no hash in the file.
    "$python" -m venv --clear "$folder" &&
        "$folder/bin/python" -m pip install --no-compile --no-deps --require-hashes \
            --requirement "$requirements" &&
        "$folder/bin/python" -m pip check &&
        compile &&
        echo "$key" >"$made"
}

# pip would use one core, and compile the 17,000 models of OCI's services, which nothing here imports.
compile() {
    # Some packages contain templates that are no Python: compileall fails.
    "$folder/bin/python" -m compileall -qq -j 2 -x '/oci/\w+/models/' "$folder"/lib/python3*/site-packages || true
}

install_program() {
    "$folder/bin/python" -m pip install --no-deps --no-build-isolation --editable . &&
        "$folder/bin/python" -m compileall -q provider &&
        cp pyproject.toml "$folder/"
}

if [ "$(cat "$made" 2>/dev/null)" != "$key" ]; then
    count=$(grep -c == "$requirements")
    step "Installing $count Python packages into $folder ($cost)" install_packages
fi
if [ -n "$editable" ] && ! cmp -s pyproject.toml "$folder/pyproject.toml"; then
    step "Installing the program itself into $folder" install_program
fi
