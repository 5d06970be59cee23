"""The contents of the frozen program. ``provider.spec`` calls these functions.

A ``toc`` is PyInstaller's table of contents: (name in the bundle, source file, type).
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

# Modules of the program beside its package.
OWN = ("provider", "provider_build", "provider_later")
# Modules that the program uses from the SDK. The build fails if the SDK no longer has one.
SDK_SIGNERS = ("oci.auth.signers", "oci.config", "oci.exceptions", "oci.signer")


def _names(text: str) -> list[str]:
    return text.split()


# Modules whose imports never run here or have a fallback: hardware keys and checksums of object
# storage, options of urllib3 and PyYAML, archive formats and arithmetic, East Asian character sets,
# developer tools.
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

# Not imported by a call with an instance principal: the SDK, YAML, commands.
SLOW_PATH = _names("""
    argparse ast asyncio chardet circuitbreaker configparser csv difflib dis ftplib getpass gzip idna
    inspect jwt logging mimetypes netrc oci pickle pprint py_compile pytz shlex subprocess tarfile
    tempfile tracemalloc typing_extensions urllib3 uuid webbrowser yaml zipfile
    provider.commands
""")

# Modules that Python imports from base_library.zip before PyInstaller's importer works, and the
# character sets for sockets, zip archives and YAML: a package cannot be in two places. About a hundred
# other character sets are left out.
_BASE = re.compile(
    r"(_collections_abc|abc|codecs|genericpath|io|os|posixpath|stat"
    r"|encodings/(__init__|aliases|ascii|cp437|idna|latin_1|punycode|raw_unicode_escape"
    r"|unicode_escape|utf_8|utf_8_sig|utf_(16|32)(_[bl]e)?))\.pyc"
)


def sdk_view(folder: Path) -> None:
    """Create ``folder``/oci: links to the SDK's modules without its services.

    A service is a package with models. The SDK's ``__init__`` imports all of them, 57 MB; this one
    imports nothing.
    """
    spec = importlib.util.find_spec("oci")
    if spec is None or spec.origin is None:
        raise LookupError("the SDK (oci) is not installed")
    view = folder / "oci"
    shutil.rmtree(view, ignore_errors=True)
    view.mkdir(parents=True)
    (view / "__init__.py").write_text('"""The SDK without its services."""\n')
    for path in Path(spec.origin).parent.iterdir():
        if path.name != "__init__.py" and not (path / "models").is_dir():
            (view / path.name).symlink_to(path)


def loaded_later(toc: Toc, folder: Path) -> Toc:
    """``toc`` with two parts of cryptography that a kubelet call imports and does not use.

    They take 20 ms of a cold call: the module of SSH keys, with dataclasses and inspect, and a pattern for
    names in text form. The build fails if cryptography no longer has one of them.
    """
    ssh, name = "cryptography.hazmat.primitives.serialization.ssh", "cryptography.x509.name"
    sources = {module: source for module, source, _ in toc}
    text = Path(sources[name]).read_text()
    if "\nimport re\n" not in text:
        raise LookupError(f"{name} no longer imports re")
    files = {
        ssh: "from provider_later import ssh_function as __getattr__\n",
        name: text.replace("\nimport re\n", "\nfrom provider_later import re\n"),
    }
    for module, content in files.items():
        (folder / f"{module}.py").write_text(content)
    replaced = [
        (module, str(folder / f"{module}.py") if module in files else source, kind)
        for module, source, kind in toc
    ]
    return [*replaced, (f"{ssh}_keys", sources[ssh], "PYMODULE-1")]


def without_docstrings(toc: Toc) -> Toc:
    """``toc`` with third-party modules compiled at level 2, without docstrings.

    The program keeps its docstrings: they are the help of its commands.
    """
    return [
        (name, source, kind if name.split(".")[0] == "provider" else kind.replace("-1", "-2"))
        for name, source, kind in toc
    ]


class PyzWriter(ZlibArchiveWriter):  # type: ignore[misc] # PyInstaller has no types
    """PyInstaller's archive of modules. Modules of a kubelet call are stored uncompressed.

    That saves 5 ms per call. The other modules are compressed, which saves space.
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
    """True for a compiler's run-time library. Each node has its own."""
    return os.path.basename(name).startswith(("libgcc_s.so", "libstdc++.so"))


def is_used_data(name: str) -> bool:
    """True for a data file that the program reads: the base library and certifi's CA bundle."""
    return name in ("base_library.zip", "certifi/cacert.pem")


def split_base_library(datas: Toc, folder: Path) -> tuple[Toc, Toc]:
    """``datas`` with a small base library, and a toc of the modules taken out of it.

    The small one has what Python imports before PyInstaller's importer works. The other modules go
    into PyInstaller's archive: about 40 of them are imported at each start, and an import from a zip
    archive takes several times as long.
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
    """The licenses of everything in ``toc``, as one text.

    Raises LookupError for a part without a license. The binary must contain no such part.
    """
    owners = packages_distributions()
    packages = {"pyinstaller"}  # its bootloader
    for name, _, _ in toc:
        top = re.split(r"[./]", name)[0]
        if top in owners:
            packages.update(owners[top])
        elif not _is_pythons(name, top) and top not in OWN:
            raise LookupError(f"{name}: no package found that it belongs to, so no license")
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
    """True for a part of Python, and for a library with a license in ``licenses/``."""
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
    raise LookupError(f"neither {installed} nor {debian} has Python's license")
