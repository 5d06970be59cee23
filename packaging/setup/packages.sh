#!/usr/bin/env bash
# Installs missing Debian packages. Starts and enables no service.
#
#   PYTHON=python3 packaging/setup/packages.sh PACKAGE...
#
# In the packages of the distribution's Python, % stands for its version: python%-venv is
# python3.11-venv on bookworm. Another $PYTHON needs none of these packages.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=packaging/setup/step.sh
. "$here/step.sh"

# installed FORMAT: prints dpkg-query's FORMAT for each installed package, one word per line.
installed() {
    dpkg-query --show --showformat "\${db:Status-Status}\t$1\n" |
        sed -n 's/^installed\t//p' | tr -s ', ' '\n' | sort -u
}

# Prints the missing packages. Docker's containerd.io provides containerd and runc: to install those
# would remove Docker.
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

# Maintainer scripts run this program before they start a service. 101 forbids it.
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

# disable_services PACKAGE: disables what its installation enabled. Upgrades keep that.
disable_services() {
    local path name
    export DPKG_MAINTSCRIPT_PACKAGE=$1 # deb-systemd-helper requires it
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
    apt-get update -qq || true # the packages may come from another source
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
command -v apt-get >/dev/null || fail "missing packages: $words. There is no apt-get: install them."
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "missing packages: $words. Only root can install them, and there is no sudo."
    echo "Debian packages are missing. Only root can install them. Running sudo."
    exec sudo "$0" "${packages[@]}"
fi
step "Installing Debian packages: $words (a minute or two)" install "${packages[@]}"
