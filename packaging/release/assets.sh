#!/usr/bin/env bash
# Puts what a release publishes into dist/release, with SHA256SUMS over all of it.
#
#   packaging/release/assets.sh [ARCHITECTURE...]
#
# In dist/ there must be the binary, the bill of materials and the licences of each architecture
# named; without a name, of at least one. With SUMS (in the environment, as sha256sum prints them) these
# files must be exactly the ones listed there.
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
[ ${#architectures[@]} -gt 0 ] || { echo "there is no binary with its bill of materials in dist/: make binary sbom" >&2; exit 1; }

rm -rf "$release"
mkdir -p "$release"
for architecture in "${architectures[@]}"; do
    install -m 755 "dist/$asset-$architecture" "$release/"
    install -m 644 "dist/$asset-$architecture.cdx.json" "dist/$asset-$architecture.licenses.txt" "$release/"
done
if [ -n "${SUMS+set}" ]; then
    # The copies, since they are what is published.
    (cd "$release" && sha256sum --check --strict <<<"$SUMS")
    [ "$(awk 'NF {print $2}' <<<"$SUMS" | sort)" = "$(cd "$release" && printf '%s\n' * | sort)" ] ||
        { echo "SUMS does not list exactly the files of ${architectures[*]}" >&2; exit 1; }
fi
install -m 644 packaging/credential-provider-config.yaml \
    examples/run-on-worker-instance-principal/cloud-init.sh "$release/"
cd "$release"
sums=$(sha256sum -- *)
echo "$sums" >SHA256SUMS
cat SHA256SUMS
