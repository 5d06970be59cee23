"""The program in its built forms, as ``make binary`` left it in dist/."""

import atexit
import os
import platform
import shutil
import tempfile
import zipfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
CONTENTS = "bin/program/_internal"
# A request that needs no network.
REQUEST = (
    b'{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1",'
    b'"image":"docker.io/library/busybox"}'
)
BARE = {"PATH": os.defpath}


_ONE_FILE = ROOT / "dist" / f"oke-credential-provider-for-ocir-linux-{ARCHITECTURE}"


def exists() -> bool:
    """True when there is a binary."""
    return _ONE_FILE.exists()


def one_file() -> Path:
    """The one-file form."""
    if not exists():
        raise FileNotFoundError(f"{_ONE_FILE}: run make binary first")
    return _ONE_FILE


@cache
def tree() -> Path:
    """The installed form: a folder with MANIFEST and bin/, of this test run's own."""
    place = Path(tempfile.mkdtemp(prefix="unpacked-"))
    place.chmod(0o755)  # as `install` makes it: for every user
    atexit.register(shutil.rmtree, place)
    place.chmod(0o755)  # as install leaves it
    with zipfile.ZipFile(one_file()) as archive:
        for entry in archive.infolist():
            archive.extract(entry, place)
            (place / entry.filename).chmod(entry.external_attr >> 16 & 0o777)
    return place


def installed() -> Path:
    """The installed form's executable."""
    return tree() / "bin" / "oke-credential-provider"
