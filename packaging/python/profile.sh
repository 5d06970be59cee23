#!/usr/bin/env bash
# Renews python.profdata: how often the calls of a kubelet execute each part of Python. Clang places and
# inlines code by these counts. Needs `make setup`, and the LLVM of ziglang's clang, of major version LLVM.
#
#   packaging/python/profile.sh LLVM
set -euo pipefail
cd "$(dirname "$0")/../.."

llvm=$1
runtime=/usr/lib/llvm-$llvm/lib/clang/$llvm/lib/linux/libclang_rt.profile-$(uname -m).a
folder=$PWD/build/profile
counts=$folder/counts
rm -rf "$counts"

# Only the calls below count, not those of the build.
export LLVM_PROFILE_FILE=/dev/null
python=$(PROFILE_RUNTIME=$runtime ALLOW_OLDER=1 packaging/python/portable_python.sh "$folder")
packaging/python/portable_binary.sh "$python" --dist "$folder/dist" --work "$folder/binary" --max-mb 40

# shellcheck disable=SC2016 # the inner shell expands these
packaging/setup/as_root.sh env LLVM_PROFILE_FILE="$counts/%m.profraw" .venv/bin/python -m tests.cloud -- bash -euc '
    exec >/dev/null
    request() {
        echo "{\"apiVersion\": \"credentialprovider.kubelet.k8s.io/v1\",
            \"kind\": \"CredentialProviderRequest\", \"image\": \"$1\"}"
    }
    for _ in $(seq 10); do
        "$0" version
        request docker.io/library/nginx | "$0"
        request fra.ocir.io/ns/repo | TOKEN_CACHE=disabled "$0"
        request fra.ocir.io/ns/repo | "$0"
    done
' "$folder"/dist/*-linux-*

"llvm-profdata-$llvm" merge --output packaging/python/python.profdata "$counts"/*.profraw
rm -rf build/portable # made of the Python that counts
ls -l packaging/python/python.profdata
