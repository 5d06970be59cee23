"""The credential cache: which calls make an exchange, and which token each call gets.

The counters of the stand-in show the number of requests to OCI.
"""

import base64
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.harness import STORES, Cloud
from tests.cloud.model import (
    OKE_PUBLIC,
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
from tests.support.kubelet import Credentials, Kubelet, later, read_response, request
from tests.support.oci_files import OciFiles
from tests.support.processes import AS_OTHER

pytestmark = pytest.mark.every_form

CACHE_DIR, IN_SHARED_MEMORY = STORES
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


def ended(processes: Sequence[subprocess.Popen[bytes]], seconds: float = 60) -> list[Ended]:
    end = time.monotonic() + seconds
    results = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=max(0.1, end - time.monotonic()))
        results.append(Ended(process.returncode, stdout, stderr.decode()))
    return results


def storm(cloud: Cloud, program: Program, count: int, **env: str) -> list[Ended]:
    images = [f"fra.ocir.io/ns/many/{number}" for number in range(count)]
    return ended([program.start(cloud, image, env) for image in images])


def call(cloud: Cloud, program: Program, image: str = IMAGE, **env: str) -> Credentials:
    return program.credentials(cloud, image, env)


def call_after(cloud: Cloud, program: Program, seconds: float, image: str = IMAGE) -> Credentials:
    """Call the program with the boot clock moved ahead by `seconds`."""
    return call(cloud, program.behind(*later(seconds)), image)


def kubelet(cloud: Cloud, program: Program) -> Kubelet:
    def run(prefix: tuple[str, ...], stdin: bytes) -> bytes | None:
        result = program.behind(*prefix).run(cloud, stdin=stdin)
        return result.stdout if result.returncode == 0 else None

    return Kubelet(run)


def pulls(cloud: Cloud, image: str, credentials: Credentials | None) -> bool:
    """Report whether the registry returns the image for these credentials."""
    host, _, repository = image.partition("/")
    assert credentials is not None
    headers = {"Authorization": f"Bearer {credentials.password}"}
    url = f"https://{host}/v2/{repository}/manifests/latest"
    return cloud.client.get(url, headers).status == 200


def entries(cloud: Cloud) -> list[Path]:
    """Return the cache files with tokens."""
    return [path for path in cloud.ns.path(CACHE_DIR).iterdir() if '"token"' in path.read_text()]


def edit(cloud: Cloud, **values: Any) -> None:
    """Change values of the only cache entry or of its only token."""
    (entry,) = entries(cloud)
    content = json.loads(entry.read_text())
    (token,) = content["tokens"]
    for name, value in values.items():
        (content if name in content else token)[name] = value
    entry.write_text(json.dumps(content))


def boot_clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wait_for(cloud: Cloud, endpoint: Endpoint) -> None:
    end = time.monotonic() + 20
    while not cloud.control.report().endpoints.get(endpoint, Count()).peak:
        assert time.monotonic() < end, f"no request to {endpoint}"
        time.sleep(0.01)


# --- parallel calls ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [30, 100])
def test_a_storm_makes_one_exchange_and_all_calls_get_credentials(
    cloud: Cloud, program: Program, count: int
) -> None:
    cloud.control.imds(Imds(max_under_way=8))
    cloud.control.latency(20)
    results = storm(cloud, program, count)
    assert len({result.credentials.password for result in results}) == 1
    report = cloud.control.report()
    assert report.of_group("imds") == 4
    assert report.count("federation") == report.count("token") == 1
    # One repository has its proof. The others are checked when the token is two minutes old.
    *others, proven = sorted(result.credentials.cache_seconds for result in results)
    assert 90 < others[0] <= others[-1] <= 120
    assert proven > 3000
    assert report.count("manifest") == 1


def test_registries_have_separate_tokens(cloud: Cloud, program: Program) -> None:
    images = [IMAGE, "eu-frankfurt-1.ocir.io/ns/repo"]
    results = ended([program.start(cloud, image) for image in images])
    assert len({result.credentials.password for result in results}) == 2
    assert cloud.control.report().count("token") == 2


def test_throttling_by_imds_is_retried(cloud: Cloud, program: Program) -> None:
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


# --- cached tokens -----------------------------------------------------------------------------


def test_a_warm_call_makes_no_request(cloud: Cloud, program: Program) -> None:
    first = call(cloud, program)
    cloud.control.reset_counters()
    again = call(cloud, program)
    assert again.password == first.password
    assert again.cache_seconds == pytest.approx(first.cache_seconds, abs=5)
    assert cloud.control.report().connections == {}
    assert cloud.ns.log()[-1].fields["OKE_TOKEN"] == "shared"


def test_the_cache_can_be_disabled(cloud: Cloud, program: Program) -> None:
    first = call(cloud, program, TOKEN_CACHE="disabled")
    second = call(cloud, program, TOKEN_CACHE="disabled")
    assert first.password != second.password
    assert not cloud.ns.path(CACHE_DIR).exists()


def test_another_repository_is_checked_once(cloud: Cloud, program: Program) -> None:
    first = call(cloud, program)
    cloud.control.reset_counters()
    for _ in range(2):
        other = call_after(cloud, program, 60, "fra.ocir.io/ns/app")
        assert other.password == first.password
        assert other.cache_seconds == pytest.approx(3240, abs=5)
    report = cloud.control.report()
    assert report.count("manifest") == 1
    assert report.count("token") == 0


def test_a_token_near_its_expiry_is_not_reused(cloud: Cloud, program: Program) -> None:
    first = call(cloud, program)
    assert call_after(cloud, program, 3200).password == first.password
    assert call_after(cloud, program, 3250).password != first.password


# --- pull checks -------------------------------------------------------------------------------


def test_a_response_is_for_its_image_only(cloud: Cloud, program: Program) -> None:
    assert call(cloud, program).cache_key_type == "Image"
    assert call(cloud, program, "docker.io/library/nginx").cache_key_type == "Image"


@pytest.mark.parametrize("public", OKE_PUBLIC)
def test_the_proof_for_a_public_image_does_not_count_for_a_private_one(
    cloud: Cloud, program: Program, public: str
) -> None:
    """A booting node pulls a public image first, with a token older than the dynamic group."""
    node = kubelet(cloud, program)
    cloud.control.iam(Iam(dynamic_groups=()))
    cached = node.credentials(f"fra.ocir.io/{public}")
    assert cached is not None and cached.cache_seconds > 3000
    assert not pulls(cloud, IMAGE, node.credentials(IMAGE))
    cloud.control.iam(Iam(dynamic_groups=(DynamicGroup(since=time.time()),)))
    node.now = 120
    healed = node.credentials(IMAGE)
    assert healed is not None and healed.cache_seconds > 3000
    assert pulls(cloud, IMAGE, healed)
    # The public image keeps its own cache duration.
    assert node.credentials(f"fra.ocir.io/{public}") == cached
    assert node.calls == 3


def test_a_denied_image_recovers_within_two_minutes_while_another_one_is_allowed(
    cloud: Cloud, program: Program
) -> None:
    """A second dynamic group later allows the denied image. The first one allows the other image."""
    neighbor, denied = "fra.ocir.io/ns/app", "fra.ocir.io/other/secret"
    first = Iam(policies=(Policy(prefix="ns/"), Policy(subject="late", prefix="other/")))
    cloud.control.iam(first)
    node = kubelet(cloud, program)
    cached = node.credentials(neighbor)
    for node.now in (60.0, 180.0, 300.0):
        assert not pulls(cloud, denied, node.credentials(denied))
        assert node.expiry(denied) == pytest.approx(node.now + 120, abs=3)
    late = (*first.dynamic_groups, DynamicGroup("late", since=time.time()))
    cloud.control.iam(replace(first, dynamic_groups=late))
    node.now = 421.0
    healed = node.credentials(denied)
    assert healed is not None and healed.cache_seconds > 3000
    assert pulls(cloud, denied, healed)
    # The other image kept its token.
    assert node.credentials(neighbor) == cached
    node.restart()
    again = node.credentials(neighbor)
    assert cached is not None and again is not None and again.password == cached.password
    assert again.cache_seconds == pytest.approx(3300 - 421, abs=60)


def test_denied_images_share_a_new_token(cloud: Cloud, program: Program) -> None:
    cloud.control.iam(Iam(policies=(Policy(prefix="ns/repo"),)))
    node = kubelet(cloud, program)
    node.credentials(IMAGE)
    images = [f"fra.ocir.io/ns/many/{number}" for number in range(30)]
    for number, image in enumerate(images):
        node.now = 200.0 + 4 * number
        node.credentials(image)
    # The first one, and at most one every 30 s from 200 s to 320 s (and as long as the calls themselves take).
    assert cloud.control.report().count("token") <= 1 + 6
    for node.now in (500.0, 700.0):
        cloud.control.reset_counters()
        began = time.monotonic()
        for image in images:
            node.credentials(image)
    report = cloud.control.report()
    # One every 30 s: on a busy machine the calls themselves take longer than that.
    exchanges = report.count("token")
    assert 1 <= exchanges <= 1 + (time.monotonic() - began) // 30
    assert report.count("federation") == exchanges
    assert report.of_group("imds") == 4 * exchanges
    # Each image is checked once more, with a GET for the reason.
    assert report.count("manifest") <= 2 * len(images)


def test_parallel_calls_for_denied_images_make_one_exchange(cloud: Cloud, program: Program) -> None:
    call(cloud, program)
    cloud.control.reset_counters()
    cloud.control.iam(Iam(policies=()))
    results = storm(cloud, program.behind(*later(60)), 30)
    assert len({result.credentials.password for result in results}) == 1
    assert all(80 < result.credentials.cache_seconds <= 120 for result in results)
    report = cloud.control.report()
    assert report.count("token") == 1
    assert report.of_group("imds") == 4


def test_a_denied_image_does_not_prevent_checks_of_other_images(
    cloud: Cloud, program: Program
) -> None:
    """It renews the token when the checks of the other images are due."""
    cloud.control.iam(Iam(policies=(Policy(prefix="ns/"),)))
    node = kubelet(cloud, program)
    denied, others = "fra.ocir.io/other/secret", [f"fra.ocir.io/ns/many/{n}" for n in range(3)]
    for node.now in (0.0, 121.0, 242.0):
        node.credentials(denied)
        for image in others:
            node.credentials(image)
    # The denied image is checked each time. The others are checked twice: first not at all, then proven.
    assert node.calls == 3 + 2 * len(others)


def test_a_denied_image_gets_what_a_late_policy_allows(cloud: Cloud, program: Program) -> None:
    cloud.control.iam(Iam(policies=()))
    node = kubelet(cloud, program)
    assert not pulls(cloud, IMAGE, node.credentials(IMAGE))
    cloud.control.iam(Iam())
    node.now = 120
    healed = node.credentials(IMAGE)
    assert healed is not None and healed.cache_seconds > 3000
    assert pulls(cloud, IMAGE, healed)


def test_the_age_of_a_token_counts_from_the_start_of_a_slow_exchange(
    cloud: Cloud, program: Program
) -> None:
    """The group may have been created during the exchange."""
    cloud.control.iam(Iam(policies=()))
    cloud.control.fault("token", Fault("latency", delay_ms=4000, times=1))
    assert call(cloud, program).cache_seconds <= 117


def test_a_restarted_kubelet_gets_a_token_that_works(cloud: Cloud, program: Program) -> None:
    """The group was deleted and created again, so older tokens do not work."""
    node = kubelet(cloud, program)
    assert pulls(cloud, IMAGE, node.credentials(IMAGE))
    cloud.control.iam(Iam(dynamic_groups=(DynamicGroup(since=time.time()),)))
    node.restart()
    node.now = 60
    assert pulls(cloud, IMAGE, node.credentials(IMAGE))


def test_without_a_newer_token_the_cached_one_is_returned_for_seconds(
    cloud: Cloud, program: Program
) -> None:
    first = call(cloud, program)
    cloud.control.fault("federation", Fault("status", status=401))
    cloud.control.fault("manifest", Fault("status", status=500))
    answer = call_after(cloud, program, 1000, "fra.ocir.io/ns/app")
    assert answer.password == first.password
    assert answer.cache_seconds == 10
    check = cloud.ns.log()[-1].fields["OKE_PULL_CHECK"]
    assert check.startswith("failed: ")
    assert check.endswith("; no newer token: federation-refused")


def test_a_tool_gets_no_token_older_than_two_minutes(cloud: Cloud, program: Program) -> None:
    """It names no image, so nothing proves that the token works."""
    first = call(cloud, program).password

    def secret(after: float) -> str:
        caller = program.behind(*later(after))
        result = caller.run(cloud, "docker-credential", "get", stdin=b"fra.ocir.io").check()
        return str(json.loads(result.stdout)["Secret"])

    assert secret(100) == first
    assert secret(121) != first


# --- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("endpoint", "exit_code"), [("federation", 31), ("token", 41)])
def test_a_failure_is_cached_for_seconds_and_a_repair_takes_effect(
    cloud: Cloud, program: Program, endpoint: Endpoint, exit_code: int
) -> None:
    cloud.control.fault(endpoint, Fault("status", status=401))
    for _ in range(5):
        assert program.run(cloud, stdin=request(IMAGE)).returncode == exit_code
    assert cloud.control.report().count(endpoint) == 1
    cloud.control.clear_faults()
    files = cloud.ns.path(CACHE_DIR).iterdir()
    (failure,) = [path for path in files if '"code"' in path.read_text()]
    content = json.loads(failure.read_text())
    failure.write_text(json.dumps({**content, "at": content["at"] - 6}))
    assert call(cloud, program).password


def test_a_cached_failure_never_hides_a_cached_token(cloud: Cloud, program: Program) -> None:
    call(cloud, program)
    (entry,) = entries(cloud)
    owner = {k: v for k, v in json.loads(entry.read_text()).items() if k in ("host", "identity")}
    failure = {**owner, "code": "deadline", "message": "m", "hint": "h", "at": boot_clock()}
    path = entry.with_name(entry.name + ".failure")
    path.write_text(json.dumps(failure))
    path.chmod(0o600)
    assert call(cloud, program).password


# --- a killed winner ---------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["imds.region", "imds.key", "federation", "token", "manifest"])
def test_a_waiting_call_takes_over_when_the_winner_is_killed(
    cloud: Cloud, program: Program, phase: Endpoint
) -> None:
    cloud.control.fault(phase, Fault("latency", delay_ms=8000, times=1))
    winner = program.start(cloud, IMAGE)
    wait_for(cloud, phase)
    waiters = [program.start(cloud, f"fra.ocir.io/ns/many/{n}") for n in range(5)]
    time.sleep(0.3)
    os.kill(winner.pid, signal.SIGKILL)
    results = ended(waiters)
    winner.communicate(timeout=10)
    assert len({result.credentials.password for result in results}) == 1
    assert cloud.control.report().count("federation") <= 2


def test_waiting_counts_against_the_deadline(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("federation", Fault("latency", delay_ms=8000))
    winner = program.start(cloud, IMAGE, {"DEADLINE_SECONDS": "20"})
    wait_for(cloud, "federation")
    began = time.monotonic()
    (waiter,) = ended([program.start(cloud, IMAGE, {"DEADLINE_SECONDS": "1.5"})])
    assert 1.0 < time.monotonic() - began < 5
    assert waiter.returncode == 60
    assert "waiting for the exchange of another call" in waiter.stderr
    winner.kill()
    winner.communicate(timeout=10)


def test_a_waiting_call_is_idle(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("federation", Fault("latency", delay_ms=8000))
    winner = program.start(cloud, IMAGE)
    wait_for(cloud, "federation")
    waiter = program.start(cloud, IMAGE)
    time.sleep(1.5)
    before = _waits(waiter.pid)
    time.sleep(1)
    assert 1 <= _waits(waiter.pid) - before <= 40
    for process in (winner, waiter):
        process.kill()
        process.communicate(timeout=10)


def _waits(pid: int) -> int:
    """How often the process gave up the CPU to wait."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


# --- an unsafe cache ---------------------------------------------------------------------------


def test_the_cache_is_private(cloud: Cloud, program: Program) -> None:
    call(cloud, program)
    folder = cloud.ns.path(CACHE_DIR)
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


# Shell commands that make the cache unsafe: its directory is $1, its only entry $2.
UNSAFE = {
    "directory open to others": 'chmod 755 "$1"',
    "directory of another user": 'chown 65534 "$1"',
    "directory is a link": 'mv "$1" "$1-$$"; ln -s "$1-$$" "$1"',
    "directory is a file": 'mv "$1" "$1-$$"; touch "$1"',
    "entry open to others": 'chmod 644 "$2"',
    "entry of another user": 'chown 65534 "$2"',
    "entry is a link": 'mv "$2" "$1/moved"; ln -s moved "$2"',
    "entry is a pipe": 'rm "$2"; mkfifo -m 600 "$2"',
    "entry is a directory": 'rm "$2"; mkdir -m 700 "$2"',
    "entry is truncated": 'truncate --size=50 "$2"',
    "entry is huge": 'printf %1048576s >>"$2"',
    "entry is a list": 'echo "[]" >"$2"',
}
# Values that make the entry a miss. Nothing is logged.
INVALID: dict[str, dict[str, object]] = {
    "entry of another host": {"host": "iad.ocir.io"},
    "entry of another identity": {"identity": "USER_PRINCIPAL"},
    "token from the future": {"made": boot_clock() + 86_400},
    "token time is text": {"made": "yesterday"},
    "token time is NaN": {"made": float("nan")},
    "token lifetime is infinite": {"expires_in": float("inf")},
    "token is empty": {"token": ""},
    "token has a line break": {"token": "a\nb"},
    "checks is a list": {"checks": [1]},
    "tokens is an object": {"tokens": {"token": 1}},
}


@pytest.mark.parametrize("how", [*UNSAFE, *INVALID])
def test_an_unsafe_cache_is_a_miss_and_never_a_failure(
    cloud: Cloud, program: Program, how: str
) -> None:
    first = call(cloud, program)
    (entry,) = entries(cloud)
    text = entry.read_bytes()
    edit(cloud, **INVALID.get(how, {}))
    shell = ["sh", "-euc", UNSAFE.get(how, ""), "sh", CACHE_DIR, f"{CACHE_DIR}/{entry.name}"]
    cloud.ns.run(shell).check()
    if entry.is_fifo():
        # This process holds the pipe open, so that a reader gets the text of the entry.
        os.write(os.open(entry, os.O_RDWR), text)
    assert call(cloud, program).password != first.password
    shared = [e for e in cloud.ns.log() if "tokens are not shared" in e.text]
    assert bool(shared) == (how in UNSAFE)


def files(disk: Path) -> list[Path]:
    """Return the files in the directory."""
    return [path for path in disk.rglob("*") if "oke-credential-provider" in str(path)]


def test_without_tmpfs_there_is_no_cache(program: Program, tmp_path: Path) -> None:
    with Cloud(log="devlog") as cloud:
        cloud.ns.on_disk(tmp_path, "/run", "/dev/shm")
        first = call(cloud, program)
        assert call(cloud, program).password != first.password
        assert files(tmp_path) == []
        # The directory already exists, for example from the build of a container image.
        made = cloud.ns.path(CACHE_DIR)
        made.mkdir(mode=0o700)
        assert call(cloud, program).password != call(cloud, program).password
        assert list(made.iterdir()) == []
        lines = [entry for entry in cloud.ns.log() if "tokens are not shared" in entry.text]
        assert len(lines) == 4


# --- containers --------------------------------------------------------------------------------


@pytest.mark.parametrize("leftover", [False, True], ids=["new", "leftover"])
def test_calls_share_the_cache_in_dev_shm_if_run_is_not_tmpfs(
    program: Program, tmp_path: Path, leftover: bool
) -> None:
    with Cloud(log="devlog") as cloud:
        cloud.ns.on_disk(tmp_path, "/run")
        if leftover:  # earlier versions left an empty directory in images
            cloud.ns.path(CACHE_DIR).mkdir(0o700)
        first = call(cloud, program, XDG_RUNTIME_DIR="/run")
        assert call(cloud, program).password == first.password
        assert cloud.control.report().count("token") == 1
        assert files(tmp_path) == ([tmp_path / "-run" / Path(CACHE_DIR).name] if leftover else [])
        folder = cloud.ns.path(IN_SHARED_MEMORY)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
        assert not any("tokens are not shared" in entry.text for entry in cloud.ns.log())


def test_each_user_has_a_separate_directory_in_dev_shm(program: Program, tmp_path: Path) -> None:
    with Cloud(log="devlog") as cloud:
        cloud.ns.on_disk(tmp_path, "/run")
        passwords = [call(cloud, program).password]
        user = program.behind(*AS_OTHER)
        passwords += [call(cloud, user).password for _ in range(2)]
        assert passwords[0] != passwords[1] == passwords[2]
        assert cloud.ns.path("/dev/shm/oke-credential-provider-65534").stat().st_uid == 65534


@pytest.mark.parametrize(
    "kind", ["directory", "open directory", "private directory", "file", "link"]
)
def test_another_users_files_in_dev_shm_are_a_miss(
    program: Program, tmp_path: Path, kind: str
) -> None:
    with Cloud(log="devlog") as cloud:
        cloud.ns.on_disk(tmp_path, "/run")
        planted = cloud.ns.path("/dev/shm/oke-credential-provider-65534")
        match kind:
            case "file":
                planted.write_text("")
            case "link":
                target = planted.with_name("target")
                target.mkdir(0o700)
                os.chown(target, 65534, 65534)
                planted.symlink_to(target.name)
            case _:
                planted.mkdir()
                planted.chmod(
                    {"private directory": 0o700, "open directory": 0o777}.get(kind, 0o755)
                )
        user = program.behind(*AS_OTHER)
        first = call(cloud, user)
        assert call(cloud, user).password != first.password
        lines = [entry.text for entry in cloud.ns.log() if "tokens are not shared" in entry.text]
        assert len(lines) == 2  # one line per call
        assert all("/dev/shm/oke-credential-provider-65534" in line for line in lines)
        assert not planted.is_dir() or list(planted.iterdir()) == []


# --- identities --------------------------------------------------------------------------------


def users(*names: str) -> tuple[str, ...]:
    return tuple(f"ocid1.user.oc1..aaaaaaaastandin{name}" for name in names)


def subject_of(password: str) -> str:
    """Return the OCID in a token of the stand-in."""
    payload = password.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"])


def test_the_proven_identity_decides_who_shares_a_token(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    files = OciFiles(tmp_path)
    node = call(cloud, program).password
    first, second = (cloud.control.api_key(user=user) for user in users("first", "second"))
    settings = files.write(first)
    mine = call(cloud, program, **settings).password
    assert subject_of(mine) == first.user
    assert subject_of(call(cloud, program, **files.write(second)).password) == second.user
    # The same user with irrelevant changes: the token is still in the cache.
    assert call(cloud, program, **files.write(first)).password == mine
    config = tmp_path / "config"
    config.write_text(f"# a comment\n{config.read_text()}")
    assert call(cloud, program, **settings).password == mine
    assert call(cloud, program).password == node


def test_another_session_in_the_same_file_is_another_identity(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    files = OciFiles(tmp_path)
    first, second = (cloud.control.session(user=user) for user in users("first", "second"))
    assert subject_of(call(cloud, program, **files.write(first)).password) == first.user
    assert subject_of(call(cloud, program, **files.write(second)).password) == second.user


def test_a_link_to_another_session_is_another_identity(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    sessions = [cloud.control.session(user=user) for user in users("first", "second")]
    current = tmp_path / "current"
    for number, session in enumerate(sessions):
        (tmp_path / f"{number}").mkdir()
        settings = OciFiles(tmp_path / f"{number}").write(session)
    config = Path(settings["OCI_CONFIG_FILE"])
    config.write_text(config.read_text().replace(str(config.parent), str(current)))
    for number in (0, 1, 0):
        current.unlink(missing_ok=True)
        current.symlink_to(f"{number}")
        assert subject_of(call(cloud, program, **settings).password) == sessions[number].user
    assert cloud.control.report().count("token") == 2


@pytest.mark.parametrize(("spoiled", "code"), [("key", 41), ("session", 41), ("pass phrase", 12)])
def test_a_cached_token_requires_every_part_of_its_proof(
    cloud: Cloud, program: Program, tmp_path: Path, spoiled: str, code: int
) -> None:
    files = OciFiles(tmp_path)
    user: ApiKey | Session
    match spoiled:
        case "pass phrase":
            user = cloud.control.api_key(passphrase="a-long-secret-phrase")
        case _:
            user = cloud.control.session()
    settings = files.write(user)
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
def test_a_resource_principal_is_identified_by_the_contents_of_its_files(
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
        # One half of each proof is no proof.
        assert program.run(cloud, stdin=request(IMAGE), env=env).returncode == 41
    else:
        assert call(cloud, program, **env).password != password


def test_the_bytes_that_sign_are_the_bytes_in_the_cache_key(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    files = OciFiles(tmp_path)
    first, second = (cloud.control.session(user=user) for user in users("first", "second"))
    settings = files.write(first)
    cloud.control.fault("token", Fault("latency", delay_ms=20_000, times=1))
    winner = program.start(cloud, IMAGE, settings)
    wait_for(cloud, "token")
    waiter = program.start(cloud, IMAGE, settings)
    time.sleep(2)  # it has read the files and waits for the winner
    files.write(second)
    os.kill(winner.pid, signal.SIGKILL)
    winner.communicate(timeout=10)
    (result,) = ended([waiter])
    assert subject_of(result.credentials.password) == first.user
    assert subject_of(call(cloud, program, **settings).password) == second.user


def test_the_cache_reveals_no_proof_of_an_identity(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    files = OciFiles(tmp_path)
    call(cloud, program, **files.write(cloud.control.api_key(passphrase="a-long-secret-phrase")))
    call(cloud, program, **files.write(cloud.control.session()))
    resource = cloud.control.resource()
    inline = {"RPST": resource.token, "PRIVATE_PEM": resource.private_pem, "VERSION": "2.2"}
    env = {f"OCI_RESOURCE_PRINCIPAL_{name}": text for name, text in inline.items()}
    call(cloud, program, **env, OCIR_AUTH_METHOD="RESOURCE_PRINCIPAL")
    texts = [path.name for path in cloud.ns.path(CACHE_DIR).iterdir()]
    for path in entries(cloud):
        text = path.read_text()
        for token in json.loads(text)["tokens"]:
            text = text.replace(token["token"], "")
        texts.append(text)
    needles = [needle for secret in cloud.control.secrets() for needle in secret.needles()]
    assert "a-long-secret-phrase" in needles
    assert len(entries(cloud)) == 3
    assert not [needle for needle in needles for text in texts if needle in text]


def test_a_warm_call_of_a_user_principal_does_not_load_the_sdk(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    env = {**OciFiles(tmp_path).write(cloud.control.session()), "PYTHONPROFILEIMPORTTIME": "1"}
    cold, warm = (program.run(cloud, stdin=request(IMAGE), env=env).check() for _ in range(2))
    if program.name == "source":  # the frozen forms ignore Python's variables
        assert re.search(rb"\| +oci\n", cold.stderr)
        assert b"configparser" in warm.stderr
    for name in (b"oci", b"cryptography", b"ssl"):
        assert not re.search(rb"\| +" + name + rb"\n", warm.stderr)


def test_two_versions_of_the_cache_coexist(cloud: Cloud, program: Program) -> None:
    first = call(cloud, program)
    (entry,) = entries(cloud)
    newer = entry.with_name(entry.name.replace("v2-", "v3-", 1))
    newer.write_text("something else entirely")
    newer.chmod(0o600)
    assert call(cloud, program).password == first.password
    assert newer.exists()


def test_the_cache_stays_small(cloud: Cloud, program: Program) -> None:
    call(cloud, program)
    folder = cloud.ns.path(CACHE_DIR)
    old = time.time() - 3 * 3600
    for number in range(50):
        path = folder / f"v2-{number}.ocir.io-00000000.failure"
        path.write_text("{}")
        path.chmod(0o600)
        os.utime(path, (old, old))
    call_after(cloud, program, 3500)
    names = {path.name[:6] for path in folder.iterdir()}
    assert names == {"v2-fra", "v2-ide", "v2-ins"}
    assert len(list(folder.iterdir())) == 5
