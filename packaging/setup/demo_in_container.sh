#!/usr/bin/env bash
# Runs `make demo` in a clean container, in a clone of HEAD, as an ordinary user with sudo.
#
#   packaging/setup/demo_in_container.sh IMAGE
#
# IMAGE is an image of Debian or Ubuntu. Needs docker.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ $# -eq 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT
git clone --quiet . "$clone/repository"
chmod 755 "$clone"
# Privileged: the demo creates namespaces and mounts.
docker run --rm --privileged --volume "$clone:/clone:ro" "$1" sh -euc '
    # The tools that a user who clones a repository has.
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends ca-certificates git make python3 sudo >/dev/null
    useradd --create-home dev
    echo "dev ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/dev
    exec sudo --user=dev --set-home sh -euc "
        cp -r /clone/repository /home/dev
        cd /home/dev/repository
        make demo
        make clean
    "
'
