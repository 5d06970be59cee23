#!/usr/bin/env bash
# Prints the Python to use: the first with version 3.11 or newer, otherwise one that apt may have.
set -euo pipefail

for python in python3 python3.{14,13,12,11}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$python"
        exit
    fi
done
echo python3.11 # Ubuntu 22.04 has it in addition to 3.10
