# shellcheck shell=bash
# Where Debian's packages come from. Sourced by the scripts beside it.

# shellcheck disable=SC2034 # used by who sources this
debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Prints the address of a Debian archive: DEBIAN_MIRROR if set, else the one this machine's apt
# uses, else (on Ubuntu) the one debootstrap falls back to.
debian_mirror() {
    local mirror=${DEBIAN_MIRROR:-}
    if [ -z "$mirror" ]; then
        # shellcheck disable=SC2016 # apt, not the shell, fills these in
        mirror=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' |
            awk '$1 == "Debian" && $2 == "Debian" {print $3; exit}')
    fi
    if [ -z "$mirror" ]; then
        mirror=$(sed -n 's/^DEF_HTTPS_MIRROR="\(.*\)"$/\1/p' "$(command -v debootstrap)")
    fi
    if [ -z "$mirror" ]; then
        echo "no Debian archive known: set DEBIAN_MIRROR, or install debootstrap" >&2
        return 1
    fi
    echo "${mirror%/}"
}

# debian_root SUITE ARCH FOLDER [PACKAGE...]: sets up a minimal Debian with these packages in the
# folder, unless it is there already. Another architecture's programs must run here.
debian_root() {
    local suite=$1 arch=$2 folder=$3
    shift 3
    [ -e "$folder" ] && return
    echo "setting up Debian $suite ($arch) in $folder" >&2
    rm -rf "$folder.part"
    mkdir -p "$(dirname "$folder")"
    if ! debootstrap --arch="$arch" --variant=minbase --include="$(IFS=,; echo "$*")" \
        --keyring="$debian_keyring" "$suite" "$folder.part" "$(debian_mirror)" >"$folder.log"; then
        tail -n 20 "$folder.log" >&2
        return 1
    fi
    rm -rf "$folder.part"/var/cache/apt/archives/*.deb
    mv "$folder.part" "$folder" # whole or not at all
}

# in_debian_root FOLDER HOST_FOLDER COMMAND...: runs a command in the Debian of the first folder,
# which sees the second as /mnt. Mounts and processes are the command's own and end with it; its
# environment is empty but for PATH.
in_debian_root() {
    local folder=$1 shown=$2
    shift 2
    # shellcheck disable=SC2016 # the inner shell fills these in
    unshare --mount --pid --fork --kill-child sh -euc '
        folder=$1 shown=$2
        shift 2
        mount --rbind /dev "$folder/dev"
        mount -t proc proc "$folder/proc"
        mount --bind "$shown" "$folder/mnt"
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$folder" "$@"
    ' sh "$folder" "$shown" "$@"
}
