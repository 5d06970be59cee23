"""Calls at the same time, and one after the other: who makes an exchange, and who gets what.

The stand-in's counters are the witness of how often OCI was asked.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.harness import Cloud
from tests.cloud.model import (
    ApiKey,
    Count,
    DynamicGroup,
    Endpoint,
    Fault,
    Iam,
    Imds,
    Policy,
    Session,
)
from tests.conftest import Program
from tests.kubelet import Credentials, read_response, request

pytestmark = pytest.mark.every_form

STORE = "/run/oke-credential-provider"
IMAGE = "fra.ocir.io/ns/repo"


@dataclass(frozen=True, slots=True)
class Ended:
    returncode: int
    stdout: bytes
    stderr: str

    @property
    def credentials(self) -> Credentials:
        assert self.returncode == 0, self.stderr
        return read_response(self.stdout)


def start(
    cloud: Cloud, program: Program, image: str, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    process = cloud.ns.popen(
        [*program.argv],
        env={**program.env, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(request(image))
    process.stdin.close()
    process.stdin = None
    return process


def ended(processes: Sequence[subprocess.Popen[bytes]], seconds: float = 60) -> list[Ended]:
    end = time.monotonic() + seconds
    results = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=max(0.1, end - time.monotonic()))
        results.append(Ended(process.returncode, stdout, stderr.decode()))
    return results


def storm(cloud: Cloud, program: Program, count: int, **env: str) -> list[Ended]:
    images = [f"fra.ocir.io/ns/many/{number}" for number in range(count)]
    return ended([start(cloud, program, image, env) for image in images])


def call(cloud: Cloud, program: Program, image: str = IMAGE, **env: str) -> Credentials:
    return read_response(program.run(cloud, stdin=request(image), env=env).check().stdout)


def entries(cloud: Cloud) -> list[Path]:
    """The tokens in the store."""
    kept = cloud.ns.path(STORE).iterdir()
    return [path for path in kept if path.suffix not in (".lock", ".failure")]


def edit(cloud: Cloud, **values: Any) -> None:
    (entry,) = entries(cloud)
    entry.write_text(json.dumps({**json.loads(entry.read_text()), **values}))


def boot_clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wait_for(cloud: Cloud, endpoint: Endpoint) -> None:
    end = time.monotonic() + 20
    while not cloud.control.report().endpoints.get(endpoint, Count()).peak:
        assert time.monotonic() < end, f"{endpoint} was not asked"
        time.sleep(0.01)


# --- storms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [30, 100])
def test_a_storm_makes_one_exchange_and_everybody_gets_credentials(
    cloud: Cloud, program: Program, count: int
) -> None:
    cloud.control.imds(Imds(max_under_way=8))
    cloud.control.latency(20)
    results = storm(cloud, program, count)
    assert len({result.credentials.password for result in results}) == 1
    report = cloud.control.report()
    assert report.of_group("imds") == 4
    assert report.count("federation") == report.count("token") == 1
    # One repository was proven, the others are asked about again after two minutes.
    durations = sorted(result.credentials.cache_seconds for result in results)
    assert durations[:-1] == [120] * (count - 1)
    assert durations[-1] > 3000


def test_registries_are_apart(cloud: Cloud, program: Program) -> None:
    images = [IMAGE, "eu-frankfurt-1.ocir.io/ns/repo"]
    results = ended([start(cloud, program, image) for image in images])
    assert len({result.credentials.password for result in results}) == 2
    assert cloud.control.report().count("token") == 2


def test_imds_that_throttles_gets_its_pause(cloud: Cloud, program: Program) -> None:
    cloud.control.imds(Imds(max_under_way=3))
    cloud.control.latency(50)
    assert call(cloud, program).password
    report = cloud.control.report()
    assert any("429" in count.statuses for count in report.endpoints.values())
    assert report.count("federation") == 1


def test_a_storm_shares_one_failure(cloud: Cloud, program: Program) -> None:
    cloud.control.latency(100)
    cloud.control.fault("federation", Fault("status", status=401))
    results = storm(cloud, program, 30)
    assert {result.returncode for result in results} == {31}
    assert {result.stdout for result in results} == {b""}
    assert all("federation-refused" in result.stderr for result in results)
    assert cloud.control.report().count("federation") == 1


# --- a token that is there ---------------------------------------------------------------------


def test_a_warm_call_asks_nobody(cloud: Cloud, program: Program) -> None:
    first = call(cloud, program)
    cloud.control.reset_counters()
    again = call(cloud, program)
    assert again.password == first.password
    assert again.cache_seconds == pytest.approx(first.cache_seconds, abs=5)
    assert cloud.control.report().connections == {}
    assert cloud.ns.log()[-1].fields["OKE_TOKEN"] == "shared"


def test_sharing_can_be_switched_off(cloud: Cloud, program: Program) -> None:
    first = call(cloud, program, TOKEN_CACHE="disabled")
    second = call(cloud, program, TOKEN_CACHE="disabled")
    assert first.password != second.password
    assert not cloud.ns.path(STORE).exists()


def test_another_repository_is_checked_once_by_itself(cloud: Cloud, program: Program) -> None:
    first = call(cloud, program)
    edit(cloud, made=boot_clock() - 60)
    cloud.control.reset_counters()
    for _ in range(2):
        other = call(cloud, program, "fra.ocir.io/ns/app")
        assert other.password == first.password
        assert other.cache_seconds == pytest.approx(3240, abs=5)
    report = cloud.control.report()
    assert report.count("manifest") == 1
    assert report.count("token") == 0


def test_a_shared_token_that_one_repository_denies_is_replaced(
    cloud: Cloud, program: Program
) -> None:
    first = call(cloud, program)
    edit(cloud, made=boot_clock() - 60)
    denied = call(cloud, program, "fra.ocir.io/other/secret")
    assert denied.password != first.password
    assert denied.cache_seconds == 120


def test_a_token_near_its_end_is_shared_no_more(cloud: Cloud, program: Program) -> None:
    first = call(cloud, program)
    edit(cloud, made=boot_clock() - 3200)
    assert call(cloud, program).password == first.password
    edit(cloud, made=boot_clock() - 3250)
    assert call(cloud, program).password != first.password


def test_a_denied_token_is_shared_for_seconds_only(cloud: Cloud, program: Program) -> None:
    cloud.control.iam(Iam(policies=()))
    first = call(cloud, program)
    assert call(cloud, program).password == first.password
    edit(cloud, made=boot_clock() - 11)
    cloud.control.iam(Iam(policies=(Policy(),)))
    later = call(cloud, program)
    assert later.password != first.password
    assert later.cache_seconds > 3000


def test_a_token_that_only_public_images_tried_is_not_kept_for_an_hour(
    cloud: Cloud, program: Program
) -> None:
    public = "fra.ocir.io/axoxdievda5j/oke-public/pause"
    cloud.control.iam(Iam(dynamic_groups=(DynamicGroup(since=time.time() + 3600),)))
    first = call(cloud, program, public)
    assert call(cloud, program, public).password == first.password
    cloud.control.iam(Iam())
    edit(cloud, made=boot_clock() - 121)
    assert call(cloud, program, public).password != first.password


# --- failures ----------------------------------------------------------------------------------


def test_a_failure_is_remembered_for_seconds_and_a_repair_shows(
    cloud: Cloud, program: Program
) -> None:
    cloud.control.fault("federation", Fault("status", status=401))
    for _ in range(5):
        assert program.run(cloud, stdin=request(IMAGE)).returncode == 31
    assert cloud.control.report().count("federation") == 1
    cloud.control.clear_faults()
    (failure,) = cloud.ns.path(STORE).glob("*.failure")
    content = json.loads(failure.read_text())
    failure.write_text(json.dumps({**content, "at": content["at"] - 6}))
    assert call(cloud, program).password


def test_a_remembered_failure_never_hides_a_token_that_is_there(
    cloud: Cloud, program: Program
) -> None:
    call(cloud, program)
    (entry,) = entries(cloud)
    owner = {k: v for k, v in json.loads(entry.read_text()).items() if k in ("host", "identity")}
    failure = {**owner, "code": "deadline", "message": "m", "hint": "h", "at": boot_clock()}
    path = entry.with_name(entry.name + ".failure")
    path.write_text(json.dumps(failure))
    path.chmod(0o600)
    assert call(cloud, program).password


# --- the winner dies ---------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["imds.region", "imds.key", "federation", "token", "manifest"])
def test_when_the_winner_is_killed_a_waiter_takes_over(
    cloud: Cloud, program: Program, phase: Endpoint
) -> None:
    cloud.control.fault(phase, Fault("latency", delay_ms=8000, times=1))
    winner = start(cloud, program, IMAGE)
    wait_for(cloud, phase)
    waiters = [start(cloud, program, f"fra.ocir.io/ns/many/{n}") for n in range(5)]
    time.sleep(0.3)
    os.kill(winner.pid, signal.SIGKILL)
    results = ended(waiters)
    winner.communicate(timeout=10)
    assert len({result.credentials.password for result in results}) == 1
    assert cloud.control.report().count("federation") <= 2


def test_waiting_draws_from_the_deadline(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("federation", Fault("latency", delay_ms=8000))
    winner = start(cloud, program, IMAGE, {"DEADLINE_SECONDS": "20"})
    wait_for(cloud, "federation")
    began = time.monotonic()
    (waiter,) = ended([start(cloud, program, IMAGE, {"DEADLINE_SECONDS": "1.5"})])
    assert 1.0 < time.monotonic() - began < 5
    assert waiter.returncode == 60
    assert "waiting for the exchange of another call" in waiter.stderr
    winner.kill()
    winner.communicate(timeout=10)


# --- a hostile store ---------------------------------------------------------------------------


def test_the_store_is_private(cloud: Cloud, program: Program) -> None:
    call(cloud, program)
    folder = cloud.ns.path(STORE)
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def spoil(cloud: Cloud, how: str) -> None:
    folder = cloud.ns.path(STORE)
    (entry,) = entries(cloud)
    text = entry.read_text()
    match how:
        case "folder open to others":
            folder.chmod(0o755)
        case "folder of another user":
            os.chown(folder, 65534, 65534)
        case "folder is a link":
            elsewhere = folder.rename(folder.with_name(f"elsewhere-{time.monotonic_ns()}"))
            folder.symlink_to(elsewhere.name)
        case "folder is a file":
            folder.rename(folder.with_name(f"elsewhere-{time.monotonic_ns()}"))
            folder.write_text("")
        case "entry open to others":
            entry.chmod(0o644)
        case "entry of another user":
            os.chown(entry, 65534, 65534)
        case "entry is a link":
            entry.rename(folder / "moved")
            entry.symlink_to("moved")
        case "entry is a pipe":
            entry.unlink()
            os.mkfifo(entry, 0o600)
        case "entry is a folder":
            entry.unlink()
            entry.mkdir(0o700)
        case "entry is cut":
            entry.write_text(text[:50])
        case "entry is huge":
            entry.write_text(text + " " * (1 << 20))
        case "entry is a list":
            entry.write_text("[]")
        case "entry of another host":
            edit(cloud, host="iad.ocir.io")
        case "entry of another identity":
            edit(cloud, identity="USER_PRINCIPAL")
        case "token from the future":
            edit(cloud, made=boot_clock() + 60)
        case "token of no number":
            edit(cloud, made="yesterday")
        case "token is not a number":
            edit(cloud, made=float("nan"))
        case "token is infinite":
            edit(cloud, life=float("inf"))
        case "token is empty":
            edit(cloud, token="")
        case "token has a line break":
            edit(cloud, token="a\nb")
        case "checks are nonsense":
            edit(cloud, checks=[1])


@pytest.mark.parametrize(
    "how",
    [
        "folder open to others",
        "folder of another user",
        "folder is a link",
        "folder is a file",
        "entry open to others",
        "entry of another user",
        "entry is a link",
        "entry is a pipe",
        "entry is a folder",
        "entry is cut",
        "entry is huge",
        "entry is a list",
        "entry of another host",
        "entry of another identity",
        "token from the future",
        "token of no number",
        "token is not a number",
        "token is infinite",
        "token is empty",
        "token has a line break",
        "checks are nonsense",
    ],
)
def test_an_odd_store_is_a_miss_and_never_a_failure(
    cloud: Cloud, program: Program, how: str
) -> None:
    first = call(cloud, program)
    spoil(cloud, how)
    assert call(cloud, program).password != first.password
    shared = [e for e in cloud.ns.log() if "tokens are not shared" in e.text]
    assert bool(shared) == (
        not how.startswith("token")
        and "another host" not in how
        and "identity" not in how
        and "checks" not in how
    )


def test_without_tmpfs_there_is_no_store(program: Program, tmp_path: Path) -> None:
    with Cloud() as cloud:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "--bind", str(disk), "/run"]
        cloud.ns.run(mount).check()
        first = call(cloud, program)
        assert call(cloud, program).password != first.password
        leaked = [path for path in disk.rglob("*") if path.is_file() and path.stat().st_size]
        assert leaked == []


# --- identities --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Files:
    """An OCI config file with two profiles, and the files that they name: KEY and SESSION."""

    folder: Path

    def write(self, kept: ApiKey | Session, **more: str) -> dict[str, str]:
        """Write the files for one user. Returns the settings, which are always the same."""
        (self.folder / "key").write_text(kept.private_pem)
        values = {"tenancy": kept.tenancy, "region": "eu-frankfurt-1"}
        values |= {"key_file": str(self.folder / "key"), **more}
        if isinstance(kept, Session):
            (self.folder / "session").write_text(kept.token)
            values["security_token_file"] = str(self.folder / "session")
        else:
            values |= {"user": kept.user, "fingerprint": kept.fingerprint}
            if kept.passphrase:
                values = {"pass_phrase": kept.passphrase, **values}
        lines = [f"{name}={value}" for name, value in values.items()]
        config = self.folder / "config"
        config.write_text("\n".join(["[OTHER]", "", "[WORK]", *lines, ""]))
        return {
            "OCIR_AUTH_METHOD": "USER_PRINCIPAL",
            "OCI_CONFIG_FILE": str(config),
            "OCI_CLI_PROFILE": "WORK",
        }


def users(*names: str) -> tuple[str, ...]:
    return tuple(f"ocid1.user.oc1..aaaaaaaastandin{name}" for name in names)


def whose(password: str) -> str:
    """The OCID in a token of the stand-in's."""
    payload = password.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"])


def test_what_is_proved_decides_who_shares_a_token(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    node = call(cloud, program).password
    first, second = (cloud.control.api_key(user=user) for user in users("first", "second"))
    settings = files.write(first)
    mine = call(cloud, program, **settings).password
    assert whose(mine) == first.user
    assert whose(call(cloud, program, **files.write(second)).password) == second.user
    # The same user again, with what does not matter changed: the token is still there.
    assert call(cloud, program, **files.write(first)).password == mine
    config = tmp_path / "config"
    config.write_text(f"# a comment\n{config.read_text()}")
    assert call(cloud, program, **settings).password == mine
    assert call(cloud, program).password == node


def test_another_session_in_the_same_file_is_another_identity(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    first, second = (cloud.control.session(user=user) for user in users("first", "second"))
    assert whose(call(cloud, program, **files.write(first)).password) == first.user
    assert whose(call(cloud, program, **files.write(second)).password) == second.user


def test_a_link_that_leads_to_another_session_is_another_identity(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    sessions = [cloud.control.session(user=user) for user in users("first", "second")]
    current = tmp_path / "current"
    for number, session in enumerate(sessions):
        (tmp_path / f"{number}").mkdir()
        settings = Files(tmp_path / f"{number}").write(session)
    config = Path(settings["OCI_CONFIG_FILE"])
    config.write_text(config.read_text().replace(str(config.parent), str(current)))
    for number in (0, 1, 0):
        current.unlink(missing_ok=True)
        current.symlink_to(f"{number}")
        assert whose(call(cloud, program, **settings).password) == sessions[number].user
    assert cloud.control.report().count("token") == 2


@pytest.mark.parametrize(("spoiled", "code"), [("key", 41), ("session", 41), ("pass phrase", 12)])
def test_a_shared_token_is_only_for_who_holds_every_part_of_its_proof(
    cloud: Cloud, program: Program, tmp_path: Path, spoiled: str, code: int
) -> None:
    files = Files(tmp_path)
    kept: ApiKey | Session
    match spoiled:
        case "pass phrase":
            kept = cloud.control.api_key(passphrase="a-long-secret-phrase")
        case _:
            kept = cloud.control.session()
    settings = files.write(kept)
    assert call(cloud, program, **settings).password
    other = cloud.control.session()
    match spoiled:
        case "key":
            (tmp_path / "key").write_text(other.private_pem)
        case "session":
            (tmp_path / "session").write_text(other.token)
        case _:
            config = tmp_path / "config"
            config.write_text(config.read_text().replace("a-long-secret", "another-secret"))
    result = program.run(cloud, stdin=request(IMAGE), env=settings)
    assert (result.returncode, result.stdout) == (code, b"")


@pytest.mark.parametrize("spoiled", ["", "RPST", "PRIVATE_PEM"])
def test_a_resource_principal_is_known_by_what_its_files_hold(
    cloud: Cloud, program: Program, tmp_path: Path, spoiled: str
) -> None:
    env = {"OCIR_AUTH_METHOD": "RESOURCE_PRINCIPAL", "OCI_RESOURCE_PRINCIPAL_VERSION": "2.2"}
    first, second = cloud.control.resource(), cloud.control.resource()
    for name, text in (("RPST", first.token), ("PRIVATE_PEM", first.private_pem)):
        env[f"OCI_RESOURCE_PRINCIPAL_{name}"] = str(tmp_path / name)
        (tmp_path / name).write_text(text)
    password = call(cloud, program, **env).password
    for name, text in (("RPST", second.token), ("PRIVATE_PEM", second.private_pem)):
        if spoiled != name:
            (tmp_path / name).write_text(text)
    if spoiled:
        # One half of each: nobody's proof.
        assert program.run(cloud, stdin=request(IMAGE), env=env).returncode == 41
    else:
        assert call(cloud, program, **env).password != password


def test_what_is_signed_is_what_the_token_is_shared_under(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    first, second = (cloud.control.session(user=user) for user in users("first", "second"))
    settings = files.write(first)
    cloud.control.fault("token", Fault("latency", delay_ms=20_000, times=1))
    winner = start(cloud, program, IMAGE, settings)
    wait_for(cloud, "token")
    waiter = start(cloud, program, IMAGE, settings)
    time.sleep(2)  # it has read the files, and waits for the winner
    files.write(second)
    os.kill(winner.pid, signal.SIGKILL)
    winner.communicate(timeout=10)
    (result,) = ended([waiter])
    assert whose(result.credentials.password) == first.user
    assert whose(call(cloud, program, **settings).password) == second.user


def test_the_store_tells_nothing_of_what_proves_an_identity(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    call(cloud, program, **files.write(cloud.control.api_key(passphrase="a-long-secret-phrase")))
    call(cloud, program, **files.write(cloud.control.session()))
    resource = cloud.control.resource()
    inline = {"RPST": resource.token, "PRIVATE_PEM": resource.private_pem, "VERSION": "2.2"}
    env = {f"OCI_RESOURCE_PRINCIPAL_{name}": text for name, text in inline.items()}
    call(cloud, program, **env, OCIR_AUTH_METHOD="RESOURCE_PRINCIPAL")
    kept = [path.name for path in cloud.ns.path(STORE).iterdir()]
    kept += [
        path.read_text().replace(json.loads(path.read_text())["token"], "")
        for path in entries(cloud)
    ]
    needles = [needle for secret in cloud.control.secrets() for needle in secret.needles()]
    assert "a-long-secret-phrase" in needles
    assert len(entries(cloud)) == 3
    assert not [needle for needle in needles for text in kept if needle in text]


def test_a_warm_call_of_a_user_principal_does_not_load_the_sdk(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    env = {**Files(tmp_path).write(cloud.control.session()), "PYTHONPROFILEIMPORTTIME": "1"}
    cold, warm = (program.run(cloud, stdin=request(IMAGE), env=env).check() for _ in range(2))
    if program.name == "source":  # the frozen forms heed no variables of Python's
        assert re.search(rb"\| +oci\n", cold.stderr)
        assert b"configparser" in warm.stderr
    for name in (b"oci", b"cryptography", b"ssl"):
        assert not re.search(rb"\| +" + name + rb"\n", warm.stderr)


def test_two_versions_of_the_store_live_side_by_side(cloud: Cloud, program: Program) -> None:
    first = call(cloud, program)
    (entry,) = entries(cloud)
    newer = entry.with_name(entry.name.replace("v1-", "v2-", 1))
    newer.write_text("something else entirely")
    newer.chmod(0o600)
    assert call(cloud, program).password == first.password
    assert newer.exists()


def test_the_store_stays_small(cloud: Cloud, program: Program) -> None:
    call(cloud, program)
    folder = cloud.ns.path(STORE)
    old = time.time() - 3 * 3600
    for number in range(50):
        path = folder / f"v1-{number}.ocir.io-00000000.failure"
        path.write_text("{}")
        path.chmod(0o600)
        os.utime(path, (old, old))
    edit(cloud, made=boot_clock() - 3500)
    call(cloud, program)
    assert len(list(folder.iterdir())) == 2
