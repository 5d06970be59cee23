"""The built forms of the program, from ``make binary`` in dist/.

During ``make coverage``, the binary contains the source form instead of the frozen program, which
coverage cannot measure. Launcher, files and installation stay the same.
"""

import atexit
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "packaging" / "freeze"))
import build  # noqa: E402 # found by the line above

ARCHITECTURE = build.ARCHITECTURES[platform.machine()]
# The environment from which the binary was built.
PYTHON = ROOT / "build" / "portable" / "bin" / "python"
CONTENTS = "bin/program/_internal"
# A request that needs no network.
REQUEST = (
    b'{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1",'
    b'"image":"docker.io/library/busybox"}'
)
BARE = {"PATH": os.defpath}


_ONE_FILE = ROOT / "dist" / f"oke-credential-provider-for-ocir-linux-{ARCHITECTURE}"
_PROGRAM = "bin/program/oke-credential-provider"


def exists() -> bool:
    """Report whether the binary exists."""
    return _ONE_FILE.exists()


def is_measured() -> bool:
    """Report whether ``make coverage`` is running, so that the binary runs the source form."""
    return "COVERAGE_PROCESS_CONFIG" in os.environ


def one_file() -> Path:
    """Return the path of the one-file form."""
    if not exists():
        raise FileNotFoundError(f"{_ONE_FILE}: run make binary first")
    return _measured() if is_measured() else _ONE_FILE


@cache
def tree() -> Path:
    """Return the directory of the installed form, with MANIFEST and bin/. It exists for this test run only."""
    return _unpacked(one_file())


def installed() -> Path:
    """Return the executable of the installed form."""
    return tree() / "bin" / "oke-credential-provider"


def write_manifest(folder: Path) -> None:
    """Write MANIFEST for the files in the directory."""
    file = folder / "MANIFEST"
    file.unlink(missing_ok=True)
    file.write_text(build.manifest(folder))


def _unpacked(binary: Path) -> Path:
    place = _folder("unpacked-")
    with zipfile.ZipFile(binary) as archive:
        for entry in archive.infolist():
            archive.extract(entry, place)
            (place / entry.filename).chmod(entry.external_attr >> 16 & 0o777)
    return place


def _folder(prefix: str) -> Path:
    place = Path(tempfile.mkdtemp(prefix=prefix))
    place.chmod(0o755)  # readable for every user, as after ``install``
    atexit.register(shutil.rmtree, place)
    return place


@cache
def _measured() -> Path:
    place = _unpacked(_ONE_FILE)
    program = place / _PROGRAM
    program.rename(program.with_name(f"{program.name}.frozen"))
    facts = {
        "PYTHON": sys.executable,
        "START": str(Path(__file__).with_name("measured_start.py")),
        "CONFIG": os.environ["COVERAGE_PROCESS_CONFIG"],
    }
    macros = [f'-D{name}="{value}"' for name, value in facts.items()]
    source = str(Path(__file__).with_name("measured.c"))
    subprocess.run(
        ["musl-gcc", "-static", "-s", "-Wall", "-Werror", *macros, "-o", str(program), source],
        check=True,
    )
    write_manifest(place)
    target = _folder("measured-") / _ONE_FILE.name
    build.one_file(place / "bin" / "oke-credential-provider", place, target)
    return target
