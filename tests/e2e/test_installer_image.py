"""The installer image: what it holds, how it is built, and process 1 of its containers."""

import json
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from provider import __version__
from tests.e2e.test_daemonset import INSTALL, INSTALLED, POD
from tests.support import built
from tests.support.image import Image, build, image, with_probe
from tests.support.node import EXAMPLES

NAME = "oke-credential-provider"
SOURCE = "https://github.com/oracle-devrel/oke-credential-provider-for-ocir"
CONTAINER = f"image-{os.getpid()}"


def git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=built.ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_it_holds_the_binary_and_one_static_program(tmp_path: Path) -> None:
    image().unpack(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["enter-host", NAME]
    assert (tmp_path / NAME).read_bytes() == built.one_file().read_bytes()
    headers = subprocess.run(
        ["readelf", "--program-headers", tmp_path / "enter-host"], capture_output=True, check=True
    )
    assert b"INTERP" not in headers.stdout


def test_its_files_belong_to_root_and_only_root_can_change_them() -> None:
    (layer,) = image().manifest()["layers"]
    with tarfile.open(image().blob(layer["digest"])) as archive:
        files = {f.name: (f.isreg(), f.uid, f.gid, f.mode & 0o7777) for f in archive}
    assert files == dict.fromkeys(("enter-host", NAME), (True, 0, 0, 0o755))


def test_two_builds_have_the_same_digest_and_the_time_of_the_commit(tmp_path: Path) -> None:
    """Also with another umask."""
    before = os.umask(0o077)
    try:
        again = build(built.one_file().parent, tmp_path / "again")
    finally:
        os.umask(before)
    assert again.digest == image().digest
    config = again.json(again.manifest()["config"]["digest"])
    created = datetime.fromisoformat(config["created"]).timestamp()
    assert created == int(git("log", "-1", "--format=%ct"))


def test_the_config_is_that_of_the_image_spec() -> None:
    config = image().config()
    labels = {k.removeprefix("org.opencontainers.image."): v for k, v in config["Labels"].items()}
    assert labels.pop("description")
    bill = f"{built.one_file().name}.cdx.json"
    assert labels.pop(f"{NAME}.sbom") == f"{SOURCE}/releases/download/v{__version__}/{bill}"
    assert labels == {
        "title": NAME,
        "version": __version__,
        "revision": git("rev-parse", "HEAD"),
        "source": SOURCE,
        "licenses": "UPL-1.0",
    }
    assert config["WorkingDir"] == "/"
    assert config.keys() == {"Entrypoint", "User", "Labels", "WorkingDir"}
    assert config["Entrypoint"] == ["/enter-host"]
    assert config["User"] == "65534:65534"


def test_a_copy_by_the_readmes_command_has_the_same_digest(tmp_path: Path) -> None:
    readme = (EXAMPLES / "README.md").read_text()
    (command,) = re.findall(r"^skopeo copy .*$", readme, re.MULTILINE)
    published = f"docker://ghcr.io/oracle-devrel/{SOURCE.rpartition('/')[2]}:$VERSION"
    assert published in command
    command = command.replace(published, f"oci:{image().layout}:$VERSION").replace(
        "docker:", "oci:"
    )
    assert command.count("oci://$MIRROR:$VERSION") == 1
    command = command.replace("oci://$MIRROR", "oci:$MIRROR")
    env = {**os.environ, "VERSION": __version__, "MIRROR": str(tmp_path / "copy")}
    subprocess.run(["bash", "-euc", command], env=env, check=True, stdout=subprocess.DEVNULL)
    assert Image(tmp_path / "copy").digest == image().digest


def test_without_a_binary_there_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        build(tmp_path, tmp_path / "layout")
    assert not (tmp_path / "layout").exists()


# ---- process 1 -----------------------------------------------------------------------------------


@contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The container of a bundle, while it runs."""
    command = ["runc", "run", "--bundle", str(folder), CONTAINER]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            while state().get("status") != "running":
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.02)
            yield process
        finally:
            runc("kill", CONTAINER, "KILL")


def runc(*arguments: str) -> str:
    return subprocess.run(["runc", *arguments], capture_output=True, text=True, check=False).stdout


def state() -> dict[str, Any]:
    found = json.loads(runc("state", CONTAINER) or "{}")
    assert isinstance(found, dict)
    return found


def terminate(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Send SIGTERM to the container's process 1. Returns the exit code and the seconds it took."""
    began = time.monotonic()
    runc("kill", CONTAINER, "TERM")
    return process.wait(timeout=30), time.monotonic() - began


def test_wait_waits_as_nobody_and_ends_at_once(tmp_path: Path) -> None:
    """With the manifest's permissions: no capability, no file of the host."""
    with started(image().bundle(tmp_path, POD, INSTALLED, {})) as process:
        pid = state()["pid"]
        status = Path(f"/proc/{pid}/status").read_text()
        facts = dict(line.split(":", 1) for line in status.splitlines())
        assert facts["Uid"].split() == ["65534"] * 4
        assert {facts[f"Cap{each}"].strip() for each in ("Prm", "Eff", "Bnd")} == {"0" * 16}
        assert (facts["NoNewPrivs"].strip(), facts["Seccomp"].strip()) == ("1", "2")
        mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        assert not [line for line in mounts if "/host" in line.split()[4]]
        code, seconds = terminate(process)
    assert code == 0
    assert seconds < 2


def paused(folder: Path, *args: str) -> Path:
    """A bundle of the init container with the probe, and an empty host."""
    (folder / "host" / "tmp").mkdir(parents=True)
    sources = {"host": str(folder / "host"), "tmp": str(folder / "host" / "tmp")}
    return with_probe(image().bundle(folder, POD, INSTALL, sources), *args)


def test_sigterm_reaches_the_program(tmp_path: Path) -> None:
    with started(paused(tmp_path, "pause")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"pauses\n"
        code, seconds = terminate(process)
    assert code == 128 + 15
    assert seconds < 2


@pytest.mark.parametrize("code", [76, 77])
def test_after_a_rollback_the_container_waits_so_that_the_kubelet_does_not_start_it_again(
    tmp_path: Path, code: int
) -> None:
    with started(paused(tmp_path, "exit", str(code))) as process:
        assert process.stdout is not None
        assert b"To try again, delete the pod" in process.stdout.readline()
        time.sleep(0.5)
        assert process.poll() is None
        assert terminate(process)[0] == code
