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
