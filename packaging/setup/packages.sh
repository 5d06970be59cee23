#!/usr/bin/env bash
# Installs those of the named Debian packages that are missing. No service is started or enabled.
#
#   PYTHON=python3 packaging/setup/packages.sh PACKAGE...
#
# A name with % is a part of the distribution's Python, % its version (python%-venv is
# python3.11-venv on bookworm). Any other $PYTHON needs no parts.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=packaging/setup/step.sh
. "$here/step.sh"

# installed FORMAT: dpkg-query's format for all installed packages, a word on each line.
installed() {
    dpkg-query --show --showformat "\${db:Status-Status}\t$1\n" |
        sed -n 's/^installed\t//p' | tr -s ', ' '\n' | sort -u
}

# The named packages that are missing. Docker's containerd.io provides containerd and runc, and
# installing those would remove it, and Docker with it.
missing() {
    local python package
    python=$(command -v "${PYTHON:-python3}" || echo "/usr/bin/${PYTHON:-python3}")
    python=$(readlink -m "$python")
    for package in "$@"; do
        case $package,$python in
            *%*,/usr/bin/python3.*) echo "${package/\%/${python#/usr/bin/python}}" ;;
            *%*) ;;
            *) echo "$package" ;;
        esac
    done | sort -u | comm -23 - <(installed "\${Package},\${Provides}")
}

# Maintainer scripts ask this program before they start a service; 101 is "no".
policy=/usr/sbin/policy-rc.d
forbid_services() {
    set_aside=
    if [ -e "$policy" ]; then
        set_aside=$(mktemp "$policy.XXXXXX")
        mv "$policy" "$set_aside"
    fi
    trap allow_services EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

allow_services() {
    rm -f "$policy"
    [ -z "$set_aside" ] || mv "$set_aside" "$policy"
}

# disable_services PACKAGE: undo what its installation enabled. It stays disabled in upgrades.
disable_services() {
    local path name
    export DPKG_MAINTSCRIPT_PACKAGE=$1 # deb-systemd-helper insists
    while read -r path; do
        name=${path##*/}
        case $path in
            */systemd/system/*.*) deb-systemd-helper disable "$name" ;;
            */systemd/user/*.*) deb-systemd-helper --user disable "$name" ;;
            /etc/init.d/*) update-rc.d "$name" disable ;;
        esac
    done < <(dpkg-query --listfiles "$1")
}

install() {
    local package before
    before=$(installed "\${Package}")
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || true # one bad source does not matter if the packages are elsewhere
    forbid_services
    apt-get install -y -qq --no-install-recommends "$@" || return
    for package in $(comm -13 <(echo "$before") <(installed "\${Package}")); do
        disable_services "$package"
    done
}

words=$(missing "$@")
[ -n "$words" ] || exit 0
mapfile -t packages <<<"$words"
words=${packages[*]}
command -v apt-get >/dev/null || fail "missing: $words. There is no apt-get here: install them."
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "missing: $words. Only root can install them, and there is no sudo."
    echo "Debian packages are missing. Only root can install them: asking sudo."
    exec sudo "$0" "${packages[@]}"
fi
step "Installing Debian packages: $words (a minute or two)" install "${packages[@]}"
