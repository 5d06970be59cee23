#!/usr/bin/env bash
# Runs a command in an emulated arm64 Debian bookworm that has the packages for a build.
#
#   sudo packaging/python/arm64_root.sh make setup VENV=build/arm64/venv
#
# The working directory is the repository. The first run creates the root file system in build/ (about
# ten minutes). Needs: root, debootstrap, qemu-user-static, binfmt-support.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=packaging/python/debian.sh
. "$here/debian.sh"

[ $# -ge 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
repository=$(cd "$here/../.." && pwd)
root=$repository/build/roots/bookworm-arm64

# Without an init system, nothing has registered qemu with the kernel.
mountpoint -q /proc/sys/fs/binfmt_misc ||
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
update-binfmts --enable qemu-aarch64

debian_root bookworm arm64 "$root" autoconf automake binutils ca-certificates \
    debian-archive-keyring dpkg-dev git libltdl-dev libtool make perl python3 python3-venv
# The network settings of this machine.
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

# zig is static: the host's zig runs in the root without emulation.
zig=build/arm64/zig
if [ ! -e "$repository/$zig/bin/python" ]; then
    python3 -m venv "$repository/$zig"
    "$repository/$zig/bin/pip" install -q --no-deps --require-hashes -r "$here/../locks/ziglang.txt"
fi
zig=$(cd "$repository" && echo "$zig"/lib/python3*/site-packages/ziglang/zig)

mapfile -t settings < <(env | grep -E '^(PIP_(CERT|DEFAULT_TIMEOUT)|SSL_CERT_FILE|https?_proxy|JOBS)=')
in_debian_root "$root" "$repository" env -C /mnt HOME=/root DEBIAN_MIRROR="$(debian_mirror)" \
    ZIG="/mnt/$zig" "${settings[@]}" "$@"
