#!/usr/bin/env bash
# Compares the sources in a bill of materials with the newest that Debian lists. Fails if Debian has
# published a newer source of a part of the binary: most often, that fixes a vulnerability.
#
#   packaging/release/audit.sh [FILE...]
#
# FILE is a bill of materials. Without one, those of the newest release are downloaded, which needs gh and
# GH_TOKEN.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=packaging/python/debian.sh
. "$here/../python/debian.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ $# -eq 0 ]; then
    tag=$(gh release list --exclude-drafts --exclude-pre-releases --limit 1 --json tagName --jq '.[].tagName')
    [ -n "$tag" ] || { echo "There is no release yet: nothing to compare."; exit; }
    gh release download "$tag" --dir "$work/release" --pattern '*.cdx.json'
    set -- "$work"/release/*
fi
sources=$(jq -r '.components[].pedigree.ancestors[]? | "\(.name) \(.version)"' "$@" | sort -u)
[ -n "$sources" ] || { echo "$* names no Debian source: not a bill of materials of a release." >&2; exit 2; }

list_sources "$work/apt" >&2
status=0
while read -r package released; do
    newest=$(source_versions "$package" | head -n 1)
    if [ "$released" = "$newest" ]; then
        echo "$package $released: the newest"
    else
        echo "$package: released with $released, Debian has ${newest:-none}: release again"
        status=1
    fi
done <<<"$sources"
exit "$status"
