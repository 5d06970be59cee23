"""The versions of this program and of its components, for ``version`` and ``check``."""

import importlib
import platform
import sys
from dataclasses import dataclass

from provider import __version__


@dataclass(frozen=True, slots=True)
class Version:
    """The program's version and its components. ``commit`` is "source" unless the program is frozen."""

    version: str
    commit: str
    python: str
    oci: str
    cryptography: str
    architecture: str
    libc_floor: str
    frozen: bool


def version() -> Version:
    """Read the versions of the running program."""
    frozen = bool(getattr(sys, "frozen", False))
    # packaging/provider.spec adds this module.
    build = importlib.import_module("provider_build") if frozen else None
    return Version(
        version=__version__,
        commit=getattr(build, "COMMIT", "source"),
        python=platform.python_version(),
        oci=_version_of("oci", build),
        cryptography=_version_of("cryptography", build),
        architecture=platform.machine(),
        libc_floor=getattr(build, "LIBC_FLOOR", "same as Python's"),
        frozen=frozen,
    )


def _version_of(package: str, build: object) -> str:
    if build is not None:
        return str(getattr(build, package.upper()))
    from importlib.metadata import version as installed

    return installed(package)
