"""What is in the binary, and that it is always the same."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PyInstaller.archive.readers import CArchiveReader

from provider import __version__, unpack
from provider.errors import CannotUnpack, Damaged
from tests.built import BARE, CONTENTS, REQUEST, ROOT, installed, one_file, tree

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
def test_says_what_it_was_built_from(form: Form) -> None:
    said = json.loads(run(form(), "version", "--output", "json").stdout)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert said["version"] == __version__
    assert said["frozen"] is True
    assert said["commit"].removesuffix("+changes") == commit
    assert said["libc_floor"].startswith("GLIBC_2.")


def test_is_at_most_32_mb() -> None:
    assert one_file().stat().st_size <= 32_000_000


def test_holds_nothing_that_slows_the_start_or_belongs_to_the_host() -> None:
    archive = CArchiveReader(str(tree() / "bin/program/oke-credential-provider"))
    modules = archive.open_embedded_archive("PYZ.pyz").toc
    assert not [name for name in archive.toc if name.startswith("pyi_rth_")]
    assert not {"oci.core", "oci.object_storage", "pkcs11", "ctypes", "unittest"} & set(modules)
    names = zipfile.ZipFile(one_file()).namelist()
    assert not [name for name in names if "libgcc_s" in name or "libstdc++" in name]


def test_holds_the_signers_of_the_sdk() -> None:
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
def test_tells_the_licences_of_all_that_is_in_it(form: Form) -> None:
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


def test_the_source_tells_the_licences_of_what_is_installed() -> None:
    said = subprocess.run(
        [Path(sys.executable).parent / "oke-credential-provider", "licenses"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "\ncryptography " in said
    assert "\npytest " not in said


def test_the_same_commit_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for place in (tmp_path / "a", tmp_path / "another" / "folder"):
        subprocess.run(["git", "clone", "--quiet", ROOT, place], check=True)
        said = subprocess.run(
            [sys.executable, place / "packaging/build.py"],
            check=True,
            capture_output=True,
            text=True,
            timeout=600,
        ).stdout
        binary = Path(said.split("  ")[0].splitlines()[-1])
        assert binary.is_relative_to(place)
        digests.add(hashlib.sha256(binary.read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, as if it were the installed program."""
    monkeypatch.setattr(sys, "_MEIPASS", str(tree() / CONTENTS), raising=False)


@pytest.mark.usefixtures("frozen")
def test_unpacks_into_a_folder_that_works(tmp_path: Path) -> None:
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
def test_does_not_unpack_over_something(tmp_path: Path) -> None:
    with pytest.raises(CannotUnpack, match="File exists"):
        unpack.unpack(tmp_path)


def test_the_source_has_nothing_to_unpack(tmp_path: Path) -> None:
    with pytest.raises(CannotUnpack, match="source"):
        unpack.unpack(tmp_path / "1.0")


@pytest.mark.usefixtures("frozen")
def test_finds_what_was_changed_since(tmp_path: Path) -> None:
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


def test_does_not_lay_out_a_damaged_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_manifest_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST").write_text(f"{'0' * 64} 644 ../../etc/passwd\n")
    with pytest.raises(Damaged, match="outside"):
        unpack.remove(tmp_path)
