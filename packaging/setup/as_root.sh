#!/usr/bin/env bash
# Runs a command as root, with sudo if the caller is not root.
#
#   packaging/setup/as_root.sh COMMAND...
#
# New files in the current folder get the folder's owner.
set -euo pipefail
# shellcheck source=packaging/setup/step.sh
. "$(dirname "$0")/step.sh"

why="network namespaces, mounts and chroot need root"
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "$why, and there is no sudo. Run this as root."
    echo "${why^}. Running sudo."
    exec sudo --set-home "$0" "$@"
fi

[ ! -O . ] || exec "$@"
give_back() {
    # The files of an emulated system (arm64_root.sh) are root's also in a user's clone.
    find . -xdev -path ./build/roots -prune -o -user root -exec chown --no-dereference --reference=. {} +
}
trap give_back EXIT
"$@"
