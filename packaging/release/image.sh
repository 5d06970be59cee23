#!/usr/bin/env bash
# Pushes the image in dist/image, whose index must have the digest $DIGEST, to ghcr.io with the version of
# $TAG. Needs skopeo, gh, GH_TOKEN, GITHUB_ACTOR and GITHUB_REPOSITORY (owner/name).
#
# A rerun pushes the same image. It never changes the image of a published release.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=ghcr.io/$GITHUB_REPOSITORY:${TAG#v}
published=$(gh release list --limit 1000 --json tagName,isDraft \
    --jq ".[] | select(.tagName == \"$TAG\" and (.isDraft | not)) | .tagName")
if [ -n "$published" ]; then
    echo "$TAG is already published. Nothing to do."
    exit
fi
# Compare what skopeo reads: index.json can name a second image. Each blob is what its name says, so the
# digest covers all of them.
image=oci:dist/image:${TAG#v}
index=$(skopeo inspect --raw "$image" | sha256sum)
[ "sha256:${index%% *}" = "$DIGEST" ] || { echo "dist/image is not the image of $DIGEST." >&2; exit 1; }
(cd dist/image/blobs/sha256 && for blob in *; do echo "$blob  $blob"; done | sha256sum --check --quiet)
# The attestation is pushed with the same login.
mkdir -p ~/.docker
skopeo login --authfile ~/.docker/config.json --username "$GITHUB_ACTOR" --password-stdin ghcr.io \
    <<<"$GH_TOKEN"
skopeo copy --all --preserve-digests --authfile ~/.docker/config.json "$image" "docker://$name"
