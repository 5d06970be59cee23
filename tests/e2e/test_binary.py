"""What is in the binary, and that it is always the same."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PyInstaller.archive.readers import CArchiveReader

from provider import __version__
from provider.commands.install import layout as unpack
from provider.errors import CannotUnpack, Damaged
from tests.support.built import BARE, CONTENTS, REQUEST, ROOT, installed, one_file, tree

Form = Callable[[], Path]
FORMS = pytest.mark.parametrize("form", [one_file, installed], ids=["one file", "installed"])


def run(program: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    # Without a network: what reaches for one must show here.
    return subprocess.run(
        ["unshare", "--net", str(program), *arguments],
        input=REQUEST,
        env={**BARE, **environ},
        capture_output=True,
        timeout=60,
        check=False,
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
    assert said["libc_floor"].startswith("GLIBC_2.")


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


@FORMS
def test_reads_an_oci_config_file_by_the_sdk_as_the_source_does(form: Form, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"[DEFAULT]\nuser=nobody\nkey_file={config}\n")
    source = Path(sys.executable).parent / "oke-credential-provider"
    built, plain = (
        subprocess.run(
            ["unshare", "--net", program],
            input=REQUEST.replace(b"docker.io", b"fra.ocir.io"),
            env={**BARE, "OCIR_AUTH_METHOD": "USER_PRINCIPAL", "OCI_CONFIG_FILE": str(config)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        for program in (form(), source)
    )
    assert b"tenancy is missing" in built.stderr
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
    # In the words of each kind of licence.
    for words in ("Apache License", "Bootloader-exception", "PYTHON SOFTWARE FOUNDATION LICENSE"):
        assert words in text


def test_the_source_prints_the_licenses_of_the_installed_packages() -> None:
    said = subprocess.run(
        [Path(sys.executable).parent / "oke-credential-provider", "licenses"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "\ncryptography " in said
    assert "\npytest " not in said


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files in another folder, with a binary built there for the same commit."""
    place = tmp_path_factory.mktemp("another") / "folder"
    for name in ("provider", "packaging"):
        shutil.copytree(
            ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True
        )
    shutil.copy(ROOT / "LICENSE", place)
    done = rebuild(place)
    assert done.returncode == 0, done.stderr
    assert "Building" in done.stdout
    return place


def rebuild(place: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run build.py in a copy of the repository."""
    epoch = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    commit = json.loads(run(one_file(), "version", "--output", "json").stdout)["commit"]
    facts = {"PROVIDER_COMMIT": commit, "SOURCE_DATE_EPOCH": epoch}
    return subprocess.run(
        [sys.executable, place / "packaging" / "build.py", *options],
        env={**os.environ, **facts, **environ},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
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
    ["provider/plugin/kubelet.py", "packaging/launcher.c", "packaging/requirements.txt", "dist"],
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
    """A copy of what the build in `place` left, for a build that fails half-way."""
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
    """`make binary-portable` holds what is released to its bar; other Pythons are larger."""
    assert rebuild(rebuilt, "--max-mb", "100").returncode == 0
    done = rebuild(rebuilt, "--max-mb", "1")
    assert done.returncode == 1
    assert "larger than 1.0 MB" in done.stderr
    assert "--max-mb 32" in (ROOT / "packaging" / "portable_binary.sh").read_text()


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, as if it were the installed program."""
    monkeypatch.setattr(sys, "_MEIPASS", str(tree() / CONTENTS), raising=False)


@pytest.mark.usefixtures("frozen")
def test_unpacks_to_a_directory_that_works(tmp_path: Path) -> None:
    executable = unpack.unpack(tmp_path / "1.0")
    assert unpack.differences(tmp_path / "1.0") == []
    link = tmp_path / "credential-provider-oke"
    link.symlink_to(executable)
    assert run(link).returncode == 0


@pytest.mark.usefixtures("frozen")
def test_unpacks_for_every_user_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        unpack.unpack(tmp_path / "1.0")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "1.0").rglob("*")}
    assert modes == {0o755, 0o644}


@pytest.mark.usefixtures("frozen")
def test_does_not_unpack_to_an_existing_directory(tmp_path: Path) -> None:
    with pytest.raises(CannotUnpack, match="File exists"):
        unpack.unpack(tmp_path)


def test_the_source_has_nothing_to_unpack(tmp_path: Path) -> None:
    with pytest.raises(CannotUnpack, match="source"):
        unpack.unpack(tmp_path / "1.0")


@pytest.mark.usefixtures("frozen")
def test_finds_changed_files(tmp_path: Path) -> None:
    place = tmp_path / "1.0"
    unpack.unpack(place)
    (place / CONTENTS / "certifi/cacert.pem").write_text("another")
    (place / "bin/program/oke-credential-provider").unlink()
    (place / "bin/oke-credential-provider").chmod(0o777)
    found = unpack.differences(place)
    assert [line.rpartition("/1.0/")[2] for line in found] == [
        "bin/oke-credential-provider: mode is 777, not 755",
        f"{CONTENTS}/certifi/cacert.pem: changed",
        "bin/program/oke-credential-provider: No such file or directory",
    ]


@pytest.mark.usefixtures("frozen")
def test_finds_what_another_user_can_change(tmp_path: Path) -> None:
    place = tmp_path / "1.0"
    unpack.unpack(place)
    os.chown(place / "bin/program/oke-credential-provider", 1000, 0)
    (place / CONTENTS).chmod(0o777)
    (place / "bin/oke-credential-provider").chmod(0o4755)
    found = {line.rpartition("/1.0/")[2] for line in unpack.differences(place)}
    assert found == {
        "bin/program/oke-credential-provider: belongs to user 1000",
        f"{CONTENTS}: other users can write to it",
        "bin/oke-credential-provider: mode is 4755, not 755",
    }


def test_does_not_unpack_a_damaged_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_MEIPASS", str(tree() / CONTENTS), raising=False)
    unpack.unpack(tmp_path / "1.0")
    (tmp_path / "1.0" / CONTENTS / "certifi/cacert.pem").write_text("another")
    monkeypatch.setattr(sys, "_MEIPASS", str(tmp_path / "1.0" / CONTENTS))
    with pytest.raises(Damaged, match=r"cacert\.pem"):
        unpack.unpack(tmp_path / "2.0")


@pytest.mark.usefixtures("frozen")
def test_removes_what_it_unpacked_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "1.0"
    unpack.unpack(place)
    (place / "bin" / "notes").write_text("the administrator's")
    unpack.remove(place)
    assert [str(path.relative_to(place)) for path in sorted(place.rglob("*"))] == [
        "bin",
        "bin/notes",
    ]

    unpack.unpack(tmp_path / "2.0")
    unpack.remove(tmp_path / "2.0")
    assert not (tmp_path / "2.0").exists()


def test_a_manifest_with_a_path_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST").write_text(f"{'0' * 64} 644 ../../etc/passwd\n")
    with pytest.raises(Damaged, match="outside"):
        unpack.remove(tmp_path)
