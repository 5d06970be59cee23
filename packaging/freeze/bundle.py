"""What goes into the frozen program, and what stays out. ``provider.spec`` calls this.

A table of contents ("toc") is PyInstaller's: (name in the bundle, source file, type).
"""

import importlib.util
import os
import platform
import re
import shutil
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from types import CodeType
from typing import BinaryIO

from glibc_floor import dotted, read_needs
from PyInstaller.archive.writers import ZlibArchiveWriter

from provider import __version__
from provider.commands.licenses import OWN_NAME, as_text, license_of

Toc = list[tuple[str, str, str]]

# What the SDK imports by way of `oci.auth`; naming it makes an SDK that moved it fail the build.
SDK_SIGNERS = ("oci.auth.signers", "oci.config", "oci.exceptions", "oci.signer")


def _names(text: str) -> list[str]:
    return text.split()


# Reached by an import that never runs here, or that has a fall-back: hardware keys and checksums of
# object storage; options of urllib3 and PyYAML; archives and arithmetic that nobody asks for;
# East Asian character sets; developers' tools.
UNUSED = _names("""
    asn1crypto charset_normalizer crc32c pkcs11 requests
    OpenSSL brotli brotlicffi h2 socks zstandard _yaml yaml.cyaml
    _asyncio _bz2 _ctypes _decimal _lzma _pickle _pydecimal _uuid _zstd bz2 compression.zstd ctypes
    decimal fractions lzma statistics concurrent.futures.process multiprocessing
    _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _multibytecodec
    _pytest curses distutils doctest lib2to3 pdb pydoc pyexpat pytest readline setuptools sqlite3
    tkinter unittest xml xmlrpc
    dateutil.zoneinfo
""")

# Never imported by a call with an instance principal: for the SDK, for YAML, for people's commands.
SLOW_PATH = _names("""
    argparse ast asyncio chardet circuitbreaker configparser csv difflib dis ftplib getpass gzip idna
    inspect jwt logging mimetypes netrc oci pickle pprint py_compile pytz shlex subprocess tarfile
    tempfile tracemalloc typing_extensions urllib3 uuid webbrowser yaml zipfile
    provider.commands.check provider.commands.config provider.commands.install provider.commands.kubelet_config provider.commands.licenses
    provider.commands.install.layout
""")

# What Python itself imports, before PyInstaller's importer is at work, from base_library.zip; and the
# character sets that sockets, zip archives and YAML name, since a package cannot be in two places.
# A hundred others are left out.
_BASE = re.compile(
    r"(_collections_abc|abc|codecs|genericpath|io|os|posixpath|stat"
    r"|encodings/(__init__|aliases|ascii|cp437|idna|latin_1|punycode|raw_unicode_escape"
    r"|unicode_escape|utf_8|utf_8_sig|utf_(16|32)(_[bl]e)?))\.pyc"
)


def sdk_view(folder: Path) -> None:
    """Make ``folder``/oci: links to the SDK's modules, without its services (packages that hold
    models) and with an ``__init__`` that imports nothing, in front of which stands 57 MB.
    """
    spec = importlib.util.find_spec("oci")
    if spec is None or spec.origin is None:
        raise LookupError("the SDK (oci) is not installed")
    view = folder / "oci"
    shutil.rmtree(view, ignore_errors=True)
    view.mkdir(parents=True)
    (view / "__init__.py").write_text(
        '"""The SDK without its services: a submodule comes when it is asked for."""\n'
    )
    for path in Path(spec.origin).parent.iterdir():
        if path.name != "__init__.py" and not (path / "models").is_dir():
            (view / path.name).symlink_to(path)


def without_docstrings(toc: Toc) -> Toc:
    """``toc`` with other people's modules compiled at level 2: only our commands' help is made of
    docstrings.
    """
    return [
        (name, source, kind if name.split(".")[0] == "provider" else kind.replace("-1", "-2"))
        for name, source, kind in toc
    ]


class PyzWriter(ZlibArchiveWriter):  # type: ignore[misc] # untyped
    """PyInstaller's archive of modules, with those that a kubelet call may import stored
    uncompressed: reading them costs 5 ms less. The others are compressed for the sake of size.
    """

    @classmethod
    def _write_entry(
        cls, fp: BinaryIO, entry: tuple[str, str, str], code_dict: dict[str, CodeType]
    ) -> tuple[str, tuple[int, int, int]]:
        parts = entry[0].split(".")
        slow = parts[0] in SLOW_PATH or ".".join(parts[:2]) in SLOW_PATH
        cls._COMPRESSION_LEVEL = 9 if slow else 0
        written: tuple[str, tuple[int, int, int]] = super()._write_entry(fp, entry, code_dict)
        return written


def is_host_runtime(name: str) -> bool:
    """True for a compiler's run-time library, which every node has."""
    return os.path.basename(name).startswith(("libgcc_s.so", "libstdc++.so"))


def is_used_data(name: str) -> bool:
    """True for a data file that the program reads: the base library, and certifi's CA bundle."""
    return name in ("base_library.zip", "certifi/cacert.pem")


def split_base_library(datas: Toc, folder: Path) -> tuple[Toc, Toc]:
    """``datas`` with a base library of what Python imports before the importer of PyInstaller is
    there, and a toc of the other modules, to be put with all the others: an import from a zip
    archive takes several times as long, and some 40 of these are made at each start.
    """
    small = folder / "base_library.zip"
    [full] = [source for name, source, _ in datas if name == small.name]
    moved: Toc = []
    with zipfile.ZipFile(full) as source, zipfile.ZipFile(small, "w") as target:
        for info in sorted(source.infolist(), key=lambda info: info.filename):
            if _BASE.fullmatch(info.filename):
                target.writestr(info, source.read(info))
            elif not info.filename.startswith("encodings/"):
                name = info.filename.removesuffix(".pyc").removesuffix("/__init__")
                spec = importlib.util.find_spec(name.replace("/", "."))
                # "frozen" ones are in libpython.
                if spec and spec.origin and spec.origin != "frozen":
                    moved.append((spec.name, spec.origin, "PYMODULE-1"))
    kept = [(name, str(small) if name == small.name else file, kind) for name, file, kind in datas]
    return kept, moved


def libc_floor(files: Iterable[Path]) -> str:
    """The newest glibc that any of the ELF ``files`` needs, as "GLIBC_2.28"."""
    return f"GLIBC_{dotted(max(read_needs(path.name, path.read_bytes()).glibc for path in files))}"


def licenses(toc: Toc) -> str:
    """The licences of all that ``toc`` brings along, as one text. Raises LookupError for a part
    whose licence cannot be found: nothing may travel without one.
    """
    owners = packages_distributions()
    packages = {"pyinstaller"}  # its bootloader
    for name, _, _ in toc:
        top = re.split(r"[./]", name)[0]
        if top in owners:
            packages.update(owners[top])
        elif not _is_pythons(name, top) and top not in ("provider", "provider_build"):
            raise LookupError(f"whose is {name}, and under what licence?")
    packages.discard(OWN_NAME)
    native = sorted((Path(__file__).parent / "licenses").glob("*.txt"))
    return as_text(
        [
            *((d.name, d.version, license_of(d)) for d in map(distribution, packages)),
            *((path.stem, "", path.read_text()) for path in native),
            ("Python", platform.python_version(), _python_license()),
            (OWN_NAME, __version__, (Path(__file__).parents[2] / "LICENSE").read_text()),
        ]
    )


def _is_pythons(name: str, top: str) -> bool:
    """True for a part of Python, or for a library whose licence stands in ``licenses/``."""
    if re.match(r"base_library.zip|python3\.\d+/lib-dynload/", name):
        return True
    if top in sys.stdlib_module_names:
        return True
    return re.match(r"lib(crypto|ssl|z|zstd|ffi|expat|python3)\b", name) is not None


def _python_license() -> str:
    installed = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    debian = Path(f"/usr/share/doc/python{sys.version_info[0]}.{sys.version_info[1]}/copyright")
    for path in (installed, debian):
        if path.is_file():
            return path.read_text()
    raise LookupError(f"neither {installed} nor {debian} has Python's licence")
