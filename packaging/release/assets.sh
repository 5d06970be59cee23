#!/usr/bin/env bash
# Copies the files of a release to dist/release and writes their SHA256SUMS. Builds the installer image of
# the copied binaries in dist/image, which daemonset.yaml names by its digest.
#
#   packaging/release/assets.sh [ARCHITECTURE...]
#
# For each architecture, dist/ must have the binary, its bill of materials and its licenses. The default
# is each architecture in dist/. If the variable SUMS is set (the output of sha256sum), the files must be
# exactly those that it lists.
set -euo pipefail
cd "$(dirname "$0")/../.."

asset=oke-credential-provider-for-ocir-linux
release=dist/release
architectures=("$@")
if [ ${#architectures[@]} -eq 0 ]; then
    for architecture in amd64 arm64; do
        [ ! -e "dist/$asset-$architecture.cdx.json" ] || architectures+=("$architecture")
    done
fi
[ ${#architectures[@]} -gt 0 ] || { echo "dist/ has no binary with a bill of materials. Run make binary sbom." >&2; exit 1; }

rm -rf "$release"
mkdir -p "$release"
for architecture in "${architectures[@]}"; do
    install -m 755 "dist/$asset-$architecture" "$release/"
    install -m 644 "dist/$asset-$architecture.cdx.json" "dist/$asset-$architecture.licenses.txt" "$release/"
done
if [ -n "${SUMS+set}" ]; then
    # Check the copies: they are published.
    (cd "$release" && sha256sum --check --strict <<<"$SUMS")
    [ "$(awk 'NF {print $2}' <<<"$SUMS" | sort)" = "$(cd "$release" && printf '%s\n' * | sort)" ] ||
        { echo "SUMS must list exactly the files of ${architectures[*]}." >&2; exit 1; }
fi
install -m 644 packaging/credential-provider-config.yaml \
    examples/run-on-worker-instance-principal/cloud-init.sh "$release/"
packaging/setup/as_root.sh packaging/image/build.sh "$release" dist/image
digest=$(jq --raw-output '.manifests[0].digest' dist/image/index.json)
sed -E "s|^( +image: [^:]+):.*|\1@$digest|" examples/run-on-worker-instance-principal/daemonset.yaml \
    >"$release/daemonset.yaml"
cd "$release"
sums=$(sha256sum -- *)
echo "$sums" >SHA256SUMS
cat SHA256SUMS
