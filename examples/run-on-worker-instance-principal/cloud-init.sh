#!/bin/bash
# cloud-init for OKE worker nodes: installs the OCIR credential provider, then joins the cluster.
#
#   cloud-init.sh            install, then join
#   cloud-init.sh install    only install; the exit code tells how it went (see daemonset.yaml)
#
# The kubelet exits when its flags name a provider that is missing or broken, and such a node never
# joins. So the flags are passed only if the installation worked. Otherwise the node joins without
# the provider and says so in /var/log/cloud-init-output.log, in the journal and on the console.

VERSION=0.1.0
REPOSITORY=https://github.com/oracle-devrel/oke-credential-provider-for-ocir
# The URL of the folder that has the release's files. For nodes that cannot reach GitHub, set the URL of
# a bucket (https://) or of a folder in the node's image (file:///usr/local/share/...).
BASE_URL=$REPOSITORY/releases/download/v$VERSION
# The SHA-256 of each binary. With a sum, each run gets the binary, verifies it, and lets it install
# itself over whatever is there: no file on the node is trusted, whatever version it claims to be.
# Without a sum, the SHA256SUMS beside the binary is trusted, and so is an installed program of this
# version: that detects a broken download, but not a release or a program that someone replaced.
SHA256_AMD64=
SHA256_ARM64=
# Your own kubelet flags, for example --v=4.
KUBELET_EXTRA_ARGS=

PROVIDER=/usr/local/bin/oke-credential-provider
CONFIG=/etc/kubernetes/credential-provider-config.yaml
FLAGS="--image-credential-provider-bin-dir=${PROVIDER%/*} --image-credential-provider-config=$CONFIG"

say() { # each place may be missing; standard error goes to cloud-init's log
    local line="oke-credential-provider: $*"
    echo "$line" >&2
    logger --tag cloud-init "$line" 2>/dev/null
    { echo "$line" >/dev/console; } 2>/dev/null
}

fetch() { # NAME: one file of the release into the working directory
    local pause host=${BASE_URL#*://}
    for pause in 0 3 10; do
        sleep "$pause"
        # The binary has 32 MB. Not --retry: curl does not count a reset connection as transient.
        curl --fail --silent --show-error --location --proto '=https,file' \
            --proto-redir '=https' --connect-timeout 10 --max-time 90 --output "$1" "$BASE_URL/$1" </dev/null && return
    done
    say "cannot download $1 from ${host%%/*}; is BASE_URL right, is there a route to that host?"
    return 1
}

install_provider() { # 0: the provider is whole and may be named to the kubelet
    local arch sha256 asset work
    case $(uname -m) in
        x86_64) arch=amd64 sha256=$SHA256_AMD64 ;;
        aarch64) arch=arm64 sha256=$SHA256_ARM64 ;;
        *)
            say "there is no binary for $(uname -m)"
            return 1
            ;;
    esac
    if [ -z "$sha256" ] && [ -s "$CONFIG" ] && [ "oke-credential-provider $VERSION" = \
        "$(timeout 20 "$PROVIDER" version 2>/dev/null | sed -n 1p)" ]; then
        say "$VERSION is already installed"
        return
    fi
    asset=oke-credential-provider-for-ocir-linux-$arch
    # Not in /tmp: hardened nodes mount it noexec. TMPDIR is where the one-file binary unpacks.
    work=$(mktemp -d /usr/local/lib/oke-credential-provider.XXXXXX) || return
    (
        cd "$work" || exit
        if [ -n "$sha256" ]; then
            echo "$sha256  $asset" >SHA256SUMS || exit
        else
            fetch SHA256SUMS || exit
        fi
        fetch "$asset" || exit
        if ! sha256sum --check --status --ignore-missing SHA256SUMS; then
            say "the SHA-256 of $asset is not the one expected; it was not run"
            exit 1
        fi
        chmod 755 "$asset" || exit
        if ! TMPDIR=$work timeout --kill-after=10 120 "./$asset" install </dev/null; then
            say "its install command failed; the lines above say why"
            exit 1
        fi
    )
    local status=$?
    rm -rf "$work"
    return "$status"
}

metadata() { # KEY: prints the instance's metadata value; fails when there is none
    local host answer _
    for _ in {1..30}; do # a node that has just started may have to wait for the service
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

join_cluster() { # [FLAGS]: runs what this image joins a cluster with, once
    local flags=$1 more script host ca dns
    # Karpenter leaves its taints and labels in the metadata, for the script to pass on.
    for more in "$(metadata kubelet-extra-args)" "$KUBELET_EXTRA_ARGS"; do
        flags=$more${more:+${flags:+ }}$flags
    done
    # "--kubelet-extra-args FLAGS": written with "=" OKE's scripts drop the flags and say nothing.
    if grep -q '^ID=ubuntu' /etc/os-release; then
        oke bootstrap ${flags:+--kubelet-extra-args "$flags"}
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

if [ "${1-}" = install ]; then
    install_provider
elif install_provider; then
    join_cluster "$FLAGS"
else
    say "NOT INSTALLED: this node joins without the provider and cannot pull private OCIR images"
    join_cluster
fi
