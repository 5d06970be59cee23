"""Print the oldest glibc with which a program runs. It reads the program's ELF files.

    python packaging/freeze/glibc_floor.py [--max 2.28] PATH...

A path is an ELF file or a folder of ELF files. If a zip archive follows the ELF file, as in the
binary, the files in the archive are read too. For each file it prints the newest glibc version that a
symbol needs. Then it prints the libraries that the node must have, and the floor of all files.

Exit status: 0; 1 if the floor is above --max, or if a library is neither in the bundle nor on every
node; 2 if a file cannot be read.
"""

import argparse
import io
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection

Version = tuple[int, ...]

ELF_MAGIC = b"\x7fELF"

# The libraries of glibc, and two that each supported distribution has: libgcc_s, and libz, which rpm
# and dpkg need. PyInstaller's start-up code needs libz before anything is unpacked.
ON_EVERY_NODE = (
    *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libc.so.6", "libdl.so.2", "libm.so.6"),
    *("libpthread.so.0", "librt.so.1", "libutil.so.1", "libresolv.so.2", "libgcc_s.so.1"),
    "libz.so.1",
)

# Version names without a number, and the glibc that introduced them.
UNNUMBERED: dict[str, Version] = {"GLIBC_ABI_DT_RELR": (2, 36)}


class FloorError(Exception):
    """The needs of a file cannot be determined."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one ELF file needs from the system.

    glibc: the newest version needed, (2, 28) for GLIBC_2.28; () for none.
    symbols: the symbols that need exactly that version, sorted.
    libraries: its DT_NEEDED names.
    """

    name: str
    glibc: Version
    symbols: tuple[str, ...]
    libraries: tuple[str, ...]


def dotted(version: Version) -> str:
    """(2, 28) -> 2.28."""
    return ".".join(map(str, version))


def parse_version(text: str) -> Version:
    """2.28 -> (2, 28); raises ValueError."""
    return tuple(int(part) for part in text.split("."))


def glibc_version(name: str) -> Version:
    """GLIBC_2.28 -> (2, 28). Raises FloorError for a name without a version."""
    known = UNNUMBERED.get(name)
    try:
        return known or parse_version(name.removeprefix("GLIBC_"))
    except ValueError:
        raise FloorError(f"needs {name}, a private version of glibc") from None


def read_needs(name: str, data: bytes) -> Needs:
    """Read one ELF file. Raises FloorError if it cannot be read or has no section headers."""
    try:
        elf = ELFFile(io.BytesIO(data))
        sections = list(elf.iter_sections())
        dynamic = [s for s in sections if isinstance(s, DynamicSection)]
        if not dynamic and any(s.header.p_type == "PT_DYNAMIC" for s in elf.iter_segments()):
            raise FloorError(f"{name}: section headers stripped, so its symbols are unknown")
        libraries = tuple(
            str(tag.needed)  # type: ignore[attr-defined] # pyelftools adds the attribute that the tag is named after
            for s in dynamic
            for tag in s.iter_tags("DT_NEEDED")
        )
        wanted: dict[int, Version] = {}  # by the index that .gnu.version uses
        for needed in (s for s in sections if isinstance(s, GNUVerNeedSection)):
            for _, versions in needed.iter_versions():
                for version in versions:
                    if version.name.startswith("GLIBC_"):
                        wanted[int(version["vna_other"])] = glibc_version(version.name)
        newest = max(wanted.values(), default=())
        symbols = {
            symbol.name
            for s in sections
            if isinstance(s, GNUVerSymSection)
            for symbol in s.iter_symbols()
            if isinstance(symbol["ndx"], int) and wanted.get(symbol["ndx"] & 0x7FFF) == newest
        }
    except FloorError as error:
        raise FloorError(f"{name}: {error}") from None
    except (ELFError, UnicodeDecodeError) as error:
        raise FloorError(f"{name}: not a readable ELF file: {error}") from error
    return Needs(name, newest, tuple(sorted(symbols if newest else ())), libraries)


def elf_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each ELF file at the path: the file, its archive, or a folder's files.

    Raises OSError, and FloorError if the path is a file but not an ELF file.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and not file.is_symlink():
                data = file.read_bytes()
                if data.startswith(ELF_MAGIC):
                    yield str(file.relative_to(path)), data
        return
    data = path.read_bytes()
    if not data.startswith(ELF_MAGIC):
        raise FloorError(f"{path}: not an ELF file")
    yield path.name, data
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in sorted(archive.namelist()):
                data = archive.read(entry)
                if data.startswith(ELF_MAGIC):
                    yield entry, data


def missing(needs: list[Needs]) -> dict[str, list[str]]:
    """Libraries neither bundled nor on every node: name -> the files that need it."""
    bundled = {Path(each.name).name for each in needs} | set(ON_EVERY_NODE)
    absent: dict[str, list[str]] = {}
    for each in needs:
        for library in each.libraries:
            if library not in bundled:
                absent.setdefault(library, []).append(each.name)
    return absent


def report(needs: list[Needs]) -> Iterator[str]:
    """The lines to print. The file with the newest glibc comes last."""
    for each in sorted(needs, key=lambda each: (each.glibc, each.name)):
        version = f"GLIBC_{dotted(each.glibc)}" if each.glibc else "-"
        few = each.symbols[:3]
        more = f" and {len(each.symbols) - len(few)} more" if len(each.symbols) > len(few) else ""
        yield f"{version:<12} {each.name}  {', '.join(few)}{more}".rstrip()
    bundled = {Path(each.name).name for each in needs}
    system = sorted({library for each in needs for library in each.libraries} - bundled)
    yield f"from the node: {' '.join(system) or 'nothing'}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Print the oldest glibc with which a program runs."
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--max", type=parse_version, metavar="X.Y", help="fail above this glibc")
    options = parser.parse_args(arguments)
    try:
        needs = [read_needs(*file) for path in options.paths for file in elf_files(path)]
        if not needs:
            raise FloorError(f"no ELF file in {', '.join(map(str, options.paths))}")
    except (FloorError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(report(needs)))

    floor = max(each.glibc for each in needs)
    needing = ", ".join(each.name for each in needs if each.glibc == floor)
    print(f"floor: glibc {dotted(floor) or 'any'} ({needing})")
    status = 0
    if options.max is not None and floor > options.max:
        print(f"above the limit of glibc {dotted(options.max)}", file=sys.stderr)
        status = 1
    for library, users in missing(needs).items():
        print(f"{library} is not in the bundle, {', '.join(users)} needs it", file=sys.stderr)
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
