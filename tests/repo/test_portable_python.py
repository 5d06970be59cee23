"""packaging/python/portable_python.sh builds from the newest sources that Debian lists, or it stops.

A stand-in replaces apt. It lists two versions of each source and serves those that the test selects.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# The files whose content names the folder of a finished build.
KEYED = (
    "packaging/python/portable_python.sh",
    "packaging/python/debian.sh",
    "packaging/python/python.profdata",
    "packaging/locks/ziglang.txt",
)
OLD, NEW = "1.2.0-1", "1.2.0-1+deb13u1"

APT_GET = """#!/bin/bash
echo "$*" >>"$NOTES"
[ "$UNSERVED" != "$*" ] || exit 100
case $* in
    update*) ;;
    "source -q "*) mkdir "${3%%=*}-1.2.0" ;;
    *) exit 2 ;;
esac
"""
APT_CACHE = f"""#!/bin/sh
printf 'Package: %s\\nVersion: %s\\n\\n' "$3" {OLD} "$3" {NEW}
"""
# The build's first command after the download. It saves the list of sources for the test.
ZIG = """#!/bin/sh
echo "make: $MAKEFLAGS" >>"$NOTES"
cat "$VERSIONS" >"$NOTES.versions"
exit 9
"""


@dataclass(frozen=True, slots=True)
class Build:
    """A copy of the script in a new folder."""

    folder: Path

    def start(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it and wait."""
        return subprocess.run(
            [self.folder / "packaging" / "python" / "portable_python.sh"],
            cwd=self.folder,
            env={
                "PATH": f"{self.folder}/bin:/usr/local/bin:/usr/bin:/bin",
                "NOTES": str(self.folder / "notes"),
                "VERSIONS": str(self.kept / "work" / "versions.txt"),
                "DEBIAN_MIRROR": "http://debian.example/debian",
                "ZIG": str(self.folder / "bin" / "zig"),
                "UNSERVED": "",
                "XDG_CACHE_HOME": str(self.folder / "cache"),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, **environment: str) -> tuple[list[str], str]:
        """Run it until it fails. Returns the commands of apt-get, and standard error."""
        done = self.start(**environment)
        assert done.returncode != 0, "the compiler is no compiler"
        return (self.folder / "notes").read_text().splitlines(), done.stderr

    @property
    def kept(self) -> Path:
        """The folder that keeps the builds."""
        return self.folder / "cache" / "oke-credential-provider"

    @property
    def finished(self) -> Path:
        """The folder of a finished build."""
        text = b"".join((self.folder / name).read_bytes() for name in KEYED)
        return self.kept / f"python-{platform.machine()}-{sha256(text).hexdigest()[:12]}"

    def keep(self) -> Path:
        """Pretend that a build has finished."""
        self.finished.mkdir(parents=True)
        (self.finished / "versions.txt").touch()
        return self.finished

    @property
    def sources(self) -> list[str]:
        """The sources of the build. Empty if it stopped before."""
        versions = self.folder / "notes.versions"
        return versions.read_text().splitlines() if versions.exists() else []


@pytest.fixture
def build(tmp_path: Path) -> Build:
    files = {
        "bin/apt-get": APT_GET.encode(),
        "bin/apt-cache": APT_CACHE.encode(),
        "bin/zig": ZIG.encode(),
    }
    for name in KEYED:
        files[name] = (REPOSITORY / name).read_bytes()
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o755)
    return Build(tmp_path)


PACKAGES = ("python3.13", "openssl", "zlib", "libffi")


def test_it_takes_the_newest_version_that_debian_lists(build: Build) -> None:
    build.run()
    assert build.sources == [f"{package} {NEW}" for package in PACKAGES]


@pytest.mark.parametrize("package", PACKAGES)
def test_it_stops_where_a_listed_version_is_not_served(build: Build, package: str) -> None:
    asked, told = build.run(UNSERVED=f"source -q {package}={NEW}")
    assert build.sources == []
    assert asked[-1] == f"source -q {package}={NEW}"
    assert f"{package} {NEW}: Debian lists it, but the mirror does not serve it" in told
    assert "older" not in told


def test_an_older_version_is_taken_only_when_that_is_asked_for(build: Build) -> None:
    _, told = build.run(UNSERVED=f"source -q openssl={NEW}", ALLOW_OLDER="1")
    assert f"openssl {NEW}: Debian lists it" in told
    assert "This build takes an older one, as no release does." in told
    assert f"openssl {OLD}" in build.sources
    assert f"openssl {NEW}" not in build.sources


def test_the_flags_of_a_calling_make_do_not_reach_the_build(build: Build) -> None:
    notes, _ = build.run(MAKEFLAGS=" -j2 --output-sync=target --jobserver-auth=fifo:/tmp/gone")
    assert notes[-1] == "make: "


def test_it_stops_where_an_index_cannot_be_had(build: Build) -> None:
    """Without --error-on=any, the exit code of apt is 0."""
    asked, _ = build.run(UNSERVED="update --error-on=any")
    assert asked == ["update --error-on=any"]
    assert build.sources == []


@pytest.mark.parametrize(
    ("suffix", "variable"), [("-older", "ALLOW_OLDER"), ("-counting", "PROFILE_RUNTIME")]
)
def test_no_release_uses_a_build_from_older_sources_or_one_that_counts(
    build: Build, suffix: str, variable: str
) -> None:
    """A finished build is reused, but one with this variable only with this variable."""
    kept = build.finished.with_name(build.finished.name + suffix)
    kept.mkdir(parents=True)
    (kept / "versions.txt").touch()
    build.run()
    assert build.sources == [f"{package} {NEW}" for package in PACKAGES]
    done = build.start(**{variable: "1"})
    assert (done.returncode, done.stdout) == (0, f"{kept}\n")


@pytest.mark.parametrize("name", KEYED)
def test_a_changed_input_is_built_again(build: Build, name: str) -> None:
    build.keep()
    assert build.start().stdout == f"{build.finished}\n"
    with (build.folder / name).open("a") as file:
        file.write("\n")
    assert build.start().returncode != 0, "the compiler is no compiler"


def test_a_build_outlives_the_clone(build: Build, tmp_path_factory: pytest.TempPathFactory) -> None:
    kept = build.keep()
    clone = tmp_path_factory.mktemp("clone")
    shutil.copytree(build.folder / "packaging", clone / "packaging")
    again = Build(clone).start(XDG_CACHE_HOME=str(build.folder / "cache"))
    assert (again.returncode, again.stdout) == (0, f"{kept}\n")


def test_without_a_cache_home_builds_are_kept_in_the_home_folder(build: Build) -> None:
    build.run(XDG_CACHE_HOME="", HOME=str(build.folder / "home"))
    assert (build.folder / "home/.cache/oke-credential-provider/python.log").exists()


def anothers(folder: Path) -> None:
    os.chown(folder, 65534, 65534)


def writable(folder: Path) -> None:
    folder.chmod(0o775)


def anothers_link(folder: Path) -> None:
    anothers(folder.rename(folder.with_name("elsewhere")))
    folder.symlink_to("elsewhere")


@pytest.mark.parametrize("hand_over", [anothers, writable, anothers_link])
def test_a_folder_that_another_user_could_write_to_is_refused(
    build: Build, hand_over: Callable[[Path], None]
) -> None:
    build.keep()
    hand_over(build.kept)
    done = build.start()
    assert (done.returncode, done.stdout) == (1, "")
    assert "Other users can write to" in done.stderr
    assert not (build.folder / "notes").exists()


@pytest.mark.parametrize("variable", ["ALLOW_OLDER", "PROFILE_RUNTIME"])
def test_no_workflow_asks_for_an_older_version_or_for_counts(variable: str) -> None:
    for workflow in (REPOSITORY / ".github").rglob("*.yml"):
        assert variable not in workflow.read_text(), workflow


def recipe(target: str) -> list[str]:
    """Return the commands that `make TARGET` would run, from make itself."""
    done = subprocess.run(
        ["make", "--dry-run", target],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_release_takes_no_older_source_and_keeps_nothing() -> None:
    lines = recipe("release-binary")
    assert "rm -rf build/release build/portable build/binary" in lines
    [build] = [line for line in lines if "portable_python.sh" in line]
    assert build.endswith(
        'portable_binary.sh "$(packaging/python/portable_python.sh build/release)"'
    )
    assert "ALLOW_OLDER" not in "".join(lines)
    assert "PROFILE_RUNTIME" not in "".join(lines)


def test_the_emulated_build_is_the_native_build() -> None:
    """It runs `make binary`, which freezes the portable interpreter, and checks the same glibc floor."""
    lines = recipe("binary-arm64")
    [build] = [line for line in lines if "arm64_root.sh" in line]
    assert build.startswith("packaging/python/arm64_root.sh make binary PACKAGES=")
    [check] = [line for line in recipe("release-binary") if "glibc_floor.py" in line]
    arm64 = "dist/oke-credential-provider-for-ocir-linux-arm64"
    assert f"{check.rpartition(' ')[0]} {arm64}" in lines
