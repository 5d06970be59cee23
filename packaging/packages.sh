#!/usr/bin/env bash
# Installs the Debian packages named, those that are missing, and nothing when none is.
set -euo pipefail

# A package may be there under another name: Docker's containerd.io is containerd and runc, and to
# install those would remove it, and Docker with it.
# shellcheck disable=SC2016 # dpkg-query, not the shell, fills these in
present=$(dpkg-query --show --showformat '${db:Status-Status}\t${Package}, ${Provides}\n' |
    sed -n 's/^installed\t//p' | tr ',' '\n' | awk '{print $1}')
missing=()
for package in "$@"; do
    grep --quiet --line-regexp --fixed-strings "$package" <<<"$present" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# No service may start: the tests run their own, elsewhere.
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
