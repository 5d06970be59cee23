#!/usr/bin/env bash
# Runs a command as root, by sudo where the caller is somebody else.
#
#   packaging/setup/as_root.sh COMMAND...
#
# What root makes in the current folder is given to the folder's owner.
set -euo pipefail
# shellcheck source=packaging/setup/step.sh
. "$(dirname "$0")/step.sh"

why="network namespaces, mounts and chroot need root"
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "$why, and there is no sudo: run this as root."
    echo "${why^}: asking sudo."
    exec sudo --set-home "$0" "$@"
fi

[ ! -O . ] || exec "$@"
give_back() {
    find . -xdev -user root -exec chown --no-dereference --reference=. {} +
}
trap give_back EXIT
"$@"
