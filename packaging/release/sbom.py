"""Print the bill of materials of a binary: CycloneDX 1.6, as JSON.

    python packaging/release/sbom.py dist/oke-credential-provider-for-ocir-linux-amd64

It reads the binary's own lists: each file of the archive behind the launcher, each entry of
PyInstaller's archives, each Python module. An item that belongs to no component is an error. The
native libraries in an ELF file are found in the file itself. The same binary gives the same bytes.

Run it with the interpreter that froze the binary: versions and licenses of the Python packages come
from that environment. If portable_python.sh built the interpreter, its versions.txt lists the Debian
source packages, and the native components name them.
"""

import argparse
import hashlib
import importlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PyInstaller.archive.readers import CArchiveReader

NAME = "oke-credential-provider"
REPOSITORY = "oracle-devrel/oke-credential-provider-for-ocir"
# In the archive: the launcher, the frozen program, and the folder of its files.
LAUNCHER = f"bin/{NAME}"
PROGRAM = f"bin/program/{NAME}"
INTERNAL = "bin/program/_internal/"

Json = dict[str, Any]

# Parts of the program itself.
OUR_MODULES = frozenset({"provider", "provider_build", "provider_later", "start"})
OUR_FILES = frozenset({"MANIFEST", LAUNCHER, f"{INTERNAL}licenses.txt"})
# PyInstaller's importer.
BOOTSTRAP = re.compile(r"pyi(mod|boot|_rth_)\w*")
# Components of shared libraries, by file name.
LIBRARIES = (
    (re.compile(r"libpython3[\d.]*\.so[\d.]*"), "python"),
    (re.compile(r"lib(ssl|crypto)\.so[\d.]*"), "openssl"),
    (re.compile(r"libz\.so[\d.]*"), "zlib"),
    (re.compile(r"libffi\.so[\d.]*"), "libffi"),
    (re.compile(r"libexpat\.so[\d.]*"), "expat"),  # Debian's Python links it
    (re.compile(r"libzstd\.so[\d.]*"), "zstd"),  # Debian's OpenSSL links it, from trixie on
)
# The bytes by which a linked library is found in a file; the group is its version.
TRACES = (
    ("openssl", re.compile(rb"OpenSSL (\d+\.\d+\.\d+[a-z]*) \d{1,2} [A-Z][a-z]{2} \d{4}")),
    ("zlib", re.compile(rb"(?:de|in)flate (\d+\.\d+[\d.]*) Copyright")),
    ("expat", re.compile(rb"\0expat_(\d+\.\d+\.\d+)\0")),
    ("libffi", re.compile(rb"\0ffi_type_sint64\0()")),  # it leaves no version
)
# Native components: their license, and their vendor and product in vulnerability databases.
NATIVE = {
    "expat": ("MIT", "libexpat_project:libexpat"),
    "libffi": ("MIT", "libffi_project:libffi"),
    "musl": ("MIT", "musl-libc:musl"),
    "openssl": ("Apache-2.0", "openssl:openssl"),
    "python": ("PSF-2.0", "python:python"),
    "zlib": ("Zlib", "zlib:zlib"),
    "zstd": ("BSD-3-Clause", "facebook:zstandard"),
}
# For distributions whose metadata has no SPDX expression.
LICENSES = {
    "oci": "UPL-1.0 OR Apache-2.0",
    "pyinstaller": "GPL-2.0-or-later WITH Bootloader-exception",
}


class SbomError(Exception):
    """An item has no owner, or the binary is from another environment."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item in the binary: a Python module with its full name, or a file with its bytes."""

    place: str
    module: str | None = None
    data: bytes = b""


def items(binary: Path) -> Iterator[Item]:
    """All items in the binary, from its own lists."""
    with zipfile.ZipFile(binary) as archive:
        for name in sorted(archive.namelist()):
            data = archive.read(name)
            yield Item(name, None, data)
            if name == PROGRAM:
                yield from _frozen(name, data)
            elif name == f"{INTERNAL}base_library.zip":
                with zipfile.ZipFile(io.BytesIO(data)) as library:
                    for file in sorted(library.namelist()):
                        module = file.removesuffix(".pyc").removesuffix("/__init__")
                        yield Item(f"{name}/{file}", module.replace("/", "."))


def _frozen(place: str, data: bytes) -> Iterator[Item]:
    with tempfile.NamedTemporaryFile() as file:  # the reader wants a path
        file.write(data)
        file.flush()
        archive = CArchiveReader(file.name)
        for name, entry in sorted(archive.toc.items()):
            kind = entry[-1]
            if kind == "z":
                for module in sorted(archive.open_embedded_archive(name).toc):
                    yield Item(f"{place}/{name}/{module}", module)
            elif kind in ("m", "M", "s"):
                yield Item(f"{place}/{name}", name)
            else:
                extracted = archive.extract(name)
                yield Item(f"{place}/{name}", None, extracted if extracted else b"")


def owner(item: Item, packages: Mapping[str, list[str]]) -> str:
    """The component of an item. ``packages`` maps top-level names to distributions.

    Raises SbomError if it belongs to none.
    """
    if item.module is not None:
        return _module_owner(item.module, packages)
    if item.place in OUR_FILES:
        return NAME
    if item.place == PROGRAM:
        return "pyinstaller"  # the bootloader; the archive behind it has its own items
    inside = item.place.removeprefix(INTERNAL)
    if inside == "base_library.zip" or "/lib-dynload/" in inside:
        return "python"
    if "/" not in inside:
        for pattern, component in LIBRARIES:
            if pattern.fullmatch(inside):
                return component
    # _cffi_backend.cpython-313-x86_64-linux-gnu.so, certifi/cacert.pem
    return _module_owner(re.split(r"[/.]", inside)[0], packages, item.place)


def _module_owner(module: str, packages: Mapping[str, list[str]], place: str = "") -> str:
    top = module.partition(".")[0]
    if top in OUR_MODULES:
        return NAME
    if BOOTSTRAP.fullmatch(top):
        return "pyinstaller"
    owners = sorted({normal(name) for name in packages.get(top, ())})
    if top in sys.stdlib_module_names and not owners:
        return "python"
    vendored = re.match(r"\w+\._vendor\.\w+", module)
    if len(owners) == 1:
        return vendored[0] if vendored else owners[0]
    raise SbomError(
        f"{place or module}: " + (f"owned by {owners}" if owners else "owned by nobody")
    )


def normal(name: str) -> str:
    """A distribution's name, normalized as on PyPI."""
    return re.sub(r"[-_.]+", "-", name).lower()


def linked(item: Item) -> Iterator[tuple[str, str]]:
    """Name and version of the native libraries in an ELF file. The version is "" if unknown."""
    if item.data.startswith(b"\x7fELF"):
        for component, trace in TRACES:
            for version in sorted({match.decode() for match in trace.findall(item.data)}):
                yield component, version


def build(binary: Path, versions: Path) -> Json:
    """The bill of materials. ``versions`` lists the interpreter's sources, if the file exists.

    Raises SbomError.
    """
    packages = packages_distributions()
    owned = [(item, owner(item, packages)) for item in items(binary)]
    facts = _facts(binary)
    places: dict[str, list[str]] = {}  # distribution, vendored package or program -> places
    native: dict[tuple[str, str], list[str]] = {}
    unversioned: dict[str, list[str]] = {}
    own: set[tuple[str, str]] = {("python", facts["python"])}  # in the interpreter's files
    for item, who in owned:
        traces = list(linked(item))
        if item.place == LAUNCHER:
            native[("musl", _musl(item.data))] = [item.place]
        for trace in traces:
            native.setdefault(trace, []).append(item.place)
        if who in NATIVE:
            own.update(traces)
            if who == "python":
                native.setdefault((who, facts["python"]), []).append(item.place)
            elif not any(name == who for name, _ in traces):
                unversioned.setdefault(who, []).append(item.place)
        else:
            places.setdefault(who, []).append(item.place)
    _settle(unversioned, native)
    sources = _sources(versions, own)
    components = [
        {**_native(*key, sorted(set(where))), **sources.get(key, {})}
        for key, where in native.items()
    ]
    dependencies: dict[str, set[str]] = {}
    for who, where in places.items():
        if "._vendor." in who:
            components.append(_vendored(who, where))
        elif who != NAME:
            component = _python(distribution(who), where)
            components.append(component)
            for crate in _shipped(distribution(who), where):
                components.append(crate)
                dependencies.setdefault(component["bom-ref"], set()).add(crate["bom-ref"])
    # A wheel lists OpenSSL, which is also found in its file. The component from the file stays.
    unique = {each["bom-ref"]: each for each in reversed(components)}
    components = [unique[reference] for reference in sorted(unique)]
    root = _root(binary, facts, places[NAME])
    inner = set().union(*dependencies.values())
    dependencies[root["bom-ref"]] = {each["bom-ref"] for each in components} - inner
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, root['hashes'][0]['content'])}",
        "version": 1,
        "metadata": {
            "timestamp": _date(facts["commit"]),
            "lifecycles": [{"phase": "post-build"}],
            "component": root,
        },
        "components": components,
        "dependencies": [
            {"ref": reference, "dependsOn": sorted(on)}
            for reference, on in sorted(dependencies.items())
        ],
    }


def _facts(binary: Path) -> Json:
    """The output of the binary's ``version``. Raises SbomError if it is from another environment."""
    output = subprocess.run(
        [binary.resolve(), "version", "--output", "json"], check=True, capture_output=True
    ).stdout
    facts: Json = json.loads(output)
    here = {
        "python": platform.python_version(),
        "oci": distribution("oci").version,
        "cryptography": distribution("cryptography").version,
    }
    for part, version in here.items():
        if facts[part] != version:
            raise SbomError(f"the binary has {part} {facts[part]}, this environment {version}")
    return facts


def _settle(unversioned: dict[str, list[str]], native: dict[tuple[str, str], list[str]]) -> None:
    """Add a library without a version (libssl) to the component with one in the same folder."""
    for component, where in unversioned.items():
        shared = [key for key in native if key[0] == component and _beside(where, native[key])]
        native.setdefault(shared[0] if shared else (component, ""), []).extend(where)


def _beside(one: list[str], other: list[str]) -> bool:
    folders = {place.rpartition("/")[0] for place in one}
    return any(place.rpartition("/")[0] in folders for place in other)


def _sources(versions: Path, own: set[tuple[str, str]]) -> dict[tuple[str, str], Json]:
    """The pedigree of each native component that was built from a Debian source package.

    Raises SbomError if the version in the binary is not that of the source.
    """
    found: dict[tuple[str, str], Json] = {}
    listed = versions.read_text().splitlines() if versions.exists() else []
    for package, version in (line.split(" ") for line in listed):
        name = re.sub(r"^python[\d.]+$", "python", package)
        for key in (key for key in own if key[0] == name):
            # 1:1.3.dfsg+really1.3.1-1 is zlib 1.3.1.
            if not re.search(rf"(?<![\d.]){re.escape(key[1])}(?![\d.]*\d)", version):
                raise SbomError(f"{package} {version} was built, and {key[1]} is in the binary")
            purl = f"pkg:deb/debian/{package}@{quote(version, safe='~')}?arch=source"
            ancestor = {"type": "library", "name": package, "version": version, "purl": purl}
            found[key] = {"pedigree": {"ancestors": [ancestor]}}
    return found


def _musl(launcher: bytes) -> str:
    """The version of musl in the launcher if Debian's musl-gcc compiled it, else ""."""
    if b"GCC: (" not in launcher:
        return ""
    found = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Version}", "musl-dev"],
        capture_output=True,
        text=True,
    )
    return found.stdout.partition("-")[0] if found.returncode == 0 else ""


def _date(commit: str) -> str:
    """The date of the commit. It is the same in each build of the commit."""
    form = ("--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ")
    shown = subprocess.run(
        ["git", "show", "--no-patch", *form, commit.removesuffix("+changes")],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        env={**os.environ, "TZ": "UTC"},
    )
    return shown.stdout.strip()


def _root(binary: Path, facts: Json, where: list[str]) -> Json:
    return {
        "type": "application",
        "bom-ref": NAME,
        "name": NAME,
        "version": facts["version"],
        "licenses": [{"license": {"id": "UPL-1.0"}}],
        "purl": f"pkg:github/{REPOSITORY}@v{facts['version']}",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(binary.read_bytes()).hexdigest()}],
        "properties": [
            {"name": f"{NAME}:{key}", "value": str(facts[key])}
            for key in ("architecture", "commit", "libc_floor")
        ],
        **_evidence(where),
    }


def _evidence(where: list[str]) -> Json:
    return {"evidence": {"occurrences": [{"location": place} for place in where]}}


def _library(kind: str, name: str, version: str, where: list[str], **more: Any) -> Json:
    """A component with a package URL of this kind."""
    purl = f"pkg:{kind}/{name}" + (f"@{version}" if version else "")
    numbered = {"version": version} if version else {}
    component = {"type": "library", "bom-ref": purl, "name": name, "purl": purl, **numbered}
    return component | _evidence(where) | more


def _native(name: str, version: str, where: list[str]) -> Json:
    license_id, product = NATIVE[name]
    cpe = f"cpe:2.3:a:{product}:{version or '*'}:*:*:*:*:*:*:*"
    licenses = [{"license": {"id": license_id}}]
    return _library("generic", name, version, where, cpe=cpe, licenses=licenses)


def _python(found: Distribution, where: list[str]) -> Json:
    name = normal(found.name)
    return _library("pypi", name, found.version, where, licenses=[_license(found)])


def _license(found: Distribution) -> Json:
    expression = LICENSES.get(normal(found.name)) or _word(found, "License-Expression")
    if expression:
        return {"expression": expression}
    words = _word(found, "License")
    if not words:
        raise SbomError(f"{found.name} has no license in its metadata: add it to LICENSES")
    return {"license": {"name": words.splitlines()[0]}}


def _word(found: Distribution, key: str) -> str:
    return found.metadata[key].strip() if key in found.metadata else ""


def _vendored(module: str, where: list[str]) -> Json:
    """A copy of a package inside a distribution: oci._vendor.requests."""
    package, name = module.partition(".")[0], module.rpartition(".")[2]
    version = getattr(importlib.import_module(module), "__version__", "")
    copy = _library("pypi", normal(name), version, where, description=f"A copy inside {package}.")
    return copy | {"bom-ref": f"{copy['purl']}#{package}"}


def _shipped(found: Distribution, where: list[str]) -> Iterator[Json]:
    """The components in a wheel's own bill of materials (PEP 770), if its libraries are here."""
    libraries = [place for place in where if re.search(r"\.so[\d.]*$", place)]
    if not libraries:
        return
    for file in found.files or ():
        if "sboms" in file.parts and file.suffix == ".json":
            for inner in json.loads(file.read_text()).get("components", ()):
                # Without the qualifiers: paths on the machine that built the wheel.
                purl = inner["purl"].partition("?")[0]
                kept = {
                    key: inner[key]
                    for key in ("type", "name", "version", "licenses")
                    if key in inner
                }
                yield {**kept, "bom-ref": purl, "purl": purl, **_evidence(libraries)}


def main(arguments: list[str] | None = None) -> int:
    """Print the bill of materials. Exit code 1 if an item has no owner."""
    parser = argparse.ArgumentParser(description="Print a CycloneDX bill of materials.")
    parser.add_argument("binary", type=Path)
    parser.add_argument("--versions", type=Path, default=Path(sys.base_prefix, "versions.txt"))
    options = parser.parse_args(arguments)
    try:
        content = build(options.binary, options.versions)
    except SbomError as error:
        print(f"sbom: {error}", file=sys.stderr)
        return 1
    print(json.dumps(content, indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
