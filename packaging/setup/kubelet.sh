#!/usr/bin/env bash
# Downloads the newest official kubelet of a Kubernetes version, for this architecture.
#
#   packaging/setup/kubelet.sh VERSION FILE
#
# VERSION is, for example, 1.36. FILE is written only if its checksum is the published one.
set -euo pipefail
# shellcheck source=packaging/setup/step.sh
. "$(dirname "$0")/step.sh"

[[ $# -eq 2 && $1 =~ ^1\.[0-9]+$ ]] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
version=$1 file=$2
case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) fail "There is no kubelet for $(uname -m)." ;;
esac
base=https://dl.k8s.io/release

# get URL...: prints what the server has there.
get() {
    curl --fail --silent --show-error --location --proto '=https' --retry 3 "$@"
}

patch=$(get "$base/stable-$version.txt")
[[ $patch =~ ^v$version\.[0-9]+$ ]] || fail "$base/stable-$version.txt names no version: $patch"
url=$base/$patch/bin/linux/$architecture/kubelet
sum=$(get "$url.sha256")
mkdir -p "$(dirname "$file")"
fresh=$(mktemp "$file.XXXXXX")
trap 'rm -f "$fresh"' EXIT
get --output "$fresh" "$url"
echo "$sum  $fresh" | sha256sum --check --quiet --strict || fail "$url is not the published file."
chmod 755 "$fresh"
mv "$fresh" "$file"
echo "$file: kubelet $patch, $architecture, sha256 $sum"
