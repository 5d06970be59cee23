#!/usr/bin/env bash
# Downloads the release or draft of the tag $TAG to dist/download and verifies each file as SECURITY.md
# describes. Needs gh, GH_TOKEN and GITHUB_REPOSITORY (owner/name).
set -euo pipefail
cd "$(dirname "$0")/../.."

rm -rf dist/download
gh release download "$TAG" --dir dist/download
cd dist/download
sha256sum --check --strict SHA256SUMS
for file in *; do
    gh attestation verify "$file" --repo "$GITHUB_REPOSITORY" \
        --signer-workflow "$GITHUB_REPOSITORY/.github/workflows/release.yml" \
        --source-ref "refs/tags/$TAG" --deny-self-hosted-runners
done
