#!/usr/bin/env bash
# Tests a binary with the files of a container image, as on a clean node of that system.
#
#   sudo packaging/release/verify_in_container.sh IMAGE BINARY
#
# The image's files become a root for chroot in the test cloud, whose network has the stand-in for OCI.
# A container could not join that network. Needs docker and root.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ $# -eq 2 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
image=$1 binary=$2
root=build/images/${image//[^a-z0-9.]/-}

if [ ! -e "$root" ]; then
    rm -rf "$root.part"
    mkdir -p "$root.part"
    container=$(docker create "$image" /bin/true)
    trap 'docker rm "$container" >/dev/null' EXIT
    docker export "$container" | tar --extract --directory "$root.part"
    mv "$root.part" "$root" # complete or not at all
fi
.venv/bin/python -m tests.support.userland --root "$root" "$binary"
