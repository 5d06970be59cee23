#!/usr/bin/env bash
# Creates a draft release of the tag $TAG with the files in dist/release. Needs gh and GH_TOKEN.
#
# A rerun replaces an existing draft. It never changes a published release.
set -euo pipefail
cd "$(dirname "$0")/../.."

notes=$(packaging/release/notes.py --tag "$TAG")
state=$(gh release list --limit 1000 --json tagName,isDraft \
    --jq ".[] | select(.tagName == \"$TAG\") | .isDraft")
case $state in
    false)
        echo "$TAG is already published. Nothing to do."
        exit
        ;;
    true) gh release delete "$TAG" --yes ;;
esac
# Without --verify-tag, gh would create a missing tag on the default branch.
gh release create "$TAG" --draft --verify-tag --title "$TAG" --notes "$notes" dist/release/*
