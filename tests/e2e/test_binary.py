"""The content of the binary, its reproducible build, and its unpacked form."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PyInstaller.archive.readers import CArchiveReader

from provider import __version__
from provider.commands.install.layout import EXECUTABLE, MANIFEST, is_intact, remove, unpack
from provider.errors import Damaged
from tests.support.built import BARE, CONTENTS, PYTHON, REQUEST, ROOT, installed, one_file, tree

Form = Callable[[], Path]
FORMS = pytest.mark.parametrize("form", [one_file, installed], ids=["one file", "installed"])


def run(program: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    # Without a network, so that a call that needs one fails.
    return subprocess.run(
        ["unshare", "--net", str(program), *arguments],
        input=REQUEST,
        env={**BARE, **environ},
        capture_output=True,
        timeout=60,
    )


@FORMS
def test_answers_the_kubelet(form: Form) -> None:
    done = run(form())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "CredentialProviderResponse"
    assert done.stderr == b""


@FORMS
def test_prints_its_version_and_components(form: Form) -> None:
    said = json.loads(run(form(), "version", "--output", "json").stdout)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert said["version"] == __version__
    assert said["frozen"] is True
    assert said["commit"].removesuffix("+changes") == commit
    assert said["libc_floor"] == "GLIBC_2.28"


def test_contains_nothing_that_slows_the_start_or_belongs_to_the_host() -> None:
    archive = CArchiveReader(str(tree() / "bin/program/oke-credential-provider"))
    modules = archive.open_embedded_archive("PYZ.pyz").toc
    assert not [name for name in archive.toc if name.startswith("pyi_rth_")]
    assert not {"oci.core", "oci.object_storage", "pkcs11", "ctypes", "unittest"} & set(modules)
    names = zipfile.ZipFile(one_file()).namelist()
    assert not [name for name in names if "libgcc_s" in name or "libstdc++" in name]


def test_contains_the_signers_of_the_sdk() -> None:
    archive = CArchiveReader(str(tree() / "bin/program/oke-credential-provider"))
    modules = archive.open_embedded_archive("PYZ.pyz").toc
    signers = (
        "oke_workload_identity_resource_principal_signer",
        "ephemeral_resource_principals_signer",
    )
    assert {f"oci.auth.signers.{name}" for name in signers} <= set(modules)


COMPLETE = """
tenancy=ocid1.tenancy.oc1..aaaaaaaaexample
user=ocid1.user.oc1..aaaaaaaaexample
fingerprint=00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff
region=eu-frankfurt-1
"""
SSH_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f somebody\n"
)


# The SDK recognizes an SSH key by cryptography's SSH module, which the frozen program loads only then.
@pytest.mark.parametrize(
    ("settings", "reason"),
    [("user=nobody", b"tenancy is missing"), (COMPLETE, b"but a public key was provided")],
    ids=["incomplete", "an SSH key as the API key"],
)
@FORMS
def test_reads_an_oci_config_file_by_the_sdk_as_the_source_does(
    form: Form, settings: str, reason: bytes, tmp_path: Path
) -> None:
    config, key = tmp_path / "config", tmp_path / "key"
    config.write_text(f"[DEFAULT]\n{settings}\nkey_file={key}\n")
    key.write_text(SSH_KEY)
    source = Path(sys.executable).parent / "oke-credential-provider"
    built, plain = (
        subprocess.run(
            ["unshare", "--net", program],
            input=REQUEST.replace(b"docker.io", b"fra.ocir.io"),
            env={**BARE, "OCIR_AUTH_METHOD": "USER_PRINCIPAL", "OCI_CONFIG_FILE": str(config)},
            capture_output=True,
            timeout=60,
        )
        for program in (form(), source)
    )
    assert reason in built.stderr
    assert (built.returncode, built.stderr) == (plain.returncode, plain.stderr)


@FORMS
def test_prints_the_licenses_of_all_its_parts(form: Form) -> None:
    text = run(form(), "licenses").stdout.decode()
    headings = {
        above
        for line, above in zip(text.splitlines()[2:], text.splitlines()[1:], strict=False)
        if line == "=" * 80
    }
    names = {heading.split(" ")[0] for heading in headings}
    assert names >= {"click", "cryptography", "libffi", "musl", "oci", "OpenSSL", "pyinstaller",
                     "Python", "PyYAML", "urllib3", "zlib"}  # fmt: skip
    # A phrase of each kind of license.
    for words in ("Apache License", "Bootloader-exception", "PYTHON SOFTWARE FOUNDATION LICENSE"):
        assert words in text


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the repository in another directory, with a binary built for the same commit.

    dist/ is on another file system than build/, as in the emulated build for arm64.
    """
    place = tmp_path_factory.mktemp("another") / "folder"
    for name in ("provider", "packaging"):
        shutil.copytree(
            ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True
        )
    shutil.copy(ROOT / "LICENSE", place)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as dist:
        assert Path(dist).stat().st_dev != place.stat().st_dev
        (place / "dist").symlink_to(dist)
        done = rebuild(place)
        assert done.returncode == 0, done.stderr
        assert "Building" in done.stdout
        yield place


def rebuild(place: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run build.py in a copy of the repository."""
    epoch = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    commit = json.loads(run(one_file(), "version", "--output", "json").stdout)["commit"]
    facts = {"PROVIDER_COMMIT": commit, "SOURCE_DATE_EPOCH": epoch}
    return subprocess.run(
        [PYTHON, "-B", place / "packaging" / "freeze" / "build.py", *options],
        env={**os.environ, **facts, **environ},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_the_same_commit_gives_the_same_bytes(rebuilt: Path) -> None:
    assert (rebuilt / "dist" / one_file().name).read_bytes() == one_file().read_bytes()


def test_an_unchanged_binary_is_not_built_again(rebuilt: Path) -> None:
    binary = rebuilt / "dist" / one_file().name
    before = binary.stat()
    (rebuilt / "README.md").write_text("not an input")
    done = rebuild(rebuilt)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Building" not in done.stdout
    assert binary.stat() == before


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """An environment in which PyInstaller fails at once."""
    (tmp_path / "PyInstaller.py").write_text("raise SystemExit('the real reason')")
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize(
    "name",
    [
        "provider/plugin/kubelet.py",
        "packaging/freeze/launcher.c",
        "packaging/locks/binary.txt",
        "dist",
    ],
)
def test_a_changed_input_is_built_again(rebuilt: Path, broken: dict[str, str], name: str) -> None:
    path = rebuilt / (f"dist/{one_file().name}" if name == "dist" else name)
    before = path.read_bytes()
    path.write_bytes(before + b"\n")
    try:
        assert "Building" in rebuild(rebuilt, "--work", str(worked(rebuilt)), **broken).stdout
    finally:
        path.write_bytes(before)


def test_another_commit_is_built_again(rebuilt: Path, broken: dict[str, str]) -> None:
    work = str(worked(rebuilt))
    done = rebuild(rebuilt, "--work", work, **broken, PROVIDER_COMMIT="0" * 40)
    assert "Building" in done.stdout


def worked(place: Path) -> Path:
    """A copy of the build state in `place`, for a build that fails."""
    copy = place / "build" / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in ("state", "sources"):
        shutil.copy(place / "build" / "binary" / name, copy)
    return copy


def test_a_failed_build_ends_with_its_reason_and_no_traceback(
    rebuilt: Path, broken: dict[str, str]
) -> None:
    done = rebuild(rebuilt, "--work", str(rebuilt / "build" / "new"), **broken)
    assert done.returncode == 1
    assert "the real reason" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("The build failed: ")
    assert "Traceback" not in done.stderr


def test_a_binary_above_the_size_limit_is_refused(rebuilt: Path) -> None:
    assert rebuild(rebuilt, "--max-mb", "100").returncode == 0
    done = rebuild(rebuilt, "--max-mb", "1")
    assert done.returncode == 1
    assert "larger than 1.0 MB" in done.stderr
    assert "--max-mb 32" in (ROOT / "packaging" / "python" / "portable_binary.sh").read_text()


CERTIFICATES = f"{CONTENTS}/certifi/cacert.pem"
PROGRAM = "bin/program/oke-credential-provider"
# What another user or a broken disk can do to an unpacked program.
DAMAGE: dict[str, Callable[[Path], object]] = {
    "changed": lambda place: (place / CERTIFICATES).write_text("another"),
    "missing": lambda place: (place / PROGRAM).unlink(),
    "an additional file": lambda place: (place / CONTENTS / "json.py").write_text(""),
    "a link to the same bytes": lambda place: moved_and_linked(place / CERTIFICATES),
    "a writable file": lambda place: (place / EXECUTABLE).chmod(0o777),
    "a set-uid file": lambda place: (place / EXECUTABLE).chmod(0o4755),
    "a writable directory": lambda place: (place / CONTENTS).chmod(0o777),
    "a file of another user": lambda place: os.chown(place / PROGRAM, 1000, 0),
    "no manifest": lambda place: (place / MANIFEST).unlink(),
}


def moved_and_linked(path: Path) -> None:
    outside = path.parents[5] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


@pytest.mark.parametrize("damage", DAMAGE)
def test_finds_each_kind_of_damage(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "1.0"
    unpack(tree(), place)
    assert is_intact(place)
    DAMAGE[damage](place)
    assert not is_intact(place)


def test_does_not_unpack_to_an_existing_directory(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        unpack(tree(), tmp_path)


def test_does_not_unpack_a_damaged_copy(tmp_path: Path) -> None:
    unpack(tree(), tmp_path / "1.0")
    DAMAGE["changed"](tmp_path / "1.0")
    with pytest.raises(Damaged, match=r"cacert\.pem"):
        unpack(tmp_path / "1.0", tmp_path / "2.0")


def test_a_manifest_with_a_path_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(f"{'0' * 64} 644 ../../etc/passwd\n")
    with pytest.raises(Damaged, match="outside"):
        remove(tmp_path)
