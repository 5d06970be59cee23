"""The test cloud itself, tested with other clients than the program: it must be as strict as OCI."""

import base64
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cloud.client import Client, Outcome
from tests.cloud.harness import Cloud
from tests.cloud.model import (
    ACME,
    COMPARTMENT,
    INSTANCE,
    LANGLEY,
    PAUSE,
    REGIONS,
    USER,
    DynamicGroup,
    Endpoint,
    Fault,
    FaultKind,
    Group,
    Iam,
    Imds,
    Policy,
    Region,
    Secret,
)
from tests.cloud.namespace import REPOSITORY, Completed, Namespace

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
IMDS = "http://169.254.169.254/opc/v2"
ORACLE = {"Authorization": "Bearer Oracle"}
TOKEN = "https://fra.ocir.io/20180419/docker/token"
MANIFEST = "https://fra.ocir.io/v2/ns/repo/manifests/latest"

# The code of an SDK user. The SDK decides every byte that it sends.
SDK = """
import sys
import oci
from oci.auth.signers import InstancePrincipalsSecurityTokenSigner
from oci._vendor import requests
signer = InstancePrincipalsSecurityTokenSigner()
answer = requests.get(sys.argv[1], auth=signer, timeout=10)
answer.raise_for_status()
print(answer.json()["token"])
"""


def sdk_token(cloud: Cloud, url: str = TOKEN, env: Mapping[str, str] | None = None) -> Completed:
    environment = {"REQUESTS_CA_BUNDLE": BUNDLE, **(env or {})}
    return cloud.ns.run([sys.executable, "-c", SDK, url], env=environment, timeout=30)


# The messages of CRI-O and containerd without credentials.
REFUSALS = {
    "pull_with_skopeo": b"denied: Anonymous users are only allowed read access on public repos",
    "pull_with_containerd": b"403 Forbidden",
}


def token_of(cloud: Cloud) -> str:
    return sdk_token(cloud).check().stdout.decode().strip()


def bearer(token: str) -> dict[str, str]:
    """Return the headers of a pull: the token and the accepted manifest types."""
    accept = "application/vnd.oci.image.manifest.v1+json"
    return {"Authorization": f"Bearer {token}", "Accept": accept}


def basic(token: str, user: str = "BEARER_TOKEN") -> dict[str, str]:
    pair = base64.b64encode(f"{user}:{token}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


# --- the stand-in acts as OCI ------------------------------------------------------------------


def test_the_sdk_gets_a_token_with_only_its_ca_bundle_set(cloud: Cloud) -> None:
    token_of(cloud)
    report = cloud.control.report()
    assert report.refusals() == []
    assert report.of_group("imds") == 7  # as in the SDK
    assert report.count("federation") == report.count("token") == 1


@pytest.mark.parametrize("region", [LANGLEY, ACME], ids=lambda r: r.name)
def test_the_sdk_gets_a_token_in_another_realm(cloud: Cloud, region: Region) -> None:
    cloud.control.imds(Imds(region=region))
    url = f"https://ocir.{region.name}.oci.{region.domain}/20180419/docker/token"
    # The SDK must be told of a dedicated region.
    metadata = (
        f'{{"realmKey":"{region.realm}","realmDomainComponent":"{region.domain}",'
        f'"regionKey":"{region.key}","regionIdentifier":"{region.name}"}}'
    )
    token = sdk_token(cloud, url, {"OCI_REGION_METADATA": metadata}).check().stdout.decode()
    assert token.count(".") == 2


def test_skopeo_and_containerd_pull_with_the_token_and_not_without(cloud: Cloud) -> None:
    token, registry = token_of(cloud), cloud.registry
    for image in ("fra.ocir.io/ns/repo:latest", f"eu-frankfurt-1.ocir.io/ns/app@{registry.digest}"):
        for pull in (registry.pull_with_skopeo, registry.pull_with_containerd):
            pull(image, token).check()
            assert REFUSALS[pull.__name__] in pull(image, None).stderr
            assert pull(image, "not-a-token").returncode != 0
            assert pull(image, token, "someone").returncode != 0


def test_anyone_can_pull_public_images_and_policies_allow_others(cloud: Cloud) -> None:
    token, registry = token_of(cloud), cloud.registry
    for password in (token, None):
        registry.pull_with_skopeo(f"fra.ocir.io/{PAUSE}:v1", password).check()
    denied = registry.pull_with_skopeo("fra.ocir.io/other/secret", token).stderr.decode()
    reading = "reading manifest latest in fra.ocir.io/other/secret: denied: "
    assert f"{reading}User UserId({INSTANCE}) not authorized" in denied


def test_a_bearer_token_works_on_the_registry_itself(cloud: Cloud, client: Client) -> None:
    token = token_of(cloud)
    statuses = {
        path: client.request("HEAD", f"https://fra.ocir.io/v2/{path}", bearer(token)).status
        for path in (
            "",
            "ns/repo/manifests/latest",
            "ns/public/manifests/latest",
            "ns/absent/manifests/latest",
            "other/secret/manifests/latest",
        )
    }
    assert list(statuses.values()) == [200, 200, 200, 404, 403]


def test_an_unauthenticated_request_gets_the_token_endpoint(client: Client) -> None:
    answer = client.get("https://eu-frankfurt-1.ocir.io/v2/ns/repo/manifests/latest")
    assert answer.status == 401 and answer.headers is not None
    assert answer.headers["www-authenticate"] == (
        'Bearer realm="https://eu-frankfurt-1.ocir.io/20180419/docker/token",'
        'service="eu-frankfurt-1.ocir.io",scope="repository:ns/repo:pull"'
    )


def test_anyone_gets_a_token_but_not_the_manifest(cloud: Cloud, client: Client) -> None:
    def manifest(repository: str, credentials: Mapping[str, str]) -> Outcome:
        scope = f"?service=fra.ocir.io&scope=repository:{repository}:pull"
        token = client.get(TOKEN + scope, credentials).json()["token"]
        return client.get(f"https://fra.ocir.io/v2/{repository}/manifests/latest", bearer(token))

    own = token_of(cloud)
    cloud.control.iam(Iam(policies=()))
    for credentials in ({}, basic(own)):
        assert manifest("ns/public", credentials).status == 200
        assert manifest(PAUSE, credentials).status == 200
    for credentials, message in (
        ({}, "Anonymous users are only allowed read access on public repos"),
        (basic(own), f"User UserId({INSTANCE}) not authorized"),
    ):
        denied = manifest("ns/repo", credentials)
        assert denied.status == 403
        assert denied.json() == {"errors": [{"code": "DENIED", "message": message}]}
    assert client.get(TOKEN).json()["errors"][0]["code"] == "DENIED"


def test_a_scoped_token_works_for_its_repository_only(cloud: Cloud, client: Client) -> None:
    scope = "?service=fra.ocir.io&scope=repository:ns/repo:pull"
    token = client.get(TOKEN + scope, basic(token_of(cloud))).json()["token"]
    assert client.get(MANIFEST, bearer(token)).status == 200
    other = client.get("https://fra.ocir.io/v2/ns/app/manifests/latest", bearer(token))
    assert other.status == 403


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("ns/repo/manifests/sha256:" + "0" * 64, 404, "MANIFEST_UNKNOWN"),
        ("ns/untagged/manifests/latest", 404, "MANIFEST_UNKNOWN"),
        ("ns/absent/manifests/latest", 404, "NAME_UNKNOWN"),
        ("ns/repo/blobs/sha256:" + "0" * 64, 404, "BLOB_UNKNOWN"),
        ("other/absent/manifests/latest", 403, "DENIED"),
    ],
)
def test_an_absent_object_has_its_code_if_the_principal_may_read(
    cloud: Cloud, client: Client, path: str, status: int, code: str
) -> None:
    answer = client.get(f"https://fra.ocir.io/v2/{path}", bearer(token_of(cloud)))
    assert answer.status == status
    assert [error["code"] for error in answer.json()["errors"]] == [code]


def test_a_bad_token_gets_ocirs_message(client: Client) -> None:
    answer = client.get(MANIFEST, bearer("a.b.c"))
    assert answer.status == 401
    assert answer.json() == {"errors": [{"code": "UNKNOWN", "message": "Unauthorized"}]}


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (basic("not.a.token"), "not one that was issued here"),
        (basic("x", "someone"), "the user is not BEARER_TOKEN"),
        ({"Authorization": "Basic %"}, "malformed Basic"),
        ({"Authorization": "Signature x"}, "malformed Signature"),
        (bearer("x"), "is not Signature"),
    ],
)
def test_bad_credentials_are_refused_at_the_token_endpoint(
    cloud: Cloud, client: Client, headers: dict[str, str], reason: str
) -> None:
    answer = client.get(TOKEN, headers)
    assert (answer.status, answer.json()["code"]) == (401, "NotAuthenticated")
    assert reason in answer.json()["message"]
    assert cloud.control.report().refusals() == [answer.json()["message"]]


def test_an_expired_registry_token_is_refused(cloud: Cloud, client: Client) -> None:
    token = token_of(cloud)
    assert client.get(MANIFEST, bearer(token)).status == 200
    cloud.control.clock(3700)
    assert client.get(MANIFEST, bearer(token)).status == 401


def test_clock_skew_shows_in_the_date_and_the_sdk_is_refused(cloud: Cloud, client: Client) -> None:
    cloud.control.clock(600)
    result = sdk_token(cloud)
    assert result.returncode != 0
    assert re.search(r"-(600|601) s off", cloud.control.report().refusals()[0])
    answer = client.get(f"{IMDS}/instance/region", ORACLE)
    assert answer.headers is not None
    sent = time.strptime(answer.headers["date"], "%a, %d %b %Y %H:%M:%S GMT")
    assert 595 < time.mktime(sent) - time.timezone - time.time() < 605


# --- identity and access management ------------------------------------------------------------


def test_a_token_older_than_its_dynamic_group_never_works(cloud: Cloud, client: Client) -> None:
    old = token_of(cloud)
    cloud.control.iam(Iam(dynamic_groups=(DynamicGroup(since=time.time()),)))
    assert client.get(MANIFEST, bearer(old)).status == 403
    assert client.get(MANIFEST, bearer(token_of(cloud))).status == 200


def test_a_late_policy_makes_an_old_token_work(cloud: Cloud, client: Client) -> None:
    cloud.control.iam(Iam(policies=()))
    token = token_of(cloud)
    answer = client.get(MANIFEST, bearer(token))
    assert answer.status == 403 and b"not authorized" in answer.body
    cloud.control.iam(Iam(policies=(Policy(since=time.time() + 60),)))
    assert client.get(MANIFEST, bearer(token)).status == 403
    cloud.control.iam(Iam(policies=(Policy(prefix="ns/repo"),)))
    assert client.get(MANIFEST, bearer(token)).status == 200


def test_an_instance_of_another_compartment_is_not_in_the_group(
    cloud: Cloud, client: Client
) -> None:
    cloud.control.imds(Imds(compartment=f"{COMPARTMENT}2"))
    assert client.get(MANIFEST, bearer(token_of(cloud))).status == 403


def test_a_session_and_an_api_key_have_the_values_of_a_config_file(cloud: Cloud) -> None:
    key, session = cloud.control.api_key(passphrase="correct horse"), cloud.control.session()
    assert "ENCRYPTED" in key.private_pem and key.user == session.user == USER
    assert session.token.count(".") == 2
    kinds = {secret.kind for secret in cloud.control.secrets()}
    assert {"api key", "session key", "security token", "passphrase"} <= kinds


# --- metadata ----------------------------------------------------------------------------------


def test_metadata_of_a_dedicated_region_names_its_realm(cloud: Cloud, client: Client) -> None:
    cloud.control.imds(Imds(region=ACME))
    info = client.get(f"{IMDS}/instance/regionInfo", ORACLE).json()
    assert info["realmDomainComponent"] == "acmecloud.example"
    assert client.get(f"{IMDS}/instance/", ORACLE).json()["region"] == "us-acme-1"


def test_a_managed_nodes_metadata_does_not_name_its_api_server(
    cloud: Cloud, client: Client
) -> None:
    metadata = client.get(f"{IMDS}/instance/metadata/", ORACLE).json()
    assert {"ansible_args", "bootstrap-kubelet-conf", "oke-cluster-id"} < set(metadata)
    assert not {"apiserver_host", "cluster_ca_cert"} & set(metadata)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/opc/v2/instance/region", {}, 401),
        ("/opc/v2/instance/region", {"Authorization": "Bearer oracle"}, 401),
        ("/opc/v2/instance/region", {**ORACLE, "X-Forwarded-For": "10.0.0.1"}, 403),
        ("/opc/v2/instance/region", {**ORACLE, "X-Forwarded-Host": "squid"}, 403),
        ("/opc/v2/instance/region", {**ORACLE, "Forwarded": "for=10.0.0.1"}, 403),
        ("/opc/v2/identity/other.pem", ORACLE, 404),
        ("/opc/v3/instance/region", ORACLE, 404),
        ("/latest/meta-data", ORACLE, 404),
    ],
)
def test_metadata_requests_that_oci_refuses_are_refused(
    client: Client, path: str, headers: dict[str, str], status: int
) -> None:
    answer = client.get(f"http://169.254.169.254{path}", headers)
    assert answer.status == status and answer.json()["message"]


def test_version_1_needs_no_header(client: Client) -> None:
    answer = client.get("http://169.254.169.254/opc/v1/instance/region")
    assert answer.body == b"eu-frankfurt-1"


def test_metadata_is_throttled_above_a_number_of_parallel_requests(cloud: Cloud) -> None:
    cloud.control.imds(Imds(max_under_way=1))
    cloud.control.latency(300)
    code = f"""
import concurrent.futures, urllib.request, urllib.error
def get(_):
    request = urllib.request.Request("{IMDS}/instance/region", headers={ORACLE!r})
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code
with concurrent.futures.ThreadPoolExecutor(3) as pool:
    print(sorted(pool.map(get, range(3))))
"""
    output = cloud.ns.run([sys.executable, "-c", code]).check().stdout
    assert output == b"[200, 429, 429]\n"
    assert cloud.control.report().endpoints["imds.region"].peak == 3


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault("refused"), Outcome(error="ConnectionRefusedError")),
        (Fault("black_hole"), Outcome(error="TimeoutError")),
        (Fault("reset_accept"), Outcome(error="ConnectionResetError")),
        (Fault("tls_expired"), Outcome(error="certificate has expired")),
        (Fault("tls_wrong_name"), Outcome(error="Hostname mismatch")),
        (Fault("tls_unknown_ca"), Outcome(error="unable to get local issuer")),
        # The message depends on the version of OpenSSL.
        (Fault("tls_old"), Outcome(error="SSLError")),
        (Fault("status", status=503, body="later"), Outcome(503, body=b"later")),
        (Fault("echo", status=401), Outcome(401, body=b"Bearer tell-me")),
        (Fault("redirect"), Outcome(302)),
        (Fault("redirect", status=308), Outcome(308)),
        # Some versions of OpenSSL report a reset as an end of file.
        (Fault("reset_body"), Outcome(error="IncompleteRead|ConnectionResetError")),
        (Fault("slow_headers"), Outcome(error="TimeoutError")),
        (Fault("slow_body"), Outcome(error="TimeoutError")),
        (Fault("endless_headers"), Outcome(error="got more than 100 headers")),
        (Fault("huge_body"), Outcome(200, error="body too long")),
        (Fault("cut_body"), Outcome(error="IncompleteRead")),
        (Fault("content_type", content_type="text/html"), Outcome(401, body=b'{"code"')),
        (Fault("html"), Outcome(200, body=b"<!DOCTYPE html>")),
        (Fault("invalid_json"), Outcome(200, body=b'{"token": "cut')),
        (Fault("patch", patch={"code": 7}), Outcome(401, body=b'{"code": 7')),
        (Fault("body", body="[]"), Outcome(200, body=b"[]")),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_a_client_sees_each_fault(
    cloud: Cloud, client: Client, fault: Fault, outcome: Outcome
) -> None:
    cloud.control.fault("token", replace(fault, interval_s=0.5))
    timeout = 0.3 if "Timeout" in outcome.error else 5
    answer = client.get(TOKEN, bearer("tell-me"), timeout=timeout)
    assert re.search(outcome.error, answer.error) and bool(outcome.error) == bool(answer.error)
    assert answer.status == outcome.status or answer.error
    assert outcome.body in answer.body
    cloud.control.clear_faults()
    assert client.get(TOKEN).status == 403


@pytest.mark.parametrize("kind", ["reset_accept", "reset_headers", "reset_body"])
def test_a_reset_is_a_reset_in_each_phase(cloud: Cloud, client: Client, kind: FaultKind) -> None:
    cloud.control.fault("imds.region", Fault(kind))
    answer = client.get(f"{IMDS}/instance/regionInfo", ORACLE)
    assert "ConnectionResetError" in answer.error


def test_an_endless_body_continues_while_it_is_read(cloud: Cloud) -> None:
    cloud.control.fault("token", Fault("endless_body"))
    code = f"""
import http.client, ssl
context = ssl.create_default_context(cafile="{BUNDLE}")
connection = http.client.HTTPSConnection("fra.ocir.io", context=context)
connection.request("GET", "/20180419/docker/token")
print(len(connection.getresponse().read(500_000)))
"""
    assert cloud.ns.run([sys.executable, "-c", code]).check().stdout == b"500000\n"


def test_latency_delays_every_answer(cloud: Cloud, client: Client) -> None:
    cloud.control.latency(80)
    began = time.perf_counter()
    client.get(f"{IMDS}/instance/region", ORACLE)
    assert 0.08 <= time.perf_counter() - began < 1
    cloud.control.latency(0)
    cloud.control.fault("imds.region", Fault("latency", delay_ms=80))
    began = time.perf_counter()
    assert client.get(f"{IMDS}/instance/region", ORACLE).status == 200
    assert 0.08 <= time.perf_counter() - began < 1


def test_a_fault_ends_after_its_number_of_requests(cloud: Cloud, client: Client) -> None:
    cloud.control.fault("token", Fault("status", status=500, times=2))
    assert [client.get(TOKEN).status for _ in range(4)] == [500, 500, 403, 403]
    cloud.control.fault("token", Fault("reset_accept", times=1))
    assert [bool(client.get(TOKEN).error) for _ in range(2)] == [True, False]


def test_a_random_fault_hits_its_share_of_requests_reproducibly(
    cloud: Cloud, client: Client
) -> None:
    cloud.control.fault("token", Fault("status", status=500, rate=0.5))
    runs = []
    for _ in range(2):
        cloud.control.seed(7)
        runs.append([client.get(TOKEN).status for _ in range(20)])
    assert runs[0] == runs[1] and 3 < runs[0].count(500) < 17


def test_a_retry_after_is_sent_with_a_429(cloud: Cloud, client: Client) -> None:
    fault = Fault("status", status=429, headers=(("Retry-After", "3"),))
    cloud.control.fault("federation", fault)
    answer = client.request("POST", "https://auth.eu-frankfurt-1.oraclecloud.com/v1/x509")
    assert answer.headers is not None
    assert (answer.status, answer.headers["retry-after"]) == (429, "3")


@pytest.mark.parametrize("target", ["imds.cert", "imds.key", "imds.intermediate", "imds.region"])
@pytest.mark.parametrize(
    ("kind", "error"), [("black_hole", "TimeoutError"), ("reset_accept", "ConnectionReset")]
)
def test_one_metadata_endpoint_fails_alone(
    cloud: Cloud, client: Client, target: Endpoint, kind: FaultKind, error: str
) -> None:
    cloud.control.fault(target, Fault(kind))
    paths: dict[Endpoint, str] = {
        "imds.cert": "identity/cert.pem",
        "imds.key": "identity/key.pem",
        "imds.intermediate": "identity/intermediate.pem",
        "imds.region": "instance/regionInfo",
    }
    for endpoint, path in paths.items():
        answer = client.get(f"{IMDS}/{path}", ORACLE, timeout=0.5)
        assert error in answer.error if endpoint == target else answer.status == 200


@pytest.mark.parametrize("kind", ["refused", "black_hole", "reset_accept", "tls_expired"])
def test_a_connection_fault_of_the_manifest_does_not_affect_the_token(
    cloud: Cloud, client: Client, kind: FaultKind
) -> None:
    cloud.control.fault("manifest", Fault(kind))
    token = token_of(cloud)
    assert client.get(MANIFEST, bearer(token), timeout=0.3).error


@pytest.mark.parametrize("group", ["imds", "federation", "registry"])
def test_a_whole_group_of_hosts_can_be_refused_and_comes_back(
    cloud: Cloud, client: Client, group: Group
) -> None:
    urls: dict[str, str] = {
        "imds": f"{IMDS}/instance/region",
        "federation": "https://auth.eu-frankfurt-1.oraclecloud.com/v1/x509",
        "registry": TOKEN,
    }
    cloud.control.fault(group, Fault("refused"))
    for name, url in urls.items():
        refused = "ConnectionRefused" in client.get(url).error
        assert refused == (name == group)
    cloud.control.clear_faults()
    assert client.get(urls[group]).status


def test_a_refused_connection_cannot_be_counted() -> None:
    with pytest.raises(ValueError, match="cannot count"):
        Fault("refused", times=3)


def test_a_request_that_is_not_http_is_refused(cloud: Cloud) -> None:
    code = """
import socket
for text in (b"GARBAGE\\r\\n\\r\\n", b"GET / HTTP/1.1\\r\\n bad: 1\\r\\n\\r\\n",
             b"POST / HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"):
    with socket.create_connection(("169.254.169.254", 80)) as s:
        s.sendall(text)
        print(s.recv(12).decode())
"""
    output = cloud.ns.run([sys.executable, "-c", code]).check().stdout
    assert output == b"HTTP/1.1 400\n" * 3


# --- counters and secrets ----------------------------------------------------------------------


def test_the_request_log_has_each_request_and_the_reason_of_a_refusal(
    cloud: Cloud, client: Client
) -> None:
    client.get(f"{IMDS}/instance/region", {"X-Marker": "secret-value"})
    (seen,) = cloud.control.report().requests
    assert (seen.endpoint, seen.method, seen.status) == ("imds.region", "GET", 401)
    assert seen.path == "/opc/v2/instance/region" and "x-marker" in seen.header_names
    assert seen.refusal == "Authorization: Bearer Oracle is missing"
    assert "secret-value" not in repr(seen)


def test_connections_are_counted_by_group_and_reused_ones_once(cloud: Cloud) -> None:
    token_of(cloud)
    report = cloud.control.report()
    assert report.connections["federation"] == report.connections["registry"] == 1
    assert 1 <= report.connections["imds"] <= 7


def test_a_client_that_gives_up_on_a_black_hole_is_no_longer_counted(
    cloud: Cloud, client: Client
) -> None:
    cloud.control.fault("imds.cert", Fault("black_hole"))
    for _ in range(2):
        assert client.get(f"{IMDS}/identity/cert.pem", ORACLE, timeout=0.1).error
        time.sleep(0.2)
    count = cloud.control.report().endpoints["imds.cert"]
    assert (count.requests, count.peak, count.statuses) == (2, 1, {"0": 2})


def test_each_issued_secret_is_listed(cloud: Cloud, client: Client) -> None:
    token = token_of(cloud)
    key = client.get(f"{IMDS}/identity/key.pem", ORACLE).body.decode()
    values = {secret.value for secret in cloud.control.secrets()}
    assert {token, key} <= values


def test_a_wrapped_escaped_or_cut_secret_is_found() -> None:
    pem = "-----BEGIN RSA PRIVATE KEY-----\n" + "A" * 64 + "\nBB==\n-----END RSA PRIVATE KEY-----\n"
    assert Secret("key", pem).needles() == ("A" * 64,)
    token = ".".join(("h" * 60, "p" * 100, "s" * 100))
    assert set(Secret("token", token).needles()) == {"p" * 48, "s" * 48}
    assert Secret("passphrase", "x").needles() == ("x",)


def test_requests_to_other_hosts_are_recorded(cloud: Cloud, client: Client) -> None:
    client.get("https://fra.ocir.io.elsewhere.example/20180419/docker/token")
    client.get("http://elsewhere.example/")
    assert cloud.control.report().count("elsewhere") == 2


def test_a_proxy_tunnels_and_is_counted(cloud: Cloud) -> None:
    token_of_proxy = sdk_token(cloud, env={"HTTPS_PROXY": "http://proxy.example:3128"})
    token_of_proxy.check()
    report = cloud.control.report()
    assert [r.path for r in report.requests if r.endpoint == "proxy"] == [
        "auth.eu-frankfurt-1.oraclecloud.com:443",
        "fra.ocir.io:443",
    ]


# --- the namespace -----------------------------------------------------------------------------


def test_a_program_sees_the_kubelets_environment(cloud: Cloud) -> None:
    code = "import os; print(sorted(os.environ), os.getcwd())"
    result = cloud.ns.run([sys.executable, "-c", code], env={"LOG_LEVEL": "debug"}).check()
    # Python itself adds LC_CTYPE.
    assert result.stdout.replace(b"'LC_CTYPE', ", b"") == b"['LOG_LEVEL', 'PATH'] /\n"


def test_stdin_exit_status_signals_and_pids_are_the_programs_own(cloud: Cloud) -> None:
    result = cloud.ns.run(["sh", "-c", "cat; exit 3"], stdin=b"hello")
    assert (result.returncode, result.stdout) == (3, b"hello")
    assert cloud.ns.run(["sh", "-c", "kill -TERM $$"]).returncode == -signal.SIGTERM
    with cloud.ns.popen(["sh", "-c", "echo $$; exec sleep 60"]) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        assert process.pid in cloud.strays()
        process.kill()


def test_a_run_that_takes_too_long_is_killed_with_its_children(cloud: Cloud) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        cloud.ns.run(["sh", "-c", "sleep 60 & sleep 60"], timeout=0.2)
    assert cloud.strays() == []


def test_the_root_is_in_the_bundle_and_in_the_hashed_directory(cloud: Cloud) -> None:
    code = """
import socket, ssl, sys
for where in ({"cafile": "/etc/ssl/certs/ca-certificates.crt"}, {"capath": "/etc/ssl/certs"}):
    context = ssl.create_default_context(**where)
    with socket.create_connection(("fra.ocir.io", 443)) as s:
        print(context.wrap_socket(s, server_hostname="fra.ocir.io").version())
"""
    output = cloud.ns.run([sys.executable, "-c", code]).check().stdout
    assert output == b"TLSv1.3\nTLSv1.3\n"


def test_each_host_has_a_certificate_for_its_name(client: Client) -> None:
    for region in REGIONS:
        assert client.get(f"https://ocir.{region.name}.oci.{region.domain}/v2/").status == 401
        assert client.get(f"https://auth.{region.name}.{region.domain}/").status == 404


def test_an_unknown_name_fails_at_once(cloud: Cloud, client: Client) -> None:
    cloud.ns.hosts("127.0.0.1 localhost\n")
    began = time.perf_counter()
    assert "gaierror" in client.get(TOKEN).error
    assert time.perf_counter() - began < 1
    cloud.ns.hosts()
    assert client.get(TOKEN).status == 403


def test_nothing_outside_can_be_reached(cloud: Cloud) -> None:
    code = """
import socket
s = socket.socket()
s.settimeout(1)
s.connect(("192.0.2.1", 443))
"""
    assert b"Network is unreachable" in cloud.ns.run([sys.executable, "-c", code]).stderr


def send(path: str, data: bytes) -> str:
    return f"""
import socket
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto({data!r}, {path!r})
"""


def test_a_journal_entry_is_recorded_once(cloud: Cloud) -> None:
    data = b"MESSAGE=one line\nPRIORITY=6\nLONG\n\x03\0\0\0\0\0\0\0a\nb\n"
    code = send("/run/systemd/journal/socket", data)
    cloud.ns.run([sys.executable, "-c", code]).check()
    (entry,) = cloud.ns.log()
    assert entry.fields == {"MESSAGE": "one line", "PRIORITY": "6", "LONG": "a\nb"}
    assert cloud.ns.log() == []


def test_a_large_journal_entry_passed_as_a_memfd_is_recorded(cloud: Cloud) -> None:
    code = """
import os, socket
fd = os.memfd_create("entry")
os.write(fd, b"MESSAGE=" + b"x" * 300000 + b"\\n")
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect("/run/systemd/journal/socket")
socket.send_fds(s, [b""], [fd])
"""
    cloud.ns.run([sys.executable, "-c", code]).check()
    (entry,) = cloud.ns.log()
    assert entry.fields == {"MESSAGE": "x" * 300000}


def test_many_log_lines_are_all_recorded(cloud: Cloud) -> None:
    code = """
import socket
for n in range(100):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.setblocking(False)
    s.sendto(b"MESSAGE=%d\\n" % n, "/run/systemd/journal/socket")
"""
    cloud.ns.run([sys.executable, "-c", code]).check()
    assert [e.fields["MESSAGE"] for e in cloud.ns.log()] == [str(n) for n in range(100)]


def test_a_machine_may_have_syslog_only_or_no_log_at_all() -> None:
    with Namespace(log="devlog") as ns:
        ns.run([sys.executable, "-c", send("/dev/log", b"<14>hello")]).check()
        assert [entry.text for entry in ns.log()] == ["<14>hello"]
        assert not ns.path("/run/systemd/journal/socket").exists()
    with Namespace(log="") as ns:
        assert ns.log() == []
        assert not ns.path("/dev/log").exists()


def test_run_is_a_tmpfs_and_the_machines_own_is_untouched(cloud: Cloud) -> None:
    kind = cloud.ns.run(["stat", "--file-system", "--format=%T", "/run"]).stdout
    assert kind == b"tmpfs\n"
    cloud.ns.run(["mkdir", "/run/oke-credential-provider"]).check()
    # The directory may exist on this machine too. This one was created inside.
    made = cloud.ns.path("/run/oke-credential-provider")
    assert made.stat().st_dev != Path("/run").stat().st_dev
    cloud.reset()
    assert not cloud.ns.path("/run/oke-credential-provider").exists()


def test_two_clouds_run_in_parallel(cloud: Cloud, client: Client) -> None:
    with Cloud() as other:
        other.control.fault("token", Fault("status", status=500))
        assert (other.client.get(TOKEN).status, client.get(TOKEN).status) == (500, 403)


def test_a_cloud_starts_fast() -> None:
    def used() -> float:
        return sum(os.times()[:4])

    def start() -> float:
        began = used()
        with Cloud():
            pass
        return used() - began

    # CPU time: other processes on the machine do not count.
    assert min(start() for _ in range(3)) < 1.5


def test_nothing_is_left_when_the_harness_is_killed(tmp_path: Path) -> None:
    code = """
import sys, time
from tests.cloud.harness import Cloud
cloud = Cloud()
cloud.ns.popen(["sh", "-c", "sleep 1000 & sleep 1000"])
while len(cloud.ns.processes()) < 4:
    time.sleep(0.01)
print(cloud.ns.folder, *cloud.ns.processes(), flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    harness = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, env=environment
    )
    assert harness.stdout is not None
    folder, *pids = harness.stdout.readline().decode().split()
    assert len(pids) == 4 and Path(folder).is_dir()
    harness.kill()
    harness.wait()
    harness.stdout.close()
    end = time.monotonic() + 30  # on a busy machine
    while any(Path(f"/proc/{pid}").exists() for pid in pids) or Path(folder).exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_command_line_runs_a_command_in_a_cloud() -> None:
    code = "import urllib.request as r; r.urlopen('http://169.254.169.254/opc/v1/instance/id')"
    argv = [sys.executable, "-m", "tests.cloud", "--latency-ms", "1", "--"]
    argv += [sys.executable, "-c", code + "; exit(7)"]
    result = subprocess.run(argv, cwd=REPOSITORY)
    assert result.returncode == 7


def test_without_root_a_cloud_says_what_it_needs() -> None:
    """The test imports as root, because the clone may be in a directory closed to other users."""
    code = f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from tests.cloud.harness import Cloud
os.setresuid(65534, 65534, 65534)
Cloud()
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "needs root" in line
