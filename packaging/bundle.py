"""What goes into the frozen program, and what stays out. ``provider.spec`` calls this.

A table of contents ("toc") is PyInstaller's: (name in the bundle, source file, type).
"""

import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from types import CodeType
from typing import BinaryIO

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from PyInstaller.archive.writers import ZlibArchiveWriter

Toc = list[tuple[str, str, str]]

# What the SDK imports by way of `oci.auth`; naming it makes an SDK that moved it fail the build.
SDK_SIGNERS = ("oci.auth.signers", "oci.config", "oci.exceptions", "oci.signer")

# Reached by an import that never runs here, or that has a fall-back.
UNUSED = (
    *("pkcs11", "asn1crypto", "crc32c"),  # hardware keys; checksums of object storage
    *("OpenSSL", "brotli", "brotlicffi", "h2", "socks", "zstandard"),  # options of urllib3
    *("_yaml", "yaml.cyaml"),  # settings are too short to need the C parser
    *("_ctypes", "ctypes", "uuid._uuid", "_uuid"),  # libffi, libuuid: the fall-backs are as good
    *("_asyncio", "_pickle"),  # speed that nobody needs
    *("bz2", "_bz2", "lzma", "_lzma"),  # archives that nobody opens
    *("_decimal", "_pydecimal", "decimal", "fractions", "statistics"),
    *("_codecs_cn", "_codecs_hk", "_codecs_iso2022", "_codecs_jp", "_codecs_kr", "_codecs_tw"),
    *("_multibytecodec", "multiprocessing", "concurrent.futures.process"),
    *("distutils", "doctest", "lib2to3", "pdb", "pydoc", "setuptools", "tkinter", "unittest"),
    *("curses", "readline", "sqlite3", "xml", "xmlrpc", "pyexpat", "_pytest", "pytest"),
    *("dateutil.tz.win", "dateutil.zoneinfo"),
)

# Never imported by a call with an instance principal: for the SDK, for YAML, for people's commands.
SLOW_PATH = frozenset(
    """
    argparse ast asyncio chardet circuitbreaker configparser csv difflib dis ftplib getpass gzip idna
    inspect jwt logging mimetypes netrc oci pickle pprint py_compile pytz shlex subprocess tarfile
    tempfile tracemalloc typing_extensions urllib3 uuid webbrowser yaml zipfile
    """.split()
)

# Character sets of the base library: what Python starts with, and what sockets and YAML name.
_CODECS = re.compile(
    r"encodings/(__init__|aliases|ascii|charmap|cp437|idna|latin_1|punycode|raw_unicode_escape"
    r"|unicode_escape|utf_(8|8_sig|16|16_be|16_le|32|32_be|32_le))\.pyc"
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


class PyzWriter(ZlibArchiveWriter):
    """PyInstaller's archive of modules, with those that a kubelet call may import stored
    uncompressed: reading them costs 5 ms less. The others are compressed for the sake of size.
    """

    @classmethod
    def _write_entry(
        cls, fp: BinaryIO, entry: tuple[str, str, str], code_dict: dict[str, CodeType]
    ) -> tuple[str, tuple[int, int, int]]:
        cls._COMPRESSION_LEVEL = 9 if entry[0].split(".")[0] in SLOW_PATH else 0
        written: tuple[str, tuple[int, int, int]] = super()._write_entry(fp, entry, code_dict)
        return written


def is_host_runtime(name: str) -> bool:
    """True for a compiler's run-time library, which every node has."""
    return os.path.basename(name).startswith(("libgcc_s.so", "libstdc++.so"))


def is_used_data(name: str) -> bool:
    """True for a data file that the program reads: the base library, and certifi's CA bundle."""
    return name in ("base_library.zip", "certifi/cacert.pem")


def with_small_base_library(datas: Toc, folder: Path) -> Toc:
    """``datas`` with a base library that has the codecs in use only: Python reads its index at each
    start. Entries keep PyInstaller's fixed dates.
    """
    small = folder / "base_library.zip"
    [full] = [source for name, source, _ in datas if name == small.name]
    with zipfile.ZipFile(full) as source, zipfile.ZipFile(small, "w") as target:
        for info in sorted(source.infolist(), key=lambda info: info.filename):
            if not info.filename.startswith("encodings/") or _CODECS.fullmatch(info.filename):
                target.writestr(info, source.read(info))
    return [(name, str(small) if name == small.name else file, kind) for name, file, kind in datas]


def libc_floor(files: Iterable[Path]) -> str:
    """The newest glibc that any of the ELF ``files`` asks for, as "GLIBC_2.28"."""
    newest = (0, 0)
    for path in files:
        with path.open("rb") as file:
            for section in ELFFile(file).iter_sections():
                if isinstance(section, GNUVerNeedSection):
                    for _, versions in section.iter_versions():
                        for version in versions:
                            if match := re.fullmatch(r"GLIBC_(\d+)\.(\d+)(\.\d+)?", version.name):
                                newest = max(newest, (int(match[1]), int(match[2])))
    return "GLIBC_{}.{}".format(*newest)


def licenses(toc: Toc) -> str:
    """The licences of all that ``toc`` brings along, as one text. Raises LookupError for a part
    whose licence cannot be found: nothing may travel without one.
    """
    owners = {
        str(distribution.locate_file(file)): distribution
        for distribution in distributions()
        for file in distribution.files or ()
    }
    used: dict[str, Distribution] = {}
    for _, source, _ in toc:
        if distribution := owners.get(source):
            used[distribution.name] = distribution
    return ""


def _python_license() -> str:
    return (Path(sysconfig.get_path("stdlib")) / "LICENSE.txt").read_text()


def _ours(path: str) -> bool:
    return path.startswith(sys.prefix)
