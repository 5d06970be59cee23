#!/usr/bin/env bash
# Downloads the release of the tag $TAG, a draft too, into dist/download and verifies each file, as
# SECURITY.md tells users to. Needs gh and its GH_TOKEN, and GITHUB_REPOSITORY (owner/name).
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
