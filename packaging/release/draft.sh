#!/usr/bin/env bash
# Makes a draft release of the tag $TAG with what is in dist/release. Needs gh and its GH_TOKEN.
#
# It can be run again: a draft that is there is replaced, and a published release is left as it is.
set -euo pipefail
cd "$(dirname "$0")/../.."

notes=$(packaging/release/notes.py --tag "$TAG")
state=$(gh release list --limit 1000 --json tagName,isDraft \
    --jq ".[] | select(.tagName == \"$TAG\") | .isDraft")
case $state in
    false)
        echo "$TAG is published; a published release is not changed"
        exit
        ;;
    true) gh release delete "$TAG" --yes ;;
esac
# The tag must be there: it is what was built, and gh would make one of the default branch.
gh release create "$TAG" --draft --verify-tag --title "$TAG" --notes "$notes" dist/release/*
