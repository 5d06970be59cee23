#!/usr/bin/env bash
# Builds a CPython for each Linux with glibc 2.28 (Oracle Linux 8) or newer, with the shared libpython
# that PyInstaller needs. Prints its folder (bin/python3, lib/).
#
#   packaging/python/portable_python.sh [FOLDER]
#
# FOLDER keeps the builds, by default ${XDG_CACHE_HOME:-~/.cache}/oke-credential-provider. A build in it
# is used again until the scripts, the profile or the compiler change, so that an empty clone need not
# build.
#
# The C compiler of ziglang (a PyPI package) links for a chosen version of glibc, independent of the
# build machine's. Python, OpenSSL, zlib and libffi come from Debian stable's source packages, with its
# security patches. apt verifies them with Debian's keys. Each architecture is built on its own machine.
#
# JOBS=N: parallel jobs, by default 2. ZIG=FILE: use this zig, for example the host's under emulation.
# ALLOW_OLDER=1: if the mirror lists a source version that it does not serve, use the next older one.
# Not for releases: an older source lacks security patches. The result has a separate folder.
# PROFILE_RUNTIME=FILE: for profile.sh. The result counts what it executes, with this library of LLVM.
# Needs: apt-get dpkg-dev debian-archive-keyring autoconf automake libtool libltdl-dev binutils make
# perl, and a python3 with venv.
set -Eeuo pipefail

python=python3.13
glibc=2.28
jobs=${JOBS:-2}

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=packaging/python/debian.sh
. "$here/debian.sh"

machine=$(uname -m)
key=$(cat "$here"/{portable_python.sh,debian.sh,python.profdata} "$here/../locks/ziglang.txt" | sha256sum | cut -c1-12)
base=${1:-${XDG_CACHE_HOME:-~/.cache}/oke-credential-provider}
umask 022
unset MAKEFLAGS MFLAGS MAKELEVEL # of the make that runs this
mkdir -p "$base"
base=$(cd "$base" && pwd -P)
# What is built here becomes the binary: nobody else may have made it.
if [ ! -O "$base" ] || [ -n "$(find "$base" -maxdepth 0 -perm /022)" ]; then
    echo "Other users can write to $base. Remove it, or set XDG_CACHE_HOME to a folder of your own." >&2
    exit 1
fi
allow_older=${ALLOW_OLDER:-} runtime=${PROFILE_RUNTIME:-}
result=$base/python-$machine-$key${allow_older:+-older}${runtime:+-counting}
work=$base/work

exec 9>"$base/lock"
flock 9 # builds share the work folder
if [ -e "$result/versions.txt" ]; then
    echo "$result"
    exit 0
fi
rm -rf "$work"
mkdir -p "$work"/{bin,src,root}

log=$base/python.log
echo "Building Python for glibc $glibc (some minutes; progress in $log)" >&2
exec 3>&1 4>&2 >"$log" 2>&1
say() { echo "$*"; echo "$*" >&4; }
trap 'tail -n 30 "$log" >&4; say "failed: see $log"' ERR

# --- sources -------------------------------------------------------------------------------------
# fetch PACKAGE: unpacks the newest source that Debian lists into src/PACKAGE. During an update, a mirror
# can list a version that it does not serve yet. That stops the build unless $allow_older is set.
fetch() {
    local package=$1 version
    while read -r version; do
        if apt-get source -q "$package=$version"; then
            mv "$package"-*/ "$package"
            echo "$package $version" >>"$work/versions.txt"
            return
        fi
        say "$package $version: Debian lists it, but the mirror does not serve it." \
            "${allow_older:+This build takes an older one, as no release does.}"
        [ -n "$allow_older" ] || break
    done < <(source_versions "$package")
    say "no source of $package. Try again later or with another DEBIAN_MIRROR."
    return 1
}

list_sources "$work/apt"
cd "$work/src"
for package in "$python" openssl zlib libffi; do fetch "$package"; done

# --- compiler ------------------------------------------------------------------------------------
zig=${ZIG:-}
if [ -z "$zig" ]; then
    python3 -m venv "$work/zig"
    "$work/zig/bin/pip" install -q --no-deps --require-hashes -r "$here/../locks/ziglang.txt"
    zig=$(echo "$work"/zig/lib/python3*/site-packages/ziglang/zig)
fi
echo "ziglang $("$zig" version)" >>"$work/versions.txt"
export ZIG_GLOBAL_CACHE_DIR=$work/zig-cache ZIG_LOCAL_CACHE_DIR=$work/zig-cache

# The compiler is found by name on PATH: OpenSSL and Python store its command line, which must have no
# path of this machine. By default zig enables UBSan, makes debug information, which takes half of the
# compiler's time, keeps frame pointers, and forbids __DATE__; clang takes __DATE__ from SOURCE_DATE_EPOCH.
cat >"$work/bin/cc" <<END
#!/bin/sh
exec "$zig" cc -target $machine-linux-gnu.$glibc -fno-sanitize=undefined -g0 -fomit-frame-pointer \\
    -Wno-date-time -ffile-prefix-map="$work"=. "\$@"
END
for tool in ar ranlib; do printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$zig" "$tool" >"$work/bin/$tool"; done
chmod +x "$work"/bin/*
export PATH=$work/bin:$PATH CC=cc AR=ar RANLIB=ranlib
SOURCE_DATE_EPOCH=$(dpkg-parsechangelog -l "$python/debian/changelog" -S Timestamp)
export SOURCE_DATE_EPOCH

# --- libraries: static, with hidden symbols, linked into Python's files ---------------------------
flags="-O2 -fPIC -fvisibility=hidden"
deps=$work/deps/usr

small_libraries() {
    cd "$work/src/zlib"
    CFLAGS=$flags ./configure --static --prefix=/usr
    make libz.a
    make install DESTDIR="$work/deps"
    cd "$work/src/libffi"
    autoreconf -fi
    CFLAGS=$flags ./configure --disable-shared --disable-docs --disable-multi-os-directory \
        --disable-builddir --prefix=/usr
    make
    make install DESTDIR="$work/deps"
}

# openssldir: /etc/ssl/certs exists on Oracle Linux and on Ubuntu. This OpenSSL does not read the node's
# openssl.cnf, which is for the node's OpenSSL. Only Python's ssl module uses it, for TLS over TCP: the
# algorithms and protocols that this never uses are half of the build.
openssl() {
    cd "$work/src/openssl"
    ./Configure "linux-$machine" --prefix=/usr --libdir=lib --openssldir=/etc/ssl \
        no-shared no-module no-engine no-legacy no-autoload-config no-tests no-docs no-apps \
        enable-ec_nistp_64_gcc_128 \
        no-quic no-dtls no-srp no-psk no-cms no-cmp no-ts no-ct no-ocsp no-http no-slh-dsa no-ml-dsa \
        no-argon2 no-aria no-bf no-blake2 no-camellia no-cast no-des no-dsa no-ec2m no-gost no-idea \
        no-md4 no-mdc2 no-ocb no-rc2 no-rc4 no-rmd160 no-scrypt no-seed no-siv no-sm2 no-sm3 no-sm4 \
        no-whirlpool "$flags"
    make -j"$jobs" build_libs
    make install_dev DESTDIR="$work/deps"
}

# --- Python --------------------------------------------------------------------------------------
configure_python() {
    cd "$work/src/$python"
    # Small modules are in libpython, which saves a file per module at each start. Large modules are
    # separate files, so that the freeze can leave them out. _hashlib would be a second copy of
    # libcrypto, loaded by each "import hashlib". Python's own hashes replace it.
    cat >Modules/Setup.local <<'END'
*disabled*
_hashlib
_codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _multibytecodec
*shared*
_ctypes _ctypes/_ctypes.c _ctypes/callbacks.c _ctypes/callproc.c _ctypes/stgdict.c _ctypes/cfield.c
_decimal _decimal/_decimal.c
_elementtree _elementtree.c
_ssl _ssl.c
pyexpat pyexpat.c
unicodedata unicodedata.c
END
    sed -i 's/-Wl,-h\$/-Wl,-soname,$/' Makefile.pre.in # zig's linker accepts only the long name
    # No pkg-config: it would find libraries of the build machine. OpenSSL is not built yet: configure is
    # told what it would find.
    mkdir -p "$deps/include/openssl"
    touch "$deps/include/openssl/ssl.h"
    # zig turns -O3 into -O2. The last two flags make access to libpython's own symbols and thread-local
    # variables direct: the loader has 5,000 names less to look up at each start.
    MODULE_BUILDTYPE=static ./configure --prefix=/opt/python --enable-shared --without-static-libpython \
        --disable-test-modules --with-ensurepip=no --without-readline --with-openssl="$deps" \
        ac_cv_working_openssl_ssl=yes ac_cv_working_openssl_hashlib=no \
        PKG_CONFIG=false OPT="-DNDEBUG -fwrapv -O3 -Xclang -O3" \
        CFLAGS="-fno-semantic-interposition -ftls-model=initial-exec" LDFLAGS=-Wl,-Bsymbolic \
        ZLIB_CFLAGS="-I$deps/include" ZLIB_LIBS="-L$deps/lib -lz" \
        LIBFFI_CFLAGS="-I$deps/include" LIBFFI_LIBS="-L$deps/lib -lffi"
}

# configure runs one command at a time: OpenSSL is built meanwhile.
{ trap - ERR; small_libraries; configure_python; } >"$work/configure.log" 2>&1 &
configuring=$!
(openssl)
wait "$configuring" || { cat "$work/configure.log"; false; }

# The executable finds libpython relative to itself. zig's linker cannot make libpython3.so, which
# nothing here uses.
cd "$work/src/$python"
# shellcheck disable=SC2016 # make and the loader expand $ORIGIN
options=(PY3LIBRARY= LINKFORSHARED='-Xlinker -export-dynamic -Wl,-rpath,\$$ORIGIN/../lib')
if [ -n "$runtime" ]; then
    options+=("CFLAGS_NODIST=-fprofile-generate -mllvm -vp-counters-per-site=8"
        "LDFLAGS_NODIST=$runtime -Wl,-u,__llvm_profile_runtime")
    sed -i 's/^    _exit(status);$/    exit(status);/' Modules/posixmodule.c # _exit would write no counts
else
    cp "$here/python.profdata" .
    options+=(CFLAGS_NODIST=-fprofile-use=python.profdata)
fi
make -j"$jobs" "${options[@]}"
changed=$(grep -c "hash mismatch" "$log" || true)
[ "$changed" -le 100 ] || say "$changed functions differ from the profile's: run make profile (CONTRIBUTING.md)"
# No headers, no manual. With --help, compileall compiles nothing: three .pyc files for each module.
make "${options[@]}" DESTDIR="$work/root" COMPILEALL_OPTS=--help altbininstall libinstall sharedinstall
root=$work/root/opt/python
ln -s "$python" "$root/bin/python3"
find "$root" -name '*.so*' -type f -exec strip --strip-unneeded {} +

# pip and uv read this module (PEP 600): they install no wheel that needs a newer glibc.
cat >"$root/lib/$python/_manylinux.py" <<END
def manylinux_compatible(major: int, minor: int, arch: str) -> bool:
    return (major, minor) <= (${glibc/./, })
END

# --- check, then move to the final place in one step -----------------------------------------------
"$root/bin/python3" -I -c 'import ssl, zlib, ctypes.util, hashlib, venv, ensurepip, _manylinux
print(ssl.OPENSSL_VERSION); assert not hasattr(hashlib, "scrypt")'
mv "$work/versions.txt" "$root/versions.txt"
mv "$root" "$result"
rm -rf "$work"
echo "$result" >&3
