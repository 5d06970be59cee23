"""packaging/freeze/glibc_floor.py with programs compiled here, and with the Python that runs the tests."""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "packaging" / "freeze" / "glibc_floor.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def compile_c(output: Path, source: str, *options: str | Path) -> Path:
    command = ["gcc", "-x", "c", "-", "-x", "none", "-o", str(output), *map(str, options)]
    subprocess.run(command, input=source, text=True, check=True)
    return output


def library_wanting(folder: Path, name: str, version: str) -> Path:
    """A shared library that needs fresh@GLIBC_<version> of libm.so.6, independent of this glibc."""
    versions = folder / "versions"
    versions.write_text(f"GLIBC_2.5 {{ global: stale; }};\nGLIBC_{version} {{ global: fresh; }};\n")
    libm = compile_c(
        folder / "libm.so.6",
        "void stale(void) {}\nvoid fresh(void) {}\n",
        *("-shared", "-nostdlib", "-Wl,-soname,libm.so.6", f"-Wl,--version-script={versions}"),
    )
    library = compile_c(
        folder / name,
        "void stale(void); void fresh(void); void call(void) { stale(); fresh(); }\n",
        *("-shared", "-nostdlib", "-fPIC", f"-Wl,-soname,{name}", "-Wl,--no-as-needed", libm),
    )
    libm.unlink()
    return library


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return library_wanting(tmp_path, "libnew.so", "2.31")


def test_names_the_version_and_the_symbol_that_wants_it(library: Path) -> None:
    result = run(library)
    assert result.returncode == 0
    assert "GLIBC_2.31   libnew.so  fresh\n" in result.stdout
    assert "stale" not in result.stdout
    assert "floor: glibc 2.31 (libnew.so)\n" in result.stdout


@pytest.mark.parametrize(("limit", "status"), [("2.31", 0), ("2.100", 0), ("2.30", 1), ("2.4", 1)])
def test_fails_only_above_the_limit_compared_as_numbers(
    library: Path, limit: str, status: int
) -> None:
    assert run("--max", limit, library).returncode == status


def test_reads_what_is_packed_behind_a_one_file_executable(tmp_path: Path, library: Path) -> None:
    program = compile_c(tmp_path / "program", "int main(void) { return 0; }\n")
    with zipfile.ZipFile(program, "a") as archive:
        archive.write(library, "inner/libnew.so")
        archive.writestr("notes", "no program\n")
    result = run("--max", "2.30", program)
    assert result.returncode == 1
    assert "GLIBC_2.31   inner/libnew.so  fresh\n" in result.stdout
    assert re.search(r"GLIBC_\S+ +program  ", result.stdout)
    assert "notes" not in result.stdout


def test_searches_a_folder_and_passes_over_what_is_no_elf(tmp_path: Path) -> None:
    deep = tmp_path / "bundle" / "deep"
    deep.mkdir(parents=True)
    library_wanting(deep, "libnew.so", "2.31")
    result = run(tmp_path / "bundle")
    assert result.returncode == 0
    assert "versions" not in result.stdout
    assert "floor: glibc 2.31 (deep/libnew.so)" in result.stdout


def test_fails_when_a_library_is_in_neither_the_bundle_nor_every_node(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    base = compile_c(folder / "libbase.so", "void b(void) {}", "-shared", "-Wl,-soname,libbase.so")
    compile_c(folder / "libtop.so", "", "-shared", "-Wl,--no-as-needed", base)
    assert run(folder).returncode == 0
    base.unlink()
    result = run(folder)
    assert result.returncode == 1
    assert "libbase.so is not in the bundle, libtop.so needs it" in result.stderr


def test_says_when_a_file_cannot_be_judged(tmp_path: Path, library: Path) -> None:
    private = library_wanting(tmp_path, "libprivate.so", "PRIVATE")
    stripped = tmp_path / "libstripped.so"
    stripped.write_bytes(library.read_bytes())
    with stripped.open("r+b") as stream:  # no section headers: e_shoff, e_shnum, e_shstrndx
        stream.seek(0x28)
        stream.write(bytes(8))
        stream.seek(0x3C)
        stream.write(bytes(4))
    cut = tmp_path / "libcut.so"
    cut.write_bytes(library.read_bytes()[:100])
    text = tmp_path / "text"
    text.write_text("no program\n")
    (tmp_path / "empty").mkdir()
    for path in (private, stripped, cut, text, tmp_path / "empty", tmp_path / "absent"):
        result = run("--max", "2.99", path)
        assert (result.returncode, result.stdout) == (2, ""), path
        assert path.name in result.stderr
        assert "Traceback" not in result.stderr


def floor_by_readelf(path: Path) -> tuple[int, ...]:
    listing = subprocess.run(
        ["readelf", "--version-info", "--wide", path], capture_output=True, text=True, check=True
    ).stdout
    return max(tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([0-9.]+)", listing))


def test_agrees_with_readelf_on_the_python_that_runs_this() -> None:
    python = Path(sys.executable).resolve()
    shared = sysconfig.get_config_var("INSTSONAME") or ""
    library = Path(sysconfig.get_config_var("LIBDIR") or "") / shared
    path = library if ".so" in shared and library.is_file() else python
    assert shutil.which("readelf"), "binutils is needed"
    expected = ".".join(map(str, floor_by_readelf(path)))
    assert f"floor: glibc {expected} ({path.name})\n" in run(path).stdout
