#!/bin/bash
# cloud-init for OKE worker nodes: installs the OCIR credential provider, then joins the cluster.
# For nodes that have joined, see daemonset.yaml.
#
# The kubelet exits if its flags name a missing or broken provider, and the node never joins.
# Therefore this script passes the flags only after a successful installation, and only if the
# CredentialProviderConfig is valid and names the provider: install keeps a config that it did not
# write. After a failure the node joins without the provider. The script logs the reason to
# /var/log/cloud-init-output.log, to the journal and to the console.

VERSION=0.1.0
REPOSITORY=https://github.com/oracle-devrel/oke-credential-provider-for-ocir
# The URL of the directory with the release's files. For nodes that cannot reach GitHub, set the URL
# of a bucket (https://) or of a directory in the node's image (file:///usr/local/share/...).
BASE_URL=$REPOSITORY/releases/download/v$VERSION
# The SHA-256 of each binary. If it is set, each run downloads the binary, verifies it and runs its
# install command, which replaces every file that differs. No installed file is trusted, whatever
# version it reports. If it is not set, the script trusts the SHA256SUMS next to the binary, and an
# installed program of this version. This detects a broken download, but not a tampered release or
# program.
SHA256_AMD64=
SHA256_ARM64=
# Your own kubelet flags, for example --v=4.
KUBELET_EXTRA_ARGS=

PROVIDER=/usr/local/bin/oke-credential-provider
CONFIG=/etc/kubernetes/credential-provider-config.yaml
FLAGS="--image-credential-provider-bin-dir=${PROVIDER%/*} --image-credential-provider-config=$CONFIG"

say() { # the journal and the console are optional; cloud-init logs standard error
    local line="oke-credential-provider: $*"
    echo "$line" >&2
    logger --tag cloud-init "$line" 2>/dev/null
    { echo "$line" >/dev/console; } 2>/dev/null
}

fail() { # MESSAGE
    say "$1"
    return 1
}

fetch() { # NAME: downloads one file of the release to the working directory
    local pause host=${BASE_URL#*://}
    for pause in 0 3 10; do
        sleep "$pause"
        # The binary is 32 MB. curl's --retry does not retry after a reset connection.
        curl --fail --silent --show-error --location --proto '=https,file' \
            --proto-redir '=https' --connect-timeout 10 --max-time 90 --output "$1" "$BASE_URL/$1" </dev/null && return
    done
    fail "cannot download $1 from ${host%%/*}; is BASE_URL right, is there a route to that host?"
}

run_install() { # [OPTION]: uses the variables of install_provider
    TMPDIR=$work timeout --kill-after=10 120 "./$asset" install "$@" </dev/null
}

install_provider() { # returns 0 if the program is installed
    local arch sha256 asset work status
    case $(uname -m) in
        x86_64) arch=amd64 sha256=$SHA256_AMD64 ;;
        aarch64) arch=arm64 sha256=$SHA256_ARM64 ;;
        *)
            fail "there is no binary for $(uname -m)"
            return
            ;;
    esac
    if [ -z "$sha256" ] && [ -n "$SHA256_AMD64$SHA256_ARM64" ]; then
        fail "no SHA-256 is set for $arch: set both SHA256_AMD64 and SHA256_ARM64, or neither"
        return
    fi
    if [ -z "$sha256" ] && [ -s "$CONFIG" ] && [ "oke-credential-provider $VERSION" = \
        "$(timeout 20 "$PROVIDER" version 2>/dev/null | sed -n 1p)" ]; then
        say "$VERSION is already installed"
        return
    fi
    asset=oke-credential-provider-for-ocir-linux-$arch
    # Hardened nodes mount /tmp noexec. The one-file binary unpacks itself in TMPDIR.
    work=$(mktemp -d /usr/local/lib/oke-credential-provider.XXXXXX) || {
        fail "cannot create a directory in /usr/local/lib"
        return
    }
    (
        cd "$work" || exit
        if [ -n "$sha256" ]; then
            echo "$sha256  $asset" >SHA256SUMS || exit
        else
            fetch SHA256SUMS || exit
        fi
        fetch "$asset" || exit
        if ! sha256sum --check --status --ignore-missing SHA256SUMS; then
            fail "the SHA-256 of $asset is not the one expected; it was not run"
            exit
        fi
        chmod 755 "$asset" || exit
        run_install
        status=$?
        # 78: a newer version is active. A new node gets VERSION. 0.1.0 does not know the option.
        if [ "$status" = 78 ]; then
            run_install --allow-downgrade
            status=$?
        fi
        [ "$status" = 0 ] && exit
        fail "its install command failed; the lines above say why"
    )
    status=$?
    rm -rf "$work"
    return "$status"
}

validate_config() { # returns 0 if the kubelet starts with the config and asks the provider
    local version
    version=$(kubelet --version 2>/dev/null) # Kubernetes v1.34.1
    if ! timeout 60 "$PROVIDER" config --validate "$CONFIG" --bin-dir "${PROVIDER%/*}" \
        ${version:+--kubelet-version "${version##* }"} </dev/null; then
        fail "the kubelet cannot use the provider with $CONFIG; the lines above say why"
    fi
}

metadata() { # KEY: prints a value of the instance's metadata; fails if there is none
    local host answer _
    for _ in {1..30}; do # the service may not be ready when the node starts
        for host in 169.254.169.254 '[fd00:c1::a9fe:a9fe]'; do
            answer=$(curl --silent --globoff --noproxy '*' --max-time 10 --write-out '\n%{http_code}' \
                --header 'Authorization: Bearer Oracle' \
                "http://$host/opc/v2/instance/metadata/$1" </dev/null)
            case ${answer##*$'\n'} in
                200)
                    printf '%s' "${answer%$'\n'*}"
                    return
                    ;;
                404) return 1 ;;
            esac
        done
        sleep 2
    done
    say "the instance metadata service does not answer; cannot read $1"
    return 1
}

join_cluster() { # [FLAGS]: runs this image's join script once
    local flags=$1 more script host ca dns gpu=
    # Karpenter puts its taints and labels into the metadata. Pass them on.
    for more in "$(metadata kubelet-extra-args)" "$KUBELET_EXTRA_ARGS"; do
        flags=$more${more:+${flags:+ }}$flags
    done
    # Use a space: with "--kubelet-extra-args=FLAGS" OKE's scripts drop the flags silently.
    if grep -q '^ID=ubuntu' /etc/os-release; then
        # OKE's oke-install.sh adds this in the same case.
        [ ! -e /usr/bin/nvidia-smi ] || gpu=--manage-gpu-services=true
        oke bootstrap ${gpu:+"$gpu"} ${flags:+--kubelet-extra-args "$flags"}
    elif script=$(metadata oke_init_script); then # a managed node
        base64 --decode <<<"$script" >/var/run/oke-init.sh
        bash /var/run/oke-init.sh ${flags:+--kubelet-extra-args "$flags"}
    elif [ -f /etc/oke/oke-install.sh ]; then # a self-managed node
        host=$(metadata apiserver_host)
        ca=$(metadata cluster_ca_cert)
        dns=$(metadata kubedns_svc_ip)
        bash /etc/oke/oke-install.sh ${host:+--apiserver-endpoint "$host"} \
            ${ca:+--kubelet-ca-cert "$ca"} ${dns:+--cluster-dns "$dns"} \
            ${flags:+--kubelet-extra-args "$flags"}
    else
        say "this is not an OKE node: no oke_init_script in its metadata, no /etc/oke/oke-install.sh"
        return 1
    fi
}

if [ $# -gt 0 ]; then # older versions had "cloud-init.sh install" for daemonset.yaml
    say "cloud-init.sh has no arguments: it joins a new node"
    exit 2
fi
if install_provider && validate_config; then
    join_cluster "$FLAGS"
else
    say "NOT INSTALLED: this node joins without the provider and cannot pull private OCIR images"
    join_cluster
fi
