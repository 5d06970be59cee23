# shellcheck shell=bash
# Debian's archive and root file systems. Sourced by the other scripts in this folder.

# shellcheck disable=SC2034 # used by scripts that source this
debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Prints the URL of a Debian archive: DEBIAN_MIRROR if set, otherwise the archive of this machine's apt,
# otherwise (on Ubuntu) debootstrap's default.
debian_mirror() {
    local mirror=${DEBIAN_MIRROR:-}
    if [ -z "$mirror" ]; then
        # shellcheck disable=SC2016 # apt expands these
        mirror=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' |
            awk '$1 == "Debian" && $2 == "Debian" {print $3; exit}')
    fi
    if [ -z "$mirror" ]; then
        mirror=$(sed -n 's/^DEF_HTTPS_MIRROR="\(.*\)"$/\1/p' "$(command -v debootstrap)")
    fi
    if [ -z "$mirror" ]; then
        echo "found no Debian archive: set DEBIAN_MIRROR or install debootstrap" >&2
        return 1
    fi
    echo "${mirror%/}"
}

# list_sources FOLDER: makes apt, from here on, use separate lists in FOLDER: of the newest source packages
# of Debian stable with its security archive. The machine's own sources and packages stay as they are.
list_sources() {
    local folder=$1 mirror suite=trixie
    mirror=$(debian_mirror)
    mkdir -p "$folder"/{lists/partial,cache/archives/partial}
    cat >"$folder/sources.list" <<END
deb-src [signed-by=$debian_keyring] $mirror $suite main
deb-src [signed-by=$debian_keyring] $mirror-security $suite-security main
END
    touch "$folder/status"
    cat >"$folder/conf" <<END
Dir::Etc::sourcelist "$folder/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$folder/lists";
Dir::State::status "$folder/status";
Dir::Cache "$folder/cache";
APT::Sandbox::User "$(id -un)";
END
    export APT_CONFIG=$folder/conf
    # Without this option, apt ignores an index that it cannot download and lists older versions.
    apt-get update --error-on=any
}

# source_versions PACKAGE: prints the versions of a source package that list_sources found, newest first.
source_versions() {
    apt-cache showsrc --only-source "$1" | sed -n 's/^Version: //p' | sort -urV
}

# debian_root SUITE ARCH FOLDER [PACKAGE...]: creates a minimal Debian with these packages in the folder
# unless it exists. This machine must be able to run the architecture's programs.
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
    mv "$folder.part" "$folder" # complete or not at all
}

# in_debian_root FOLDER HOST_FOLDER COMMAND...: runs a command in the Debian in FOLDER, with HOST_FOLDER
# at /mnt. The command has its own mounts and processes, which end with it. Its environment has only
# PATH.
in_debian_root() {
    local folder=$1 shown=$2
    shift 2
    # shellcheck disable=SC2016 # the inner shell expands these
    unshare --mount --pid --fork --kill-child sh -euc '
        folder=$1 shown=$2
        shift 2
        mount --rbind /dev "$folder/dev"
        mount -t proc proc "$folder/proc"
        mount --bind "$shown" "$folder/mnt"
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$folder" "$@"
    ' sh "$folder" "$shown" "$@"
}
