"""Pods name registries at will: what that costs OCI, the node's store, and the other pods."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from provider.ocir.hosts import REGIONS
from tests.cloud.harness import Cloud
from tests.cloud.model import NEWER, Endpoint, Fault, FaultKind, Imds
from tests.cloud.namespace import hosts_file
from tests.conftest import Program
from tests.e2e.test_sharing import STORE, Ended, boot_clock, ended, entries, start, wait_for
from tests.support.kubelet import read_response, request

pytestmark = pytest.mark.every_form

GOOD = "fra.ocir.io/ns/repo"
SHORT = [f"no{n}.ocir.io" for n in range(1, 13)]
LONG = [f"ocir.no-{n}.oci.oraclecloud.com" for n in range(1, 13)]
# None of them is in this cloud's DNS, but for Frankfurt's and Ashburn's.
KNOWN = [f"{key}.ocir.io" for key in ["fra", "iad", *REGIONS["oc1"]][:12]]
# Any host of one region, by all its names.
NEW = ["new.ocir.io", "xx-new-1.ocir.io", "ocir.xx-new-1.oci.oraclecloud.com"]


def pull(
    cloud: Cloud, program: Program, hosts: Sequence[str], at_once: bool, **env: str
) -> list[Ended]:
    """A call for an image of each host."""
    images = [f"{host}/ns/repo" for host in hosts]
    if at_once:
        return ended([start(cloud, program, image, env) for image in images])
    results = [program.run(cloud, stdin=request(image), env=env) for image in images]
    return [Ended(done.returncode, done.stdout, done.stderr.decode()) for done in results]


def identities(cloud: Cloud) -> tuple[int, int]:
    """How often the metadata service and federation were asked."""
    report = cloud.control.report()
    return report.of_group("imds"), report.count("federation")


def content_of(cloud: Cloud, pattern: str) -> tuple[Path, dict[str, Any]]:
    (path,) = cloud.ns.path(STORE).glob(pattern)
    return path, json.loads(path.read_text())


def change(cloud: Cloud, pattern: str, **values: object) -> None:
    path, content = content_of(cloud, pattern)
    path.write_text(json.dumps({**content, **values}))


def resolve(cloud: Cloud, hosts: Sequence[str], address: str) -> None:
    cloud.ns.hosts(f"{hosts_file()}{address} {' '.join(hosts)}\n")


def plant(cloud: Cloud, names: Sequence[str], text: str = "{}") -> None:
    for name in names:
        path = cloud.ns.path(STORE) / name
        path.write_text(text)
        path.chmod(0o600)


# --- invented registries -----------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["enabled", "disabled"])
@pytest.mark.parametrize("hosts", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
def test_twelve_invented_registries_cost_no_identity(
    cloud: Cloud, program: Program, hosts: list[str], at_once: bool, cache: str
) -> None:
    results = pull(cloud, program, hosts, at_once, TOKEN_CACHE=cache)
    assert {result.returncode for result in results} == {40}
    for host, result in zip(hosts, results, strict=True):
        assert f"{host} has no address in DNS" in result.stderr
        assert "no known region has this registry" in result.stderr
    assert cloud.control.report().connections == {}


@pytest.mark.parametrize(
    ("fault", "exit_code"), [(None, 51), ("tls_unknown_ca", 51), ("black_hole", 40)]
)
def test_an_invented_registry_that_somebody_answers_for_costs_no_identity(
    cloud: Cloud, program: Program, fault: FaultKind | None, exit_code: int
) -> None:
    resolve(cloud, SHORT, "127.0.3.1")
    if fault:
        cloud.control.fault("elsewhere", Fault(fault))
    results = pull(cloud, program, SHORT, True)
    assert {result.returncode for result in results} == {exit_code}
    report = cloud.control.report()
    assert set(report.connections) == {"elsewhere"}
    assert report.of_group("elsewhere") == 0


def test_registries_that_never_answer_delay_no_other(cloud: Cloud, program: Program) -> None:
    resolve(cloud, SHORT, "127.0.3.1")
    cloud.control.fault("elsewhere", Fault("black_hole"))
    hanging = [start(cloud, program, f"{host}/ns/repo") for host in SHORT]
    while cloud.control.report().connections.get("elsewhere", 0) < len(SHORT):
        time.sleep(0.05)
    (good,) = ended([start(cloud, program, GOOD)])
    assert good.credentials.password
    assert all(process.poll() is None for process in hanging)
    ended(hanging)


def test_every_form_of_one_name_is_one_registry(cloud: Cloud, program: Program) -> None:
    forms = ["fra.ocir.io", "FRA.ocir.io", "fra.OCIR.io:443", "fra.ocir.io:443"]
    results = pull(cloud, program, forms, True)
    for form, result in zip(forms, results, strict=True):
        assert set(result.credentials.auth) == {form}
    assert cloud.control.report().count("token") == 1


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
def test_a_name_in_a_foreign_domain_asks_imds_once(
    cloud: Cloud, program: Program, at_once: bool
) -> None:
    hosts = [f"ocir.x.oci.domain{n}.example" for n in range(12)]
    for _ in range(2):
        results = pull(cloud, program, hosts, at_once)
        assert all(read_response(result.stdout).auth == {} for result in results)
    assert identities(cloud) == (1, 0)


# --- regions that are newer than the list ------------------------------------------------------


def test_the_nodes_own_region_needs_no_list(cloud: Cloud, program: Program) -> None:
    cloud.control.imds(Imds(region=NEWER))
    results = pull(cloud, program, NEW, True)
    assert len({result.credentials.password for result in results}) == len(NEW)
    assert cloud.control.report().count("federation") == len(NEW)


def test_a_known_region_opens_one_connection(cloud: Cloud, program: Program) -> None:
    pull(cloud, program, ["fra.ocir.io"], True)
    assert cloud.control.report().connections["registry"] == 1
    cloud.reset()
    # Unknown at first, so the registry was reached before the identity was asked for.
    cloud.control.imds(Imds(region=NEWER))
    pull(cloud, program, NEW[:1], True)
    assert cloud.control.report().connections["registry"] == 2
    cloud.control.reset_counters()
    pull(cloud, program, NEW[1:2], True)
    assert cloud.control.report().connections["registry"] == 1


def test_one_unknown_registry_a_minute_gets_an_identity(cloud: Cloud, program: Program) -> None:
    results = pull(cloud, program, NEW, True)
    served = [result for result in results if result.returncode == 0]
    refused = [result for result in results if result.returncode == 40]
    assert (len(served), len(refused)) == (1, 2)
    assert all("less than 60 s ago" in result.stderr for result in refused)
    assert identities(cloud) == (4, 1)
    change(cloud, "*.unknown", at=boot_clock() - 61)
    assert sorted(result.returncode for result in pull(cloud, program, NEW, True)) == [0, 0, 40]
    assert identities(cloud) == (8, 2)


def test_an_unknown_registry_that_failed_may_try_again(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("token", Fault("status", status=403, times=1))
    assert [result.returncode for result in pull(cloud, program, NEW[:1], True)] == [41]
    change(cloud, "*.failure", at=boot_clock() - 6)
    (again,) = pull(cloud, program, NEW[:1], True)
    assert again.credentials.password


def test_an_unknown_registry_that_gave_a_token_is_known(cloud: Cloud, program: Program) -> None:
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


# --- one identity for all registries -----------------------------------------------------------


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
def test_registries_share_a_failure_of_the_metadata_service(
    cloud: Cloud, program: Program, at_once: bool
) -> None:
    cloud.control.fault("imds.region", Fault("status", status=404))
    results = pull(cloud, program, KNOWN, at_once)
    assert {result.returncode for result in results} == {22}
    assert len({result.stderr for result in results}) == 1
    assert identities(cloud) == (4, 0)


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
def test_registries_share_a_failure_of_federation(
    cloud: Cloud, program: Program, at_once: bool
) -> None:
    cloud.control.fault("federation", Fault("status", status=401))
    results = pull(cloud, program, KNOWN, at_once)
    assert {result.returncode for result in results} == {31}
    assert identities(cloud) == (4, 1)


def test_names_in_foreign_domains_share_a_failure_with_all_others(
    cloud: Cloud, program: Program
) -> None:
    cloud.control.fault("imds.region", Fault("status", status=404))
    hosts = [f"ocir.x.oci.domain{n}.example" for n in range(6)] + KNOWN[:6]
    results = pull(cloud, program, hosts, True)
    assert {result.returncode for result in results} == {22}
    imds, _ = identities(cloud)
    assert imds <= 4


def test_a_registrys_own_failure_stays_its_own(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("token", Fault("status", status=403, times=1))
    (failed,) = pull(cloud, program, ["iad.ocir.io"], True)
    assert failed.returncode == 41
    (good,) = pull(cloud, program, ["fra.ocir.io"], True)
    assert good.credentials.password


def test_registries_that_waited_for_one_identity_go_on_side_by_side(
    cloud: Cloud, program: Program
) -> None:
    cloud.control.fault("federation", Fault("latency", delay_ms=5000))
    hosts = ["fra.ocir.io", "eu-frankfurt-1.ocir.io", "iad.ocir.io", "us-ashburn-1.ocir.io"]
    results = pull(cloud, program, hosts, True)
    assert all(result.credentials.password for result in results)
    assert cloud.control.report().endpoints["federation"].peak == 3


@pytest.mark.parametrize("phase", ["imds.region", "federation"])
def test_when_the_one_that_proves_the_identity_is_killed_others_take_over(
    cloud: Cloud, program: Program, phase: Endpoint
) -> None:
    cloud.control.fault(phase, Fault("latency", delay_ms=8000, times=1))
    winner = start(cloud, program, "fra.ocir.io/ns/repo")
    wait_for(cloud, phase)
    waiters = [start(cloud, program, f"{host}/ns/repo") for host in ("iad.ocir.io", NEW[0])]
    time.sleep(0.5)
    os.kill(winner.pid, signal.SIGKILL)
    assert all(result.credentials.password for result in ended(waiters, 20))
    winner.communicate(timeout=10)


# --- the store ---------------------------------------------------------------------------------


def kept(cloud: Cloud) -> Mapping[str, int]:
    return {path.name: path.stat().st_size for path in cloud.ns.path(STORE).iterdir()}


def test_a_failed_exchange_sweeps_too(cloud: Cloud, program: Program) -> None:
    pull(cloud, program, SHORT[:1], True)
    plant(cloud, [f"v2-old{n}.ocir.io-00000000.failure" for n in range(50)])
    for path in cloud.ns.path(STORE).glob("*-old*"):
        os.utime(path, (time.time() - 3 * 3600,) * 2)
    pull(cloud, program, SHORT[1:2], True)
    assert len(kept(cloud)) == 4  # a lock and a failure for each


def test_the_store_is_bounded_in_files_and_keeps_what_is_useful(
    cloud: Cloud, program: Program
) -> None:
    pull(cloud, program, ["fra.ocir.io"], True)
    useful = set(kept(cloud))
    plant(cloud, [f"v2-x{n}.ocir.io-00000000{end}" for n in range(600) for end in (".lock", ".failure")])  # fmt: skip
    for name in useful:  # the oldest
        os.utime(cloud.ns.path(STORE) / name, (time.time() - 3000,) * 2)
    pull(cloud, program, SHORT[:1], True)
    assert len(kept(cloud)) <= 512
    assert useful <= set(kept(cloud))
    cloud.control.reset_counters()
    pull(cloud, program, ["fra.ocir.io"], True)
    assert cloud.control.report().connections == {}


def test_the_store_is_bounded_in_bytes(cloud: Cloud, program: Program) -> None:
    pull(cloud, program, ["fra.ocir.io"], True)
    useful = set(kept(cloud))
    plant(cloud, [f"v2-x{n}.ocir.io-00000000.failure" for n in range(40)], "x" * 200_000)
    pull(cloud, program, SHORT[:1], True)
    assert sum(kept(cloud).values()) <= 4 << 20
    assert useful <= set(kept(cloud))


def test_entries_make_room_for_newer_ones(cloud: Cloud, program: Program) -> None:
    pull(cloud, program, ["fra.ocir.io"], True)
    plant(cloud, [f"v2-x{n}.ocir.io-00000000" for n in range(600)])
    pull(cloud, program, ["iad.ocir.io"], True)
    assert len(kept(cloud)) <= 512
    assert any("iad" in name for name in kept(cloud))


def test_a_lock_that_is_held_is_never_swept(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("federation", Fault("latency", delay_ms=4000, times=1))
    winner = start(cloud, program, GOOD)
    wait_for(cloud, "federation")
    plant(cloud, [f"v2-x{n}.ocir.io-00000000.failure" for n in range(600)])
    for path in cloud.ns.path(STORE).glob("*.lock"):
        os.utime(path, (time.time() - 3000,) * 2)
    pull(cloud, program, SHORT[:1], True)
    results = ended([start(cloud, program, f"fra.ocir.io/ns/{n}") for n in range(3)] + [winner])
    assert len({result.credentials.password for result in results}) == 1
    assert cloud.control.report().count("federation") == 1


def test_a_name_as_long_as_a_file_name_is_shared_too(cloud: Cloud, program: Program) -> None:
    host = ".".join(["x" * 60] * 4)
    env = {"OCIR_HOSTS": f"*.{host.partition('.')[2]}"}
    results = [
        *pull(cloud, program, [host], True, **env),
        *pull(cloud, program, [host], True, **env),
    ]
    assert {result.returncode for result in results} == {40}
    assert not any("tokens are not shared" in entry.text for entry in cloud.ns.log())
    assert any(name.endswith(".failure") for name in kept(cloud))


@pytest.mark.parametrize("kind", ["identity", "instance", "unknown"])
def test_nonsense_in_the_store_is_a_miss(cloud: Cloud, program: Program, kind: str) -> None:
    pull(cloud, program, NEW[:1], True)
    pattern = "*.unknown" if kind == "unknown" else f"v2-{kind}-????????"
    (path,) = cloud.ns.path(STORE).glob(pattern)
    owner = {k: v for k, v in json.loads(path.read_text()).items() if k == "identity"}
    nonsense: tuple[dict[str, object], ...] = (
        {"at": float("nan"), "code": "imds-unreachable", "message": 1, "hint": None},
        {"at": "yesterday", "host": [], "region": 1, "realm_domain": {}, "key": None},
        {"at": 1e300, "host": None, "code": []},
    )
    for content in nonsense:
        path.write_text(json.dumps({**owner, **content}))
        for token in entries(cloud):
            token.unlink()
        (result,) = pull(cloud, program, NEW[:1], True)
        assert result.credentials.password
