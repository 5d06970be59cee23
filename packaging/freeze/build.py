"""Build the binary: freeze the program, compile the launcher, make one file of both.

    python packaging/freeze/build.py [--dist dist] [--work build/binary] [--max-mb N]

It freezes the interpreter that runs it. The C compiler is $CC, by default musl-gcc. The same commit
and the same tools give the same bytes. It builds only if an input has changed: the commit, the tools
or a file that it uses.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

FREEZE = Path(__file__).resolve().parent
ROOT = FREEZE.parents[1]
PACKAGING = ROOT / "packaging"
SOURCES = "sources"
NAME = "oke-credential-provider"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def build(dist: Path, work: Path) -> Path:
    """Build into ``dist``, with ``work`` for intermediate files. Returns the binary."""
    binary = dist / f"{NAME}-for-ocir-linux-{ARCHITECTURES[platform.machine()]}"
    commit, epoch = commit_and_date()
    recorded = work / "state"
    if recorded.exists() and recorded.read_text() == _state(binary, work, commit, epoch):
        return binary
    print("Building the binary (about a minute) ...", flush=True)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tree = work / "tree"
    _freeze(work, commit, epoch)
    shutil.copytree(work / "dist" / NAME, tree / "bin" / "program")
    launcher = tree / "bin" / NAME
    _compile(launcher)
    (tree / "MANIFEST").write_text(manifest(tree))
    dist.mkdir(parents=True, exist_ok=True)
    # A running binary can be replaced but not written to. Only a file of the same mount can replace it.
    fresh = binary.with_name(f".{binary.name}")
    one_file(launcher, tree, fresh)
    os.replace(fresh, binary)
    recorded.write_text(_state(binary, work, commit, epoch))
    return binary


def _state(binary: Path, work: Path, commit: str, epoch: str) -> str:
    """A digest of the binary and its inputs: facts about the build, the files that PyInstaller
    used (provider.spec lists them), and packaging/. "" if a file is missing.
    """
    facts = (commit, epoch, sys.version, sys.base_prefix, os.environ.get("CC"))
    digest = hashlib.sha256(repr(facts).encode())
    try:
        sources = (work / SOURCES).read_text().splitlines()
        own = sorted(path for path in PACKAGING.rglob("*") if path.suffix != ".pyc")
        for path in (binary, *map(Path, sources), *filter(Path.is_file, own)):
            digest.update(repr((str(path), path.stat().st_size)).encode())
            digest.update(path.read_bytes())
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit_and_date() -> tuple[str, str]:
    """The commit, with "+changes" if the files differ from it, and its date in Unix seconds.

    The environment overrides git, for builds where git is missing: arm64 under emulation.
    """
    told = os.environ.get("PROVIDER_COMMIT"), os.environ.get("SOURCE_DATE_EPOCH")
    if told[0] and told[1]:
        return told[0], told[1]
    differing = _git("status", "--porcelain", "--untracked-files=no", "provider", "packaging")
    changes = "+changes" if differing else ""
    return _git("rev-parse", "HEAD") + changes, _git("log", "-1", "--format=%ct")


def _freeze(work: Path, commit: str, epoch: str) -> None:
    environment = {
        **os.environ,
        "PROVIDER_COMMIT": commit,
        "SOURCE_DATE_EPOCH": epoch,
        # Compiled modules contain sets, whose order depends on this.
        "PYTHONHASHSEED": "0",
        # The option below takes effect only after the first lines.
        "PYI_LOG_LEVEL": "ERROR",
        # No cache of an earlier build.
        "PYINSTALLER_CONFIG_DIR": str(work / "cache"),
    }
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR"]
    folders = ["--distpath", str(work / "dist"), "--workpath", str(work / "work")]
    spec = str(FREEZE / "provider.spec")
    subprocess.run([*command, *folders, spec], cwd=work, env=environment, check=True)


def _compile(target: Path) -> None:
    compiler = os.environ.get("CC", "musl-gcc").split()
    options = ["-std=c11", "-Os", "-static", "-s", "-Wall", "-Wextra", "-Werror"]
    source = str(FREEZE / "launcher.c")
    # A build ID would depend on paths.
    subprocess.run(
        [*compiler, *options, "-Wl,--build-id=none", "-o", str(target), source], check=True
    )


def manifest(tree: Path) -> str:
    """One line per file, sorted by path: SHA-256, mode, path. Raises ValueError for a link."""
    lines = []
    for path in sorted(tree.rglob("*")):
        if path.is_symlink():
            raise ValueError(f"{path} is a symbolic link; the launcher does not unpack links")
        if path.is_file():
            mode = "755" if path.stat().st_mode & 0o100 else "644"
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{digest} {mode} {path.relative_to(tree)}\n")
    return "".join(lines)


def one_file(launcher: Path, tree: Path, target: Path) -> None:
    """Write the launcher and, behind it, a zip archive of ``tree``.

    The archive is not compressed. It does not depend on the time and the place of the build.
    """
    with target.open("wb") as file:
        file.write(launcher.read_bytes())
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(tree.rglob("*")):
                if path.is_file():
                    info = zipfile.ZipInfo(str(path.relative_to(tree)))
                    info.create_system = 3  # Unix, so that modes are used
                    executable = path.stat().st_mode & 0o100
                    info.external_attr = (0o100755 if executable else 0o100644) << 16
                    archive.writestr(info, path.read_bytes())
    target.chmod(0o755)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "binary")
    parser.add_argument("--max-mb", type=float, default=float("inf"), help="fail if it is larger")
    options = parser.parse_args()
    try:
        binary = build(options.dist.resolve(), options.work.resolve())
    except subprocess.CalledProcessError as error:
        sys.exit(f"The build failed: {' '.join(error.cmd[:3])} exited with {error.returncode}.")
    size = binary.stat().st_size / 1e6
    print(f"{binary}  {size:.1f} MB")
    if size > options.max_mb:
        sys.exit(f"The binary is larger than {options.max_mb:.1f} MB.")


if __name__ == "__main__":
    main()
