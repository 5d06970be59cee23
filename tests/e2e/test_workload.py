"""Workload identity, where a pod pulls as its own service account; resource principals."""

import base64
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from provider.auth.kubeconfig import Kubeconfig
from provider.auth.service_account import service_account
from provider.auth.workload_identity import APISERVER_FILE, CA_FILE, OKE_CONF, find_cluster
from provider.commands.kubelet_config import TokenAttributes, load, validate
from provider.errors import ClusterUnknown, NoServiceAccountToken
from provider.plugin.request import parse_request
from provider.settings import Settings
from tests.cloud.harness import Cloud
from tests.cloud.model import (
    ACME,
    CLUSTER_ADDRESS,
    RESOURCE,
    Cluster,
    Fault,
    FaultKind,
    Iam,
    Imds,
    Policy,
    Workload,
)
from tests.cloud.namespace import REPOSITORY, Completed
from tests.conftest import Program
from tests.support.kubelet import Credentials, read_response, request

pytestmark = pytest.mark.every_form

IMAGE = "fra.ocir.io/ns/repo"
APP = Workload()
OTHER = Workload(namespace="other", service_account="app")
STORE = "/run/oke-credential-provider"


@pytest.fixture(autouse=True)
def _policies(cloud: Cloud) -> None:
    cloud.control.iam(Iam(policies=(Policy(APP), Policy(OTHER, prefix="other/"))))


def settings(cloud: Cloud, **more: str) -> dict[str, str]:
    return {
        "OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY",
        "KUBERNETES_SERVICE_HOST": CLUSTER_ADDRESS,
        "OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH": str(cloud.ns.folder / "cluster-ca.pem"),
        **more,
    }


def call(
    cloud: Cloud, program: Program, token: str | None, image: str = IMAGE, **env: str
) -> Completed:
    fields = {"serviceAccountToken": token} if token else {}
    return program.run(cloud, stdin=request(image, **fields), env=settings(cloud, **env))


def credentials(
    cloud: Cloud, program: Program, token: str | None, image: str = IMAGE, **env: str
) -> Credentials:
    return read_response(call(cloud, program, token, image, **env).check().stdout)


# --- the main case -----------------------------------------------------------------------------


def test_a_pod_pulls_as_its_service_account_and_only_what_that_may_pull(
    cloud: Cloud, program: Program
) -> None:
    registry = cloud.registry
    mine = credentials(cloud, program, cloud.control.service_account_token(APP))
    assert mine.cache_key_type == "Image"
    assert mine.cache_seconds == pytest.approx(3300, abs=10)
    registry.pull_with_skopeo(f"{IMAGE}:latest", mine.password).check()
    assert registry.pull_with_skopeo("fra.ocir.io/other/secret", mine.password).returncode != 0
    secret = "fra.ocir.io/other/secret"
    theirs = credentials(cloud, program, cloud.control.service_account_token(OTHER), secret)
    registry.pull_with_skopeo(secret, theirs.password).check()
    assert registry.pull_with_skopeo(IMAGE, theirs.password).returncode != 0


def test_a_cold_call_queries_the_cluster_once_and_never_imds(
    cloud: Cloud, program: Program
) -> None:
    credentials(cloud, program, cloud.control.service_account_token(APP))
    report = cloud.control.report()
    assert report.connections == {"cluster": 1, "registry": 1}
    assert [report.count(e) for e in ("workload", "token", "manifest")] == [1, 1, 1]
    assert report.refusals() == []


def test_the_clusters_endpoint_gets_the_sdks_request(cloud: Cloud, program: Program) -> None:
    token = cloud.control.service_account_token(APP)
    script = """
import sys
from oci.auth.rpt_path_providers import SuppliedServiceAccountTokenProvider
from oci.auth.signers import OkeWorkloadIdentityResourcePrincipalSigner
host, ca, token = sys.argv[1:]
provider = SuppliedServiceAccountTokenProvider(token)
signer = OkeWorkloadIdentityResourcePrincipalSigner(provider, ca, host, "12250")
assert signer.api_key.startswith("ST$ey"), signer.api_key[:3]
"""
    ca = str(cloud.ns.folder / "cluster-ca.pem")
    cloud.ns.run([sys.executable, "-c", script, CLUSTER_ADDRESS, ca, token]).check()
    credentials(cloud, program, token)
    sdk, ours = (r for r in cloud.control.report().requests if r.endpoint == "workload")
    # The stand-in accepts no body except {"podKey": <base64 of an RSA key>}, and no other content type.
    assert (sdk.status, sdk.refusal) == (ours.status, ours.refusal) == (200, None)
    assert (sdk.method, sdk.path, sdk.host) == (ours.method, ours.path, ours.host)
    clients_own = {"accept", "accept-encoding", "connection", "user-agent"}
    assert set(sdk.header_names) - clients_own == set(ours.header_names) - clients_own


def test_a_dedicated_region_is_known_by_imds(cloud: Cloud, program: Program) -> None:
    cloud.control.imds(Imds(region=ACME))
    image = "ocir.us-acme-1.oci.acmecloud.example/ns/repo"
    token = cloud.control.service_account_token(APP)
    assert credentials(cloud, program, token, image).password


def test_no_proxy_is_used_for_the_clusters_endpoint(cloud: Cloud, program: Program) -> None:
    token = cloud.control.service_account_token(APP)
    credentials(cloud, program, token, HTTPS_PROXY="http://proxy.example:3128")
    proxied = [r.path for r in cloud.control.report().requests if r.endpoint == "proxy"]
    assert proxied == ["fra.ocir.io:443"]


def test_the_log_of_a_denied_pull_says_experimental(cloud: Cloud, program: Program) -> None:
    cloud.control.iam(Iam(policies=()))
    denied = credentials(cloud, program, cloud.control.service_account_token(APP))
    assert denied.cache_seconds == pytest.approx(120, abs=10)
    (entry,) = cloud.ns.log()
    assert "experimental" in entry.fields["OKE_PULL_CHECK"]


# --- no service-account token ------------------------------------------------------------------


def test_without_a_service_account_token_there_are_no_credentials_and_no_requests(
    cloud: Cloud, program: Program
) -> None:
    result = call(cloud, program, None)
    assert (result.returncode, result.stdout) == (13, b"")
    assert b"no-service-account-token" in result.stderr
    assert b"tokenAttributes" in result.stderr
    assert cloud.control.report().connections == {}


def test_another_registry_gets_an_empty_response_without_a_token(
    cloud: Cloud, program: Program
) -> None:
    assert credentials(cloud, program, None, "docker.io/library/busybox").auth == {}


def test_the_nodes_identity_is_used_only_if_configured_and_without_an_account(
    cloud: Cloud, program: Program
) -> None:
    cloud.control.iam(Iam())
    either = {"OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL"}
    assert credentials(cloud, program, None, **either).password
    assert cloud.control.report().count("federation") == 1
    cloud.control.reset_counters()
    assert credentials(cloud, program, cloud.control.service_account_token(APP), **either).password
    assert cloud.control.report().connections == {"cluster": 1, "registry": 1}


def test_the_nodes_identity_never_replaces_a_refused_account(
    cloud: Cloud, program: Program
) -> None:
    either = {"OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL"}
    token = cloud.control.service_account_token(APP, forged=True)
    assert call(cloud, program, token, **either).returncode == 34
    assert cloud.control.report().of_group("imds") == 0


# --- separate accounts -------------------------------------------------------------------------


def test_two_accounts_never_share_a_token(cloud: Cloud, program: Program) -> None:
    tokens = [
        cloud.control.service_account_token(APP),
        cloud.control.service_account_token(OTHER),
        # Deleted and created again: the same name, but another account.
        cloud.control.service_account_token(APP, uid="another-uid"),
        cloud.control.service_account_token(APP, pod="pod-2"),
    ]
    passwords = [credentials(cloud, program, token).password for token in tokens]
    assert len(set(passwords)) == len(tokens)
    again = [credentials(cloud, program, token).password for token in tokens]
    assert again == passwords
    assert cloud.control.report().count("workload") == len(tokens)


def test_the_node_and_its_pods_never_share_a_token(cloud: Cloud, program: Program) -> None:
    token = cloud.control.service_account_token(APP)
    node = {"OCIR_AUTH_METHOD": "INSTANCE_PRINCIPAL"}
    assert (
        credentials(cloud, program, token, **node).password
        != credentials(cloud, program, token).password
    )


def test_a_forged_token_with_an_accounts_claims_never_gets_a_cached_token(
    cloud: Cloud, program: Program
) -> None:
    credentials(cloud, program, cloud.control.service_account_token(APP))
    result = call(cloud, program, cloud.control.service_account_token(APP, forged=True))
    assert (result.returncode, result.stdout) == (34, b"")


def test_annotations_are_ignored(cloud: Cloud, program: Program) -> None:
    token = cloud.control.service_account_token(APP)
    annotations = {
        "OCIR_AUTH_METHOD": "INSTANCE_PRINCIPAL",
        "kubernetesServiceHost": "elsewhere.example",
        "oci.oraclecloud.com/principal": "instance",
    }
    stdin = request(IMAGE, serviceAccountToken=token, serviceAccountAnnotations=annotations)
    plain = credentials(cloud, program, token).password
    cloud.control.reset_counters()
    answer = read_response(program.run(cloud, stdin=stdin, env=settings(cloud)).check().stdout)
    assert answer.password == plain
    assert cloud.control.report().connections == {}


@pytest.mark.parametrize(("lifetime", "cached"), [(7200, 3300), (1000, 700), (100, 50)])
def test_credentials_never_outlive_the_service_account_token(
    cloud: Cloud, program: Program, lifetime: float, cached: int
) -> None:
    token = cloud.control.service_account_token(APP, life_s=lifetime)
    assert credentials(cloud, program, token).cache_seconds == pytest.approx(cached, abs=6)


def test_the_service_account_token_is_never_written_and_sent_only_to_the_cluster(
    cloud: Cloud, program: Program
) -> None:
    cloud.ns.log()
    token = cloud.control.service_account_token(APP)
    results = [call(cloud, program, token, LOG_LEVEL="debug")]
    for endpoint in ("workload", "token"):
        cloud.control.fault(endpoint, Fault("echo", status=401))
        refused = cloud.control.service_account_token(APP, pod=endpoint)
        stdin = request(IMAGE, serviceAccountToken=refused)
        results.append(program.run(cloud, "--verbose", stdin=stdin, env=settings(cloud)))
        cloud.control.clear_faults()
    assert [result.returncode for result in results] == [0, 34, 41]
    texts = [text for result in results for text in (result.stdout, result.stderr)]
    texts += [entry.raw for entry in cloud.ns.log()]
    texts += [path.read_bytes() for path in cloud.ns.path(STORE).iterdir()]
    needles = [
        needle.encode()
        for secret in cloud.control.secrets()
        if secret.kind == "service account token"
        for needle in secret.needles()
    ]
    assert len(needles) >= 9
    assert not [n for n in needles for text in texts if n in text]
    bearing = {r.endpoint for r in cloud.control.report().requests if r.bears_account}
    assert bearing == {"workload"}


# --- failures ----------------------------------------------------------------------------------

FAILURES: list[tuple[Fault, str, int]] = [
    (Fault("status", status=401), "workload-refused", 34),
    (Fault("status", status=403), "basic-cluster", 35),
    (Fault("status", status=404), "workload-refused", 34),
    (Fault("redirect"), "workload-refused", 34),
    (Fault("status", status=503), "workload-unreachable", 33),
    (Fault("status", status=429), "workload-unreachable", 33),
    (Fault("refused"), "workload-unreachable", 33),
    (Fault("cut_body"), "workload-unreachable", 33),
    (Fault("huge_body"), "workload-unreachable", 33),
    (Fault("html"), "workload-malformed", 36),
    (Fault("invalid_json"), "workload-malformed", 36),
    (Fault("body", body='{"token": "ST$a.b.c"}'), "workload-malformed", 36),
    (Fault("body", body='"e30="'), "workload-malformed", 36),
    (Fault("body", body='"eyJ0b2tlbiI6ICJTVCQifQ=="'), "workload-malformed", 36),
    (Fault("body", body='"eyJ0b2tlbiI6ICJTVCRhXG5iIn0="'), "workload-malformed", 36),
    (Fault("tls_unknown_ca"), "tls-untrusted", 51),
    (Fault("tls_wrong_name"), "tls-untrusted", 51),
    (Fault("tls_expired"), "tls-untrusted", 51),
]


@pytest.mark.parametrize(("fault", "code", "exit_code"), FAILURES, ids=range(len(FAILURES)))
def test_a_failure_at_the_cluster_has_its_own_code(
    cloud: Cloud, program: Program, fault: Fault, code: str, exit_code: int
) -> None:
    cloud.control.fault("workload", fault)
    result = call(cloud, program, cloud.control.service_account_token(APP))
    assert (result.returncode, result.stdout) == (exit_code, b"")
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith(f"oke-credential-provider: {code}: ")
    assert cloud.control.report().count("token") == 0
    assert cloud.control.report().of_group("elsewhere") == 0


@pytest.mark.parametrize("kind", ["black_hole", "slow_body", "endless_headers"])
def test_the_clusters_endpoint_shares_the_deadline(
    cloud: Cloud, program: Program, kind: FaultKind
) -> None:
    cloud.control.fault("workload", Fault(kind))
    token = cloud.control.service_account_token(APP)
    result = call(cloud, program, token, DEADLINE_SECONDS="2")
    assert result.returncode in (33, 60)
    assert result.seconds < 5


def test_a_basic_cluster_is_named_in_the_error(cloud: Cloud, program: Program) -> None:
    cloud.control.cluster(Cluster(enhanced=False))
    result = call(cloud, program, cloud.control.service_account_token(APP))
    assert result.returncode == 35
    assert b"ENHANCED_CLUSTER" in result.stderr


@pytest.mark.parametrize("wrong", [{"audience": "sts.example"}, {"life_s": -100.0}])
def test_a_token_that_the_cluster_rejects_is_reported_with_its_audience(
    cloud: Cloud, program: Program, wrong: dict[str, str]
) -> None:
    token = cloud.control.service_account_token(APP, **wrong)  # type: ignore[arg-type] # each its own
    result = call(cloud, program, token)
    assert result.returncode == 34
    assert b"serviceAccountTokenAudience" in result.stderr
    assert wrong.get("audience", "").encode() in result.stderr


def test_the_error_of_a_refused_registry_token_says_experimental(
    cloud: Cloud, program: Program
) -> None:
    cloud.control.fault("token", Fault("status", status=401))
    result = call(cloud, program, cloud.control.service_account_token(APP))
    assert result.returncode == 41
    assert b"experimental" in result.stderr


def test_a_foreign_ca_is_refused_before_the_token_is_sent(cloud: Cloud, program: Program) -> None:
    ca = {
        "OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH": str(cloud.ns.folder / "ca.pem"),
        # The node's CA certificates are not used here.
        "SSL_CERT_FILE": str(cloud.ns.folder / "cluster-ca.pem"),
    }
    result = call(cloud, program, cloud.control.service_account_token(APP), **ca)
    assert result.returncode == 51
    assert b"OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH" in result.stderr
    assert cloud.control.report().count("workload") == 0


# --- address of the cluster --------------------------------------------------------------------

NO_SETTINGS = {"OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY"}


def started_by_a_kubelet(
    program: Program, folder: Path, *flags: str, name: str = "kubelet"
) -> Program:
    """Return the program as a child of a process with executable ``name`` and the kubelet's flags."""
    kubelet = folder / name
    shutil.copy(os.path.realpath("/bin/sh"), kubelet)
    # The exit prevents the shell from replacing itself with the program.
    script = f"{shlex.join(program.argv)}; exit $?"
    return replace(program, argv=(str(kubelet), "-c", script, name, *flags))


def kubeconfig(cloud: Cloud, server: str = f"https://{CLUSTER_ADDRESS}:6443") -> dict[str, Any]:
    """Return a kubeconfig like the kubelet's own, with an inline CA."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "other", "cluster": {"server": "https://elsewhere.example"}},
            {"name": "oke", "cluster": {"server": server, "certificate-authority-data": ca(cloud)}},
        ],
        "contexts": [{"name": "node", "context": {"cluster": "oke", "user": "node"}}],
        "current-context": "node",
        "users": [{"name": "node", "user": {"client-certificate": "/none", "client-key": "/none"}}],
    }


def ca(cloud: Cloud) -> str:
    return base64.b64encode((cloud.ns.folder / "cluster-ca.pem").read_bytes()).decode()


def cluster_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the cluster of the current context, for changes."""
    cluster = config["clusters"][1]["cluster"]
    assert isinstance(cluster, dict)
    return cluster


def ask(cloud: Cloud, program: Program, **env: str) -> Completed:
    token = cloud.control.service_account_token(APP)
    stdin = request(IMAGE, serviceAccountToken=token)
    return program.run(cloud, stdin=stdin, env={**NO_SETTINGS, **env})


@pytest.mark.parametrize("form", ["yaml", "json", "file", "link", "bootstrap", "last"])
def test_the_kubelets_kubeconfig_gives_the_clusters_address(
    cloud: Cloud, program: Program, tmp_path: Path, form: str
) -> None:
    config, file = kubeconfig(cloud), tmp_path / "kubelet.conf"
    flags = ["--v=2", "--kubeconfig", str(file)]
    match form:
        case "file":
            del cluster_of(config)["certificate-authority-data"]
            cluster_of(config)["certificate-authority"] = "pki/ca.crt"
            (tmp_path / "pki").mkdir()
            shutil.copy(cloud.ns.folder / "cluster-ca.pem", tmp_path / "pki" / "ca.crt")
        case "bootstrap":  # until the kubelet has its own certificate
            flags = ["--kubeconfig=/none", f"--bootstrap-kubeconfig={file}"]
        case "last":
            flags = ["--kubeconfig=/none", f"--kubeconfig={file}"]
        case "link":
            flags = ["--kubeconfig", str(tmp_path / "link")]
            (tmp_path / "link").symlink_to(file.name)
    file.write_text(json.dumps(config, indent="\t") if form == "json" else yaml.safe_dump(config))
    result = ask(cloud, started_by_a_kubelet(program, tmp_path, *flags)).check()
    assert read_response(result.stdout).password
    assert cloud.control.report().connections == {"cluster": 1, "registry": 1}


def test_a_setting_overrides_the_kubelets_kubeconfig(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    (tmp_path / "kubelet.conf").write_text(
        yaml.safe_dump(kubeconfig(cloud, "https://elsewhere.example"))
    )
    kubelet = started_by_a_kubelet(program, tmp_path, f"--kubeconfig={tmp_path}/kubelet.conf")
    assert ask(cloud, kubelet).returncode == 33
    chosen = {"KUBERNETES_SERVICE_HOST": CLUSTER_ADDRESS}
    assert read_response(ask(cloud, kubelet, **chosen).check().stdout).password
    foreign = {"OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH": str(cloud.ns.folder / "ca.pem")}
    assert ask(cloud, kubelet, **chosen, **foreign).returncode == 51


def test_okes_files_are_used_without_a_kubeconfig(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    script = """
cp -aL /etc/. "$1/etc" 2>/dev/null
mkdir -p "$1/etc/oke" "$1/etc/kubernetes"
cp "$2" "$1/etc/kubernetes/ca.crt"
echo 'APISERVER_ENDPOINT="127.0.6.1"' >"$1/etc/oke/oke.conf"
chmod 755 "$1/etc" && mount --bind "$1/etc" /etc
shift 2
exec "$@"
"""
    own_etc = ["unshare", "--mount", "bash", "-c", script, "bash", str(tmp_path)]
    own_etc.append(str(cloud.ns.folder / "cluster-ca.pem"))
    result = ask(cloud, program.behind(*own_etc)).check()
    assert read_response(result.stdout).password
    assert cloud.control.report().connections == {"cluster": 1, "registry": 1}


# The answers of an attacker between the node and the metadata service.
FORGED_METADATA: list[Callable[[Cloud], dict[str, object]]] = [
    lambda _: {},
    lambda cloud: {"apiserver_host": CLUSTER_ADDRESS, "cluster_ca_cert": ca(cloud)},
    lambda cloud: {"apiserver_host": "elsewhere.example", "cluster_ca_cert": ca(cloud)},
]


@pytest.mark.parametrize("forged", FORGED_METADATA, ids=range(len(FORGED_METADATA)))
def test_the_metadata_service_never_supplies_the_ca(
    cloud: Cloud, program: Program, forged: Callable[[Cloud], dict[str, object]]
) -> None:
    cloud.control.imds(Imds(metadata=forged(cloud)))
    result = ask(cloud, program)
    assert result.returncode == 15
    assert b"KUBERNETES_SERVICE_HOST" in result.stderr
    assert b"--kubeconfig" in result.stderr
    assert cloud.control.report().requests == ()


def test_an_address_from_the_metadata_service_needs_the_clusters_certificate(
    cloud: Cloud, program: Program
) -> None:
    known = {"OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH": str(cloud.ns.folder / "cluster-ca.pem")}
    cloud.control.imds(Imds(metadata={"apiserver_host": CLUSTER_ADDRESS}))
    assert read_response(ask(cloud, program, **known).check().stdout).password
    cloud.control.fault("cluster", Fault("tls_unknown_ca"))
    cloud.control.reset_counters()
    assert ask(cloud, program, **known).returncode == 51
    assert cloud.control.report().count("workload") == 0


_CA, _CA_FILE = "certificate-authority-data", "certificate-authority"
# Changes of the current cluster of a valid kubeconfig. None removes a field.
CLUSTERS: dict[str, dict[str, object]] = {
    "server without TLS": {"server": f"http://{CLUSTER_ADDRESS}:6443"},
    "server is not a URL": {"server": "https://[::1"},
    "server has a line break": {"server": "https://a b\r\nx: y/"},
    "server is a list": {"server": [CLUSTER_ADDRESS]},
    "insecure-skip-tls-verify": {"insecure-skip-tls-verify": True},
    "no CA": {_CA: None},
    "CA is not base64": {_CA: "%"},
    "CA is not a certificate": {_CA: base64.b64encode(b"x").decode()},
    "CA file of another user": {_CA: None, _CA_FILE: "ca.crt"},
    "CA file is endless": {_CA: None, _CA_FILE: "/dev/zero"},
}
# Changes of its other fields.
CONFIGS: dict[str, dict[str, object]] = {
    "no current context": {"current-context": None},
    "unknown current context": {"current-context": "other"},
    "clusters is text": {"clusters": "oke"},
}
_CHAIN = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
# Changes of its text.
TEXTS: dict[str, Callable[[str], str]] = {
    "a list": lambda _: "[]",
    "not YAML": lambda _: "{",
    "deeply nested": lambda _: "[" * 100_000,
    "too large": lambda text: text + "#" * 300_000,
    "a Python object": lambda text: text.replace(
        "kind: Config", "kind: !!python/object/apply:os.system [exit]"
    ),
    "aliases": lambda _: "\n".join(["a0: &a0 [x]", *_CHAIN, "current-context: *a39"]),
    "not UTF-8": lambda text: text.replace("Config", "\udcff"),
}
# Shell commands that change the file $1, which is alone in its folder.
FILES = {
    "file of another user": 'chown 65534 "$1"',
    "file open to a group": 'chmod 664 "$1"',
    "file open to all": 'chmod 666 "$1"',
    "directory of another user": 'chown 65534 "$(dirname "$1")"',
    "directory open to all": 'chmod 777 "$(dirname "$1")"',
    "link of another user": 'mv "$1" "$1.real"; ln -s "$1.real" "$1"; chown -h 65534 "$1"',
    "a pipe": 'rm "$1"; mkfifo "$1"',
    "a directory": 'rm "$1"; mkdir "$1"',
}


def corrupt(cloud: Cloud, file: Path, how: str) -> None:
    """Make a valid kubeconfig untrusted or unusable."""
    config = kubeconfig(cloud)
    for target, changes in ((cluster_of(config), CLUSTERS), (config, CONFIGS)):
        target |= changes.get(how, {})
        for name in [name for name, value in target.items() if value is None]:
            del target[name]
    text = TEXTS.get(how, str)(yaml.safe_dump(config))
    file.write_bytes(text.encode(errors="surrogateescape"))
    theirs = file.with_name("ca.crt")
    shutil.copy(cloud.ns.folder / "cluster-ca.pem", theirs)
    os.chown(theirs, 65534, 65534)
    subprocess.run(["sh", "-euc", FILES.get(how, ""), "sh", file], check=True)


@pytest.mark.parametrize("how", [*CLUSTERS, *CONFIGS, *TEXTS, *FILES])
def test_an_untrusted_kubeconfig_gets_no_token(
    cloud: Cloud, program: Program, tmp_path: Path, how: str
) -> None:
    folder = tmp_path / "kubernetes"
    folder.mkdir()
    corrupt(cloud, folder / "kubelet.conf", how)
    # Not even with an address from the metadata service.
    forged: dict[str, object] = {"apiserver_host": CLUSTER_ADDRESS, "cluster_ca_cert": ca(cloud)}
    cloud.control.imds(Imds(metadata=forged))
    kubelet = started_by_a_kubelet(program, tmp_path, f"--kubeconfig={folder}/kubelet.conf")
    result = ask(cloud, kubelet)
    assert (result.returncode, result.stdout) == (15, b"")
    assert result.seconds < 30
    assert cloud.control.report().count("workload") == 0


@pytest.mark.parametrize("parent", ["name", "user"])
def test_only_roots_kubelet_is_trusted(
    cloud: Cloud, program: Program, open_folder: Path, parent: str
) -> None:
    file = open_folder / "kubelet.conf"
    file.write_text(yaml.safe_dump(kubeconfig(cloud)))
    name = "kubelet" if parent == "user" else "kubelets"
    flags = f"--kubeconfig={file}"
    kubelet = started_by_a_kubelet(program, open_folder, flags, name=name)
    if parent == "user":
        # Like a set-uid program: the effective user is root, the real user is not.
        shell, option, *rest = kubelet.argv
        kubelet = replace(kubelet, argv=("setpriv", "--ruid=65534", shell, "-p", option, *rest))
    assert ask(cloud, kubelet).returncode == 15
    assert cloud.control.report().count("workload") == 0


# --- config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "cache_type"), [("1.33", ""), ("1.34", "ServiceAccount")])
def test_config_requests_tokens_by_the_rules_of_the_kubelets_version(
    cloud: Cloud, program: Program, version: str, cache_type: str
) -> None:
    args = ("config", "--realm", "oc1", "--workload-identity", "aud.example")
    text = program.run(cloud, *args, "--kubelet-version", version).check().stdout.decode()
    assert not [f for f in validate(text, kubelet_version=version) if f.severity == "fatal"]
    (provider,) = load(text).providers
    assert provider.token_attributes == TokenAttributes("aud.example", cache_type)
    assert dict(provider.env)["OCIR_AUTH_METHOD"] == "WORKLOAD_IDENTITY"
    # The generated settings make a call succeed.
    env = {**settings(cloud), **dict(provider.env)}
    stdin = request(IMAGE, serviceAccountToken=cloud.control.service_account_token(APP))
    assert read_response(program.run(cloud, stdin=stdin, env=env).check().stdout).password


def test_config_ends_with_the_steps_for_kubernetes_and_oci(cloud: Cloud, program: Program) -> None:
    args = ("config", "--realm", "oc1", "--workload-identity", "https://aud.example")
    text = program.run(cloud, *args).check().stdout.decode()
    _, _, note = text.partition("\n# The nodes need permission")
    rbac, _, policy = note.partition("each service account needs an OCI policy")
    lines = [line[4:] for line in rbac.splitlines() if line.startswith("#   ")]
    role, binding = yaml.safe_load_all("\n".join(lines))
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["https://aud.example"],
            "verbs": ["request-serviceaccounts-token-audience"],
        }
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == "system:nodes"
    for part in ("cluster_id", "namespace", "service_account", "type = 'workload'"):
        assert f"request.principal.{part}" in policy
    assert "Experimental" in policy


@pytest.mark.parametrize(
    "args",
    [
        ("--workload-identity", ""),
        ("--workload-identity", "a b"),
        ("--workload-identity", 'a"b'),
        ("--workload-identity", "a", "--kubelet-version", "1.32"),
        ("--workload-identity", "a", "--kubelet-version", "new"),
    ],
)
def test_config_refuses_what_kubelets_reject(
    cloud: Cloud, program: Program, args: tuple[str, ...]
) -> None:
    result = program.run(cloud, "config", "--realm", "oc1", *args)
    assert (result.returncode, result.stdout) == (2, b"")


# --- pure functions ----------------------------------------------------------------------------


def jwt(claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"head.{body}.signature"


CLAIMS: dict[str, object] = {
    "aud": ["a", "b"],
    "exp": 2_000_000_000,
    "kubernetes.io": {"namespace": "ns", "serviceaccount": {"name": "app", "uid": "u-1"}},
}


def test_a_tokens_claims_name_the_account() -> None:
    account = service_account(jwt(CLAIMS))
    assert account[1:] == ("ns", "app", "u-1", "a,b", 2_000_000_000.0)
    assert service_account(jwt({**CLAIMS, "aud": "a"})).audience == "a"
    assert account.token not in account.identity


@pytest.mark.parametrize(
    "claims",
    [
        [],
        None,
        {},
        {**CLAIMS, "kubernetes.io": {"namespace": "ns"}},
        {**CLAIMS, "kubernetes.io": {"namespace": 7, "serviceaccount": {"name": "a", "uid": "u"}}},
        {**CLAIMS, "kubernetes.io": {"namespace": "n", "serviceaccount": {"name": "", "uid": "u"}}},
        {
            **CLAIMS,
            "kubernetes.io": {"namespace": "n\n", "serviceaccount": {"name": "a", "uid": "u"}},
        },
        {**CLAIMS, "exp": "soon"},
        {**CLAIMS, "aud": None},
        {**CLAIMS, "aud": [7]},
    ],
    ids=range(10),
)
def test_a_token_without_an_account_is_refused_and_not_quoted(claims: object) -> None:
    token = jwt(claims)
    with pytest.raises(NoServiceAccountToken) as caught:
        service_account(token)
    assert token[5:20] not in str(caught.value)


@pytest.mark.parametrize("token", ["a.b", "a b.c.d", "a.b.c\n", "a.b.c\r\nx: y", "é.b.c"])
def test_text_that_is_not_a_jwt_never_becomes_a_header(token: str) -> None:
    with pytest.raises(NoServiceAccountToken, match="not a JSON web token"):
        service_account(token)


@pytest.mark.parametrize("token", [None, "", 7, ["a.b.c"]])
def test_an_empty_token_is_none(token: object) -> None:
    assert parse_request(request(IMAGE, serviceAccountToken=token)).service_account_token is None


def files(**texts: str) -> Callable[[str], str | None]:
    return {
        APISERVER_FILE: texts.get("host"),
        OKE_CONF: texts.get("conf"),
        CA_FILE: texts.get("ca"),
    }.get


def metadata(**values: str) -> Callable[[], bytes]:
    return lambda: json.dumps(values).encode()


def never() -> bytes:
    raise AssertionError("request to the metadata service")


def no_kubeconfig() -> Kubeconfig:
    return Kubeconfig("", "", "none")


def a_kubeconfig() -> Kubeconfig:
    return Kubeconfig("10.0.0.7", "kubelet's", "/kubelet.conf")


def test_the_cluster_is_found_by_settings_then_kubeconfig_then_files(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("mine")
    chosen = Settings(kubernetes_host="api.example", kubernetes_ca_file=str(tmp_path / "ca"))
    on_disk = files(host="10.0.0.6\n", conf="APISERVER_ENDPOINT=10.0.0.8", ca="disk")

    def refused() -> Kubeconfig:
        raise AssertionError("the kubeconfig was read")

    assert find_cluster(chosen, refused, never, on_disk)[:2] == ("api.example", "mine")
    only_host = chosen._replace(kubernetes_ca_file=None)
    assert find_cluster(only_host, a_kubeconfig, never, on_disk)[:2] == ("api.example", "kubelet's")
    found = find_cluster(Settings(), a_kubeconfig, never, on_disk)
    assert found == (
        "10.0.0.7",
        "kubelet's",
        "API server from /kubelet.conf, CA from /kubelet.conf",
    )
    assert find_cluster(Settings(), no_kubeconfig, never, on_disk)[:2] == ("10.0.0.6", "disk")
    conf = files(conf="# x\n  export APISERVER_ENDPOINT='10.0.0.8:6443'\n", ca="disk")
    assert find_cluster(Settings(), no_kubeconfig, never, conf)[:2] == ("10.0.0.8", "disk")


def test_the_metadata_service_adds_only_an_address() -> None:
    forged = metadata(
        apiserver_host="10.0.0.5", cluster_ca_cert=base64.b64encode(b"theirs").decode()
    )
    found = find_cluster(Settings(), no_kubeconfig, forged, files(ca="disk"))
    assert found == ("10.0.0.5", "disk", f"API server from instance metadata, CA from {CA_FILE}")
    with pytest.raises(ClusterUnknown, match="CA"):
        find_cluster(Settings(), no_kubeconfig, never, files(host="10.0.0.6"))


@pytest.mark.parametrize(
    ("text", "host"),
    [("10.0.0.5:6443", "10.0.0.5"), ("fd00::5", "fd00::5"), ("API.example", "api.example")],
)
def test_the_api_servers_port_is_dropped(text: str, host: str) -> None:
    found = find_cluster(Settings(), no_kubeconfig, never, files(host=text, ca="disk"))
    assert found.host == host


@pytest.mark.parametrize(
    "metadata",
    [
        metadata(),
        metadata(apiserver_host="a b\r\nx: y"),
        lambda: b'{"apiserver_host": 7}',
        lambda: b"not JSON",
        lambda: b"[]",
    ],
    ids=range(5),
)
def test_an_invalid_cluster_address_is_an_unknown_cluster(metadata: Callable[[], bytes]) -> None:
    with pytest.raises(ClusterUnknown):
        find_cluster(Settings(), no_kubeconfig, metadata, files(ca="disk"))


def test_a_configured_ca_file_must_exist() -> None:
    chosen = Settings(kubernetes_host="api.example", kubernetes_ca_file="/none")
    with pytest.raises(ClusterUnknown, match="/none"):
        find_cluster(chosen, a_kubeconfig, never, files(ca="disk"))


# --- resource principals -----------------------------------------------------------------------


@pytest.mark.parametrize("inline", [True, False])
def test_a_resource_principal_gets_a_token(
    cloud: Cloud, program: Program, tmp_path: Path, inline: bool
) -> None:
    cloud.control.iam(Iam(policies=(Policy(RESOURCE),)))
    resource = cloud.control.resource()
    token, key = resource.token, resource.private_pem
    if not inline:
        (tmp_path / "token").write_text(token)
        (tmp_path / "key").write_text(key)
        token, key = str(tmp_path / "token"), str(tmp_path / "key")
    env = {
        "OCIR_AUTH_METHOD": "RESOURCE_PRINCIPAL",
        "OCI_RESOURCE_PRINCIPAL_VERSION": "2.2",
        "OCI_RESOURCE_PRINCIPAL_RPST": token,
        "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM": key,
        "OCI_RESOURCE_PRINCIPAL_REGION": "eu-frankfurt-1",
    }
    answer = program.credentials(cloud, IMAGE, env)
    assert answer.cache_seconds == 3300
    assert cloud.control.report().connections == {"registry": 1}
    again = program.credentials(cloud, IMAGE, env)
    assert again.password == answer.password
    # Another resource's token does not match this key, so it gets no cached token.
    other = {**env, "OCI_RESOURCE_PRINCIPAL_RPST": cloud.control.resource().token}
    assert program.run(cloud, stdin=request(IMAGE), env=other).returncode == 41


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OCI_RESOURCE_PRINCIPAL_VERSION": "9"},
        {"OCI_RESOURCE_PRINCIPAL_VERSION": "2.2"},
        {
            "OCI_RESOURCE_PRINCIPAL_VERSION": "2.2",
            "OCI_RESOURCE_PRINCIPAL_RPST": "SECRET",
            "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM": "SECRET",
        },
    ],
    ids=range(4),
)
def test_a_missing_resource_principal_is_reported(
    cloud: Cloud, program: Program, env: dict[str, str]
) -> None:
    method = {"OCIR_AUTH_METHOD": "RESOURCE_PRINCIPAL"}
    result = program.run(cloud, "--verbose", stdin=request(IMAGE), env={**env, **method})
    assert (result.returncode, result.stdout) == (14, b"")
    assert b"SECRET" not in result.stderr
    assert cloud.control.report().connections.get("imds") is None


def test_the_sdk_is_not_needed_for_a_pods_identity() -> None:
    script = (
        "import sys; import provider.auth.workload_identity; "
        "assert not [m for m in sys.modules if m.split('.')[0] in ('oci', 'click', 'yaml')]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY)
