"""Pods can name any registry: what this costs OCI, the credential cache and other pods."""

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from provider.ocir.hosts import REGIONS
from tests.cloud.harness import Cloud
from tests.cloud.model import NEWER, Endpoint, Fault, FaultKind, Imds
from tests.cloud.namespace import hosts_file
from tests.conftest import Program
from tests.e2e.test_sharing import CACHE_DIR, Ended, boot_clock, ended, entries, wait_for
from tests.support.kubelet import read_response, request

pytestmark = pytest.mark.every_form

GOOD = "fra.ocir.io/ns/repo"
# Three registries that the cloud serves.
SERVED = ["fra.ocir.io", "iad.ocir.io", "eu-frankfurt-1.ocir.io"]
SHORT = [f"no{n}.ocir.io" for n in range(1, 13)]
LONG = [f"ocir.no-{n}.oci.oraclecloud.com" for n in range(1, 13)]
# Known registries. Only the first two are in the DNS of this cloud.
KNOWN = [f"{key}.ocir.io" for key in ["fra", "iad", *REGIONS["oc1"]][:12]]
# All names of one region's registry.
NEW = ["new.ocir.io", "xx-new-1.ocir.io", "ocir.xx-new-1.oci.oraclecloud.com"]


def pull(
    cloud: Cloud, program: Program, hosts: Sequence[str], parallel: bool, **env: str
) -> list[Ended]:
    """Make one call for an image of each host."""
    images = [f"{host}/ns/repo" for host in hosts]
    if parallel:
        return ended([program.start(cloud, image, env) for image in images])
    results = [program.run(cloud, stdin=request(image), env=env) for image in images]
    return [Ended(done.returncode, done.stdout, done.stderr.decode()) for done in results]


def identities(cloud: Cloud) -> tuple[int, int]:
    """Return the numbers of requests to the metadata service and to federation."""
    report = cloud.control.report()
    return report.of_group("imds"), report.count("federation")


def content_of(cloud: Cloud, pattern: str) -> tuple[Path, dict[str, Any]]:
    (path,) = cloud.ns.path(CACHE_DIR).glob(pattern)
    return path, json.loads(path.read_text())


def change(cloud: Cloud, pattern: str, **values: object) -> None:
    path, content = content_of(cloud, pattern)
    path.write_text(json.dumps({**content, **values}))


def resolve(cloud: Cloud, hosts: Sequence[str], address: str) -> None:
    cloud.ns.hosts(f"{hosts_file()}{address} {' '.join(hosts)}\n")


def plant(cloud: Cloud, names: Sequence[str], text: str = "{}") -> None:
    for name in names:
        path = cloud.ns.path(CACHE_DIR) / name
        path.write_text(text)
        path.chmod(0o600)


# --- invented registries -----------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["enabled", "disabled"])
@pytest.mark.parametrize("hosts", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("parallel", [True, False], ids=["parallel", "sequential"])
def test_invented_registries_use_no_identity(
    cloud: Cloud, program: Program, hosts: list[str], parallel: bool, cache: str
) -> None:
    results = pull(cloud, program, hosts, parallel, TOKEN_CACHE=cache)
    assert {result.returncode for result in results} == {40}
    for host, result in zip(hosts, results, strict=True):
        assert f"{host} has no address in DNS" in result.stderr
        assert "no known region has this registry" in result.stderr
    assert cloud.control.report().connections == {}


@pytest.mark.parametrize("fault", [None, "tls_unknown_ca"])
def test_an_invented_registry_with_a_server_uses_no_identity(
    cloud: Cloud, program: Program, fault: FaultKind | None
) -> None:
    resolve(cloud, SHORT, "127.0.3.1")
    if fault:
        cloud.control.fault("elsewhere", Fault(fault))
    results = pull(cloud, program, SHORT, True)
    assert {result.returncode for result in results} == {51}
    report = cloud.control.report()
    assert set(report.connections) == {"elsewhere"}
    assert report.of_group("elsewhere") == 0


def test_registries_that_hang_delay_no_other_registry(
    cloud: Cloud, all_programs: Sequence[Program]
) -> None:
    resolve(cloud, SHORT, "127.0.3.1")
    cloud.control.fault("elsewhere", Fault("black_hole"))
    # The forms take turns, so that all of them share one cache and one wait.
    hanging = [
        program.start(cloud, f"{host}/ns/repo")
        for host, program in zip(SHORT, cycle(all_programs), strict=False)
    ]
    end = time.monotonic() + 9  # each try ends after 10 s
    while cloud.control.report().connections.get("elsewhere", 0) < len(SHORT):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert identities(cloud) == (0, 0)
    for host, program in zip(SERVED, all_programs, strict=False):
        (good,) = ended([program.start(cloud, f"{host}/ns/repo")])
        assert good.credentials.password
    assert all(process.poll() is None for process in hanging)
    assert {result.returncode for result in ended(hanging)} == {40}
    report = cloud.control.report()
    assert report.count("federation") == len(all_programs)
    assert report.of_group("elsewhere") == 0


def test_all_spellings_of_a_host_are_one_registry(cloud: Cloud, program: Program) -> None:
    forms = ["fra.ocir.io", "FRA.ocir.io", "fra.OCIR.io:443", "fra.ocir.io:443"]
    results = pull(cloud, program, forms, True)
    for form, result in zip(forms, results, strict=True):
        assert set(result.credentials.auth) == {form}
    assert cloud.control.report().count("token") == 1


@pytest.mark.parametrize("parallel", [True, False], ids=["parallel", "sequential"])
def test_names_in_foreign_domains_query_imds_once(
    cloud: Cloud, program: Program, parallel: bool
) -> None:
    hosts = [f"ocir.x.oci.domain{n}.example" for n in range(12)]
    for _ in range(2):
        results = pull(cloud, program, hosts, parallel)
        assert all(read_response(result.stdout).auth == {} for result in results)
    assert identities(cloud) == (1, 0)


# --- regions missing from the list -------------------------------------------------------------


def test_the_nodes_own_region_is_known_without_a_list(cloud: Cloud, program: Program) -> None:
    cloud.control.imds(Imds(region=NEWER))
    results = pull(cloud, program, NEW, True)
    assert len({result.credentials.password for result in results}) == len(NEW)
    assert cloud.control.report().count("federation") == len(NEW)


def test_a_known_region_opens_one_connection(cloud: Cloud, program: Program) -> None:
    pull(cloud, program, ["fra.ocir.io"], True)
    assert cloud.control.report().connections["registry"] == 1
    cloud.reset()
    # The region is not known yet, so the call connects to the registry before it uses an identity.
    cloud.control.imds(Imds(region=NEWER))
    pull(cloud, program, NEW[:1], True)
    assert cloud.control.report().connections["registry"] == 2
    cloud.control.reset_counters()
    pull(cloud, program, NEW[1:2], True)
    assert cloud.control.report().connections["registry"] == 1


def test_one_unknown_registry_per_minute_uses_an_identity(cloud: Cloud, program: Program) -> None:
    results = pull(cloud, program, NEW, True)
    served = [result for result in results if result.returncode == 0]
    refused = [result for result in results if result.returncode == 40]
    assert (len(served), len(refused)) == (1, 2)
    assert all("less than 60 s ago" in result.stderr for result in refused)
    assert identities(cloud) == (4, 1)
    change(cloud, "*.unknown", at=boot_clock() - 61)
    assert sorted(result.returncode for result in pull(cloud, program, NEW, True)) == [0, 0, 40]
    assert identities(cloud) == (8, 2)


def test_an_unknown_registry_may_retry_after_a_failure(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("token", Fault("status", status=403, times=1))
    assert [result.returncode for result in pull(cloud, program, NEW[:1], True)] == [41]
    change(cloud, "*.failure", at=boot_clock() - 6)
    (again,) = pull(cloud, program, NEW[:1], True)
    assert again.credentials.password


def test_an_unknown_registry_is_known_after_its_first_token(cloud: Cloud, program: Program) -> None:
    pull(cloud, program, NEW[:1], True)
    (entry,) = entries(cloud)
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "made": boot_clock() - 3500}))
    change(cloud, "*.unknown", host="no1.ocir.io", at=boot_clock())
    (again,) = pull(cloud, program, NEW[:1], True)
    assert again.credentials.password


def test_a_listed_host_is_known_and_a_pattern_is_not(cloud: Cloud, program: Program) -> None:
    for listed, connections in ((NEW[0], 1), ("*.ocir.io", 2)):
        pull(cloud, program, NEW[:1], True, OCIR_HOSTS=listed)
        assert cloud.control.report().connections["registry"] == connections
        cloud.reset()


# --- all registries share one identity ---------------------------------------------------------


def pull_and_count(cloud: Cloud, program: Program, parallel: bool) -> tuple[list[Ended], int]:
    """Pull from the known registries. Returns the results, and how many calls may try anew.

    A failure is shared for 5 s. On a busy machine, sequential calls take longer.
    """
    began = time.monotonic()
    results = pull(cloud, program, KNOWN, parallel)
    return results, 1 if parallel else 1 + int(time.monotonic() - began) // 5


@pytest.mark.parametrize("parallel", [True, False], ids=["parallel", "sequential"])
def test_registries_share_a_failure_of_the_metadata_service(
    cloud: Cloud, program: Program, parallel: bool
) -> None:
    cloud.control.fault("imds.region", Fault("status", status=404))
    results, most = pull_and_count(cloud, program, parallel)
    assert {result.returncode for result in results} == {22}
    assert len({result.stderr for result in results}) <= most
    imds, federation = identities(cloud)
    assert imds <= 4 * most
    assert federation == 0


@pytest.mark.parametrize("parallel", [True, False], ids=["parallel", "sequential"])
def test_registries_share_a_failure_of_federation(
    cloud: Cloud, program: Program, parallel: bool
) -> None:
    cloud.control.fault("federation", Fault("status", status=401))
    results, most = pull_and_count(cloud, program, parallel)
    assert {result.returncode for result in results} == {31}
    imds, federation = identities(cloud)
    assert imds <= 4 * most
    assert federation <= most


def test_names_in_foreign_domains_share_a_failure_with_other_registries(
    cloud: Cloud, program: Program
) -> None:
    cloud.control.fault("imds.region", Fault("status", status=404))
    hosts = [f"ocir.x.oci.domain{n}.example" for n in range(6)] + KNOWN[:6]
    results = pull(cloud, program, hosts, True)
    assert {result.returncode for result in results} == {22}
    imds, _ = identities(cloud)
    assert imds <= 4


def test_a_registrys_own_failure_is_not_shared(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("token", Fault("status", status=403, times=1))
    (failed,) = pull(cloud, program, ["iad.ocir.io"], True)
    assert failed.returncode == 41
    (good,) = pull(cloud, program, ["fra.ocir.io"], True)
    assert good.credentials.password


def test_registries_that_waited_for_one_identity_continue_in_parallel(
    cloud: Cloud, program: Program
) -> None:
    cloud.control.fault("federation", Fault("latency", delay_ms=3000))
    hosts = ["fra.ocir.io", "eu-frankfurt-1.ocir.io", "iad.ocir.io", "us-ashburn-1.ocir.io"]
    results = pull(cloud, program, hosts, True)
    assert all(result.credentials.password for result in results)
    assert cloud.control.report().endpoints["federation"].peak == 3


@pytest.mark.parametrize("phase", ["imds.region", "federation"])
def test_others_take_over_when_the_call_that_proves_the_identity_is_killed(
    cloud: Cloud, program: Program, phase: Endpoint
) -> None:
    cloud.control.fault(phase, Fault("latency", delay_ms=8000, times=1))
    winner = program.start(cloud, "fra.ocir.io/ns/repo")
    wait_for(cloud, phase)
    waiters = [program.start(cloud, f"{host}/ns/repo") for host in ("iad.ocir.io", NEW[0])]
    time.sleep(0.5)
    os.kill(winner.pid, signal.SIGKILL)
    assert all(result.credentials.password for result in ended(waiters, 20))
    winner.communicate(timeout=10)


# --- limits of the credential cache ------------------------------------------------------------


def cached_files(cloud: Cloud) -> Mapping[str, int]:
    return {path.name: path.stat().st_size for path in cloud.ns.path(CACHE_DIR).iterdir()}


def test_a_failed_exchange_cleans_the_cache(cloud: Cloud, program: Program) -> None:
    pull(cloud, program, SHORT[:1], True)
    plant(cloud, [f"v2-old{n}.ocir.io-00000000.failure" for n in range(50)])
    for path in cloud.ns.path(CACHE_DIR).glob("*-old*"):
        os.utime(path, (time.time() - 3 * 3600,) * 2)
    pull(cloud, program, SHORT[1:2], True)
    assert len(cached_files(cloud)) == 4  # two locks and two failures


def test_the_cache_has_a_file_limit_and_keeps_useful_tokens(cloud: Cloud, program: Program) -> None:
    pull(cloud, program, ["fra.ocir.io"], True)
    useful = set(cached_files(cloud))
    plant(cloud, [f"v2-x{n}.ocir.io-00000000{end}" for n in range(600) for end in (".lock", ".failure")])  # fmt: skip
    for name in useful:  # the oldest
        os.utime(cloud.ns.path(CACHE_DIR) / name, (time.time() - 3000,) * 2)
    pull(cloud, program, SHORT[:1], True)
    assert len(cached_files(cloud)) <= 512
    assert useful <= set(cached_files(cloud))
    cloud.control.reset_counters()
    pull(cloud, program, ["fra.ocir.io"], True)
    assert cloud.control.report().connections == {}


def test_the_cache_has_a_size_limit(cloud: Cloud, program: Program) -> None:
    pull(cloud, program, ["fra.ocir.io"], True)
    useful = set(cached_files(cloud))
    plant(cloud, [f"v2-x{n}.ocir.io-00000000.failure" for n in range(40)], "x" * 200_000)
    pull(cloud, program, SHORT[:1], True)
    assert sum(cached_files(cloud).values()) <= 4 << 20
    assert useful <= set(cached_files(cloud))


def test_old_entries_make_room_for_new_ones(cloud: Cloud, program: Program) -> None:
    pull(cloud, program, ["fra.ocir.io"], True)
    plant(cloud, [f"v2-x{n}.ocir.io-00000000" for n in range(600)])
    pull(cloud, program, ["iad.ocir.io"], True)
    assert len(cached_files(cloud)) <= 512
    assert any("iad" in name for name in cached_files(cloud))


def test_a_held_lock_is_never_removed(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("federation", Fault("latency", delay_ms=4000, times=1))
    winner = program.start(cloud, GOOD)
    wait_for(cloud, "federation")
    plant(cloud, [f"v2-x{n}.ocir.io-00000000.failure" for n in range(600)])
    for path in cloud.ns.path(CACHE_DIR).glob("*.lock"):
        os.utime(path, (time.time() - 3000,) * 2)
    pull(cloud, program, SHORT[:1], True)
    results = ended([program.start(cloud, f"fra.ocir.io/ns/{n}") for n in range(3)] + [winner])
    assert len({result.credentials.password for result in results}) == 1
    assert cloud.control.report().count("federation") == 1


def test_a_host_as_long_as_a_file_name_is_cached(cloud: Cloud, program: Program) -> None:
    host = ".".join(["x" * 60] * 4)
    env = {"OCIR_HOSTS": f"*.{host.partition('.')[2]}"}
    results = [
        *pull(cloud, program, [host], True, **env),
        *pull(cloud, program, [host], True, **env),
    ]
    assert {result.returncode for result in results} == {40}
    assert not any("tokens are not shared" in entry.text for entry in cloud.ns.log())
    assert any(name.endswith(".failure") for name in cached_files(cloud))


@pytest.mark.parametrize("kind", ["identity", "instance", "unknown"])
def test_invalid_content_in_the_cache_is_a_miss(cloud: Cloud, program: Program, kind: str) -> None:
    pull(cloud, program, NEW[:1], True)
    pattern = "*.unknown" if kind == "unknown" else f"v2-{kind}-????????"
    (path,) = cloud.ns.path(CACHE_DIR).glob(pattern)
    owner = {k: v for k, v in json.loads(path.read_text()).items() if k == "identity"}
    invalid: tuple[dict[str, object], ...] = (
        {"at": float("nan"), "code": "imds-unreachable", "message": 1, "hint": None},
        {"at": "yesterday", "host": [], "region": 1, "realm_domain": {}, "key": None},
        {"at": 1e300, "host": None, "code": []},
    )
    for content in invalid:
        path.write_text(json.dumps({**owner, **content}))
        for token in entries(cloud):
            token.unlink()
        (result,) = pull(cloud, program, NEW[:1], True)
        assert result.credentials.password
