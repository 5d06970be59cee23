#!/usr/bin/env bash
# Builds the installer image of the binaries in FOLDER as an OCI layout with one index. The same commit,
# binaries and tools give the same digest.
#
#   sudo packaging/image/build.sh [FOLDER [LAYOUT]]     (default: dist dist/image)
#
# The image has a platform for each architecture whose binary is in FOLDER. Needs: root, buildah,
# musl-gcc, and for a foreign architecture a python3 with venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
umask 022 # all users may execute the programs

folder=${1-dist} layout=${2-dist/image}
name=oke-credential-provider
source=https://github.com/oracle-devrel/oke-credential-provider-for-ocir
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' provider/__init__.py)
commit=${PROVIDER_COMMIT:-$(git rev-parse HEAD)}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

mkdir -p build
work=$(mktemp -d "$PWD/build/image.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Storage of its own: this changes no image of the machine.
image() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }

# compile ARCH FILE: by musl-gcc as the launcher. zig compiles for the other architecture.
compile() {
    local target=aarch64 compiler=(musl-gcc) zig=build/image-zig
    [ "$1" = arm64 ] || target=x86_64
    if [ "$target" != "$(uname -m)" ]; then
        if [ ! -e "$zig/bin/python-zig" ]; then
            python3 -m venv "$zig"
            "$zig/bin/pip" install -q --no-deps --require-hashes -r packaging/locks/ziglang.txt
        fi
        export ZIG_GLOBAL_CACHE_DIR=$PWD/$zig/cache ZIG_LOCAL_CACHE_DIR=$PWD/$zig/cache
        compiler=("$zig/bin/python-zig" cc -target "$target-linux-musl")
    fi
    "${compiler[@]}" -std=c11 -Os -static -s -Wall -Wextra -Werror -Wl,--build-id=none -o "$2" \
        packaging/image/enter_host.c
}

for arch in amd64 arm64; do
    binary=$folder/$name-for-ocir-linux-$arch
    [ -e "$binary" ] || continue
    mkdir "$work/$arch"
    compile "$arch" "$work/$arch/enter-host"
    install -m 755 "$binary" "$work/$arch/$name"
    container=$(image from --arch "$arch" scratch)
    image copy --quiet --chown 0:0 "$container" "$work/$arch/enter-host" "$work/$arch/$name" / >/dev/null
    label=org.opencontainers.image
    image config --entrypoint '["/enter-host"]' --cmd "" --user 65534:65534 --workingdir / \
        --created-by packaging/image/build.sh \
        --label "$label.title=$name" \
        --label "$label.description=Installs $name on the nodes of OKE clusters" \
        --label "$label.version=$version" --label "$label.revision=$commit" \
        --label "$label.source=$source" --label "$label.licenses=UPL-1.0" \
        --label "$name.sbom=$source/releases/download/v$version/${binary##*/}.cdx.json" "$container"
    image commit --quiet --rm --format oci --timestamp "$epoch" --identity-label=false \
        "$container" "$arch" >/dev/null
    image manifest create all >/dev/null 2>&1 || true # it exists for the second architecture
    image manifest add all "$arch" >/dev/null
done
[ -n "${container-}" ] || { echo "$folder has no binary. Run make binary." >&2; exit 1; }
rm -rf "$layout"
mkdir -p "$(dirname "$layout")"
image manifest push --quiet --all --format oci all "oci:$layout:$version"
