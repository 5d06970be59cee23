#!/usr/bin/env bash
# Prints the Python to use: the first of 3.11 or newer, else the name of one that apt may know.
set -euo pipefail

for python in python3 python3.{14,13,12,11}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$python"
        exit
    fi
done
echo python3.11 # Ubuntu 22.04 has it beside its own 3.10
