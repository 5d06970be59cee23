"""packaging/release/sbom.py with the binary of `make binary`, and with changed binaries."""

import io
import json
import platform
import shutil
import subprocess
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from PyInstaller.archive.readers import CArchiveReader

REPOSITORY = Path(__file__).parents[2]
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
BINARY = REPOSITORY / "dist" / f"oke-credential-provider-for-ocir-linux-{ARCHITECTURE}"
PROGRAM = "bin/program/oke-credential-provider"
# The environment from which the binary was built.
PYTHON = REPOSITORY / "build" / "portable" / "bin" / "python"


def sbom(binary: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(PYTHON),
        "-B",  # tests run as root, and the interpreter belongs to the user
        str(REPOSITORY / "packaging" / "release" / "sbom.py"),
        str(binary),
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def text() -> str:
    assert BINARY.exists(), "make binary builds it"
    done = sbom(BINARY)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def content(text: str) -> dict[str, Any]:
    parsed = json.loads(text)
    assert isinstance(parsed, dict)
    return parsed


def places(component: dict[str, Any]) -> set[str]:
    return {each["location"] for each in component["evidence"]["occurrences"]}


def component(content: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [each for each in content["components"] if each["name"] == name]
    assert isinstance(found, dict)
    return found


def with_file(binary: Path, target: Path, name: str, data: bytes) -> Path:
    """A copy of the binary with one more file in its archive."""
    shutil.copy(binary, target)
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr(name, data)
    return target


def test_it_is_valid_cyclonedx(text: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_every_file_and_every_module_of_the_bundle_has_an_owner(
    content: dict[str, Any], tmp_path: Path
) -> None:
    listed: set[str] = set()
    for each in [content["metadata"]["component"], *content["components"]]:
        listed |= places(each)
    with zipfile.ZipFile(BINARY) as archive:
        assert set(archive.namelist()) <= listed
        archive.extract(PROGRAM, tmp_path)
    frozen = CArchiveReader(str(tmp_path / PROGRAM))
    assert {f"{PROGRAM}/{name}" for name in frozen.toc if name != "PYZ.pyz"} <= listed
    modules = frozen.open_embedded_archive("PYZ.pyz").toc
    assert len(modules) > 300
    assert {f"{PROGRAM}/PYZ.pyz/{name}" for name in modules} <= listed


def test_it_names_the_bytes_it_speaks_of(content: dict[str, Any]) -> None:
    [digest] = content["metadata"]["component"]["hashes"]
    assert digest == {"alg": "SHA-256", "content": sha256(BINARY.read_bytes()).hexdigest()}


@pytest.mark.parametrize("name", ["python", "zlib", "musl", "oci", "cryptography", "pyinstaller"])
def test_python_its_packages_and_native_libraries_have_versions(
    content: dict[str, Any], name: str
) -> None:
    assert component(content, name)["version"]


def test_each_openssl_is_found_in_the_file_that_it_is_in(content: dict[str, Any]) -> None:
    copies = [
        each for each in content["components"] if each["bom-ref"].startswith("pkg:generic/openssl")
    ]
    rust = "bin/program/_internal/cryptography/hazmat/bindings/_rust.abi3.so"
    [in_cryptography] = [each for each in copies if rust in places(each)]
    others = [each for each in copies if each is not in_cryptography]
    assert others, "Python's own ssl module has one too"
    assert all(each["version"] for each in copies)


def test_what_is_linked_into_a_wheel_hangs_on_its_package(content: dict[str, Any]) -> None:
    edges = {each["ref"]: each["dependsOn"] for each in content["dependencies"]}
    wheel = component(content, "cryptography")["bom-ref"]
    crates = [each for each in content["components"] if each["bom-ref"].startswith("pkg:cargo/")]
    assert "pyo3" in {each["name"] for each in crates}
    assert {each["bom-ref"] for each in crates} <= set(edges[wheel])


def test_copies_that_the_sdk_carries_are_told_apart(content: dict[str, Any]) -> None:
    found = {each["bom-ref"] for each in content["components"]}
    assert "pkg:pypi/requests@2.27.1#oci" in found


def test_every_component_but_a_copy_has_a_licence(content: dict[str, Any]) -> None:
    bare = [each["bom-ref"] for each in content["components"] if not each.get("licenses")]
    assert [each for each in bare if not each.endswith("#oci")] == []


def test_the_same_binary_gives_the_same_bytes(text: str) -> None:
    assert sbom(BINARY).stdout == text


def test_the_exact_debian_sources_are_named(content: dict[str, Any], tmp_path: Path) -> None:
    """With a versions.txt as portable_python.sh writes it. Only parts of the interpreter have a source."""
    own = {
        "python": component(content, "python")["version"],
        "zlib": component(content, "zlib")["version"],
    }
    exact = {"python": f"{own['python']}-2+deb13u4", "zlib": f"1:1.3.dfsg+really{own['zlib']}-1+b1"}
    versions = tmp_path / "versions.txt"
    versions.write_text(
        f"python3.13 {exact['python']}\nzlib {exact['zlib']}\nlibffi 3.4.8-2\nziglang 0.17.1\n"
    )
    done = sbom(BINARY, "--versions", str(versions))
    assert done.returncode == 0, done.stderr
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(done.stdout) is None
    components = json.loads(done.stdout)["components"]
    ancestors = {
        each["name"]: each["pedigree"]["ancestors"] for each in components if "pedigree" in each
    }
    assert ancestors.keys() == {"python", "zlib"}
    [python] = ancestors["python"]
    assert (python["name"], python["version"]) == ("python3.13", exact["python"])
    assert python["purl"] == f"pkg:deb/debian/python3.13@{own['python']}-2%2Bdeb13u4?arch=source"
    assert ancestors["zlib"][0]["version"] == exact["zlib"]


@pytest.mark.parametrize("line", ["python3.13 3.9.99-1", "zlib 1:1.2.1-1"])
def test_sources_of_another_version_are_refused(line: str, tmp_path: Path) -> None:
    versions = tmp_path / "versions.txt"
    versions.write_text(f"{line}\n")
    done = sbom(BINARY, "--versions", str(versions))
    assert done.returncode == 1
    assert f"{line} was built" in done.stderr


@pytest.mark.parametrize(
    "name",
    ["bin/program/_internal/libmystery.so.1", "bin/extra", "bin/program/_internal/nobody/data.bin"],
)
def test_a_file_that_nobody_owns_is_an_error(name: str, tmp_path: Path) -> None:
    done = sbom(with_file(BINARY, tmp_path / "binary", name, b"?"))
    assert done.returncode == 1
    assert f"{name}: owned by nobody" in done.stderr


def test_a_module_that_nobody_owns_is_an_error(tmp_path: Path) -> None:
    library = "bin/program/_internal/base_library.zip"
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("stranger.pyc", b"")
    with pytest.warns(UserWarning, match="Duplicate name"):
        changed = with_file(BINARY, tmp_path / "binary", library, inner.getvalue())
    done = sbom(changed)
    assert done.returncode == 1
    assert "stranger: owned by nobody" in done.stderr


def test_a_binary_of_another_environment_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script"
    facts = {"python": "3.11.0", "oci": "1.0", "cryptography": "1.0"}
    script.write_text(f"#!/bin/sh\necho '{json.dumps(facts)}'\nexit\n")
    script.chmod(0o755)
    done = sbom(with_file(script, tmp_path / "binary", "MANIFEST", b""))
    assert done.returncode == 1
    assert "the binary has" in done.stderr
