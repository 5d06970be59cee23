#!/usr/bin/env bash
# Runs a command in an emulated arm64 Debian bookworm with Python, make and the host's zig.
#
#   sudo packaging/python/arm64_root.sh make binary
#
# The working directory is the repository. Its build/ and .venv/ are separate from the host's: they are
# in build/arm64. The first run creates the root file system in build/roots (some minutes).
# Needs: root, debootstrap, git, qemu-user-static, binfmt-support, and a python3 with venv.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=packaging/python/debian.sh
. "$here/debian.sh"

[ $# -ge 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
repository=$(cd "$here/../.." && pwd)
root=$repository/build/roots/bookworm-arm64
own=$repository/build/arm64

# Without an init system, nothing has registered qemu with the kernel.
mountpoint -q /proc/sys/fs/binfmt_misc ||
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
update-binfmts --enable qemu-aarch64

debian_root bookworm arm64 "$root" ca-certificates make python3 python3-venv
# The network settings of this machine.
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

# zig is static: the host's zig runs in the root without emulation.
if [ ! -e "$own/zig/bin/python" ]; then
    python3 -m venv "$own/zig"
    "$own/zig/bin/pip" install -q --no-deps --require-hashes -r "$here/../locks/ziglang.txt"
fi
zig=$(echo "$own"/zig/lib/python3*/site-packages/ziglang/zig)

# Git may not work in the root: the repository can be a worktree, or belong to another user.
facts=$(PYTHONPATH=$here/../freeze python3 -Bc 'import build; print(*build.commit_and_date())')
read -r commit epoch <<<"$facts"

mapfile -t settings < <(env | grep -E '^(PIP_(CERT|DEFAULT_TIMEOUT)|SSL_CERT_FILE|https?_proxy|JOBS)=')
mkdir -p "$own/venv" "$repository/.venv"
# shellcheck disable=SC2016 # the inner shell expands this
in_debian_root "$root" "$repository" env -C /mnt HOME=/root DEBIAN_MIRROR="$(debian_mirror)" \
    ZIG="/mnt/build/${zig#"$own/"}" PROVIDER_COMMIT="$commit" SOURCE_DATE_EPOCH="$epoch" "${settings[@]}" \
    sh -euc 'mount --bind build/arm64 build; mount --bind build/venv .venv; exec "$@"' sh "$@"
