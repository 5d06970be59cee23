"""What this program is: for ``version``, and for whoever asks what runs on a node."""

import importlib
import platform
import sys
from dataclasses import dataclass

from provider import __version__


@dataclass(frozen=True, slots=True)
class Version:
    """The program's version, and the parts it was made of. ``commit`` is "source" when not built."""

    version: str
    commit: str
    python: str
    oci: str
    cryptography: str
    architecture: str
    libc_floor: str
    frozen: bool


def version() -> Version:
    """Look at the running program."""
    frozen = bool(getattr(sys, "frozen", False))
    # The freeze adds this module (packaging/provider.spec).
    build = importlib.import_module("provider_build") if frozen else None
    return Version(
        version=__version__,
        commit=getattr(build, "COMMIT", "source"),
        python=platform.python_version(),
        oci=_version_of("oci", build),
        cryptography=_version_of("cryptography", build),
        architecture=platform.machine(),
        libc_floor=getattr(build, "LIBC_FLOOR", "that of this Python"),
        frozen=frozen,
    )


def _version_of(package: str, build: object) -> str:
    if build is not None:
        return str(getattr(build, package.upper()))
    from importlib.metadata import version as installed

    return installed(package)
