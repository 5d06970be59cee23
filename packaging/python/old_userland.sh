#!/usr/bin/env bash
# Runs a program in the oldest userland that Debian's archive still holds: bullseye, glibc 2.31.
#
#   sudo packaging/python/old_userland.sh dist/PROGRAM [ARGUMENT...]
#
# The program's folder is /mnt there, so the unpacked form runs too. Standard input and output are
# the caller's. The first run sets the userland up (a minute). Needs: root, debootstrap.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=packaging/python/debian.sh
. "$here/debian.sh"

[ $# -ge 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
program=$(realpath -e "$1")
shift
arch=$(dpkg --print-architecture)
root=$here/../../build/roots/bullseye-$arch
debian_root bullseye "$arch" "$root"
in_debian_root "$root" "$(dirname "$program")" "/mnt/$(basename "$program")" "$@"
