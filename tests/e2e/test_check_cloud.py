"""`check`: the metadata service, the network, principals, the registry token."""

import json
import os
import re
from typing import Any

import pytest

from tests.cloud.model import (
    ACME,
    CLUSTER_ADDRESS,
    INSTANCE,
    LANGLEY,
    Endpoint,
    Fault,
    Group,
    Iam,
    Imds,
    Policy,
    Workload,
)
from tests.cloud.namespace import hosts_file
from tests.e2e.test_workload import kubeconfig
from tests.support.processes import OTHER
from tests.support.worker import FLAGS, FOLDER, IMAGE, TOKEN_ATTRIBUTES, Checked, Node, config
from tests.support.worker import node as node  # the fixture
from tests.unit.test_http import packets_dropped


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault("refused"), "imds-unreachable"),
        (Fault("status", status=429), "imds-throttled"),
        (Fault("status", status=403), "imds-forwarded"),
        (Fault("html"), "imds-unusable"),
    ],
)
def test_each_failure_of_the_metadata_service_has_its_cause(
    node: Node, fault: Fault, cause: str
) -> None:
    node.cloud.control.fault("imds", fault)
    checked = node.check()
    assert checked.causes() == {"metadata": cause}
    assert checked.step("identity")["status"] == "skipped"
    # Steps that do not need it run anyway.
    assert checked.cause("registry route") == "ok"


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "step"),
    [("fra.ocir.io", "registry route"), ("auth.eu-frankfurt-1", "federation route")],
)
def test_a_host_without_an_address_is_reported(node: Node, host: str, step: str) -> None:
    lines = hosts_file().splitlines()
    node.cloud.ns.hosts("\n".join(line for line in lines if host not in line) + "\n")
    checked = node.check()
    assert checked.causes() == {step: "dns"}
    assert "getent hosts" in checked.advice(step)


def test_a_connection_that_is_never_accepted_is_a_missing_route(node: Node) -> None:
    # As in a private subnet without a Service Gateway: nothing answers the first packet.
    with packets_dropped(node.cloud, "fra.ocir.io"):
        checked = node.check()
    assert checked.causes() == {"registry route": "no-route"}
    assert "no answer within 5 s" in checked.result("registry route")
    assert "Service Gateway" in checked.advice("registry route")
    assert checked.step("token")["status"] == "skipped"


@pytest.mark.parametrize(
    ("group", "kind", "cause"),
    [
        ("registry", "refused", "connection-refused"),
        ("registry", "tls_unknown_ca", "tls-untrusted"),
        ("registry", "tls_expired", "tls-untrusted"),
        ("registry", "reset_accept", "tls-failed"),
        ("registry", "black_hole", "tls-failed"),
        ("registry", "tls_old", "tls-failed"),
        ("federation", "refused", "connection-refused"),
        ("federation", "tls_wrong_name", "tls-untrusted"),
    ],
)
def test_each_failure_of_a_connection_has_its_cause(
    node: Node, group: Group, kind: Any, cause: str
) -> None:
    node.cloud.control.fault(group, Fault(kind))
    assert node.check().causes() == {f"{group} route": cause}


def test_a_missing_ca_bundle_is_reported(node: Node) -> None:
    node.config(config(env={"SSL_CERT_FILE": "/nowhere.pem"}))
    checked = node.check()
    assert checked.cause("registry route") == "bad-settings"
    assert "/nowhere.pem" in checked.result("registry route")


PROXY = "http://user:hunter2@proxy.example:3128"


def test_the_kubelets_proxy_is_used_and_its_password_is_hidden(node: Node) -> None:
    node.kubelet_env = {"HTTPS_PROXY": PROXY}
    checked = node.check()
    assert checked.causes() == {}
    assert "through the proxy proxy.example:3128" in checked.result("registry route")
    assert "hunter2" not in json.dumps(checked.content)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [(Fault("refused"), "proxy-unreachable"), (Fault("status", status=407), "proxy-refused")],
)
def test_each_failure_of_the_proxy_has_its_cause(node: Node, fault: Fault, cause: str) -> None:
    node.config(config(env={"HTTPS_PROXY": PROXY}))
    node.cloud.control.fault("proxy", fault)
    checked = node.check()
    assert checked.causes() == {"registry route": cause, "federation route": cause}
    assert "hunter2" not in json.dumps(checked.content)


@pytest.mark.parametrize(("offset", "side"), [(600, "behind"), (-600, "ahead of")])
def test_a_wrong_clock_is_reported_with_the_difference(
    node: Node, offset: float, side: str
) -> None:
    node.cloud.control.clock(offset)
    checked = node.check()
    assert checked.causes()["clock"] == "clock-skew"
    result = checked.result("clock")
    seconds = re.fullmatch(rf"(\d+) s {side} OCI's", result)
    assert seconds
    assert int(seconds[1]) == pytest.approx(600, abs=3)
    assert checked.cause("identity") == "clock-skew"


def test_a_clock_that_drifts_is_a_warning(node: Node) -> None:
    node.cloud.control.clock(90)
    checked = node.check()
    assert checked.code == 0
    assert checked.causes() == {"clock": "clock-drift"}


# --- identity and token ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "fault", "step", "cause"),
    [
        ("federation", Fault("status", status=401), "identity", "federation-refused"),
        ("federation", Fault("html"), "identity", "federation-malformed"),
        ("federation", Fault("status", status=503), "identity", "federation-unreachable"),
        ("token", Fault("status", status=403), "token", "token-refused"),
        ("token", Fault("echo", status=401), "token", "token-refused"),
        ("token", Fault("invalid_json"), "token", "token-malformed"),
        ("manifest", Fault("status", status=503), "pull", "pull-unclear"),
    ],
)
def test_errors_of_oci_are_reported_with_the_request_id(
    node: Node, endpoint: Endpoint, fault: Fault, step: str, cause: str
) -> None:
    node.cloud.control.fault(endpoint, fault)
    checked = node.check()
    assert checked.code == 1
    assert checked.causes() == {step: cause}
    assert "opc-request-id" in checked.result(step)


@pytest.mark.every_form
@pytest.mark.parametrize(
    "image", ["alpine", "docker.io/library/alpine:3", "elsewhere.example/ns/repo"]
)
def test_another_registry_needs_no_credentials(node: Node, image: str) -> None:
    for patterns in (["*.ocir.io"], ["*.ocir.io", "docker.io", "elsewhere.example"]):
        node.config(config(patterns=patterns))
        checked = node.check(image)
        assert checked.causes() == {"registry name": "registry-not-ocir"}
        assert checked.code == 0
        assert "as intended" in checked.result("registry name")
        assert "only for the registries of Oracle's dedicated regions" in checked.advice(
            "registry name"
        )
        output = json.dumps(checked.content)
        assert "OCIR_HOSTS=" not in output
        assert "Add this line to its matchImages" not in output
    assert node.cloud.control.report().of_group("elsewhere") == 0


@pytest.mark.parametrize(
    "host", ["fra.ocir.oi", "ocir.eu-frankfurt-1.oraclecloud.com", "fra.ocir.io:8443"]
)
def test_a_misspelled_ocir_host_is_reported(node: Node, host: str) -> None:
    checked = node.check(f"{host}/ns/repo")
    assert checked.code == 1
    assert checked.cause("registry name") == "registry-not-ocir"
    assert "Correct the image's name" in checked.advice("registry name")
    assert "OCIR_HOSTS=" not in json.dumps(checked.content)


def test_an_image_of_another_realm_is_reported(node: Node) -> None:
    image = f"ocir.{LANGLEY.name}.oci.{LANGLEY.domain}/ns/repo"
    node.config(config(patterns=[image]))
    checked = node.check(image)
    assert checked.causes() == {"registry name": "registry-of-another-realm"}


def test_a_dedicated_regions_registry_is_known_from_the_metadata(node: Node) -> None:
    node.cloud.control.imds(Imds(region=ACME))
    image = f"ocir.{ACME.name}.oci.{ACME.domain}/ns/repo"
    node.config(config(patterns=[image]))
    assert node.check(image).causes() == {}


# --- workload identity ----------------------------------------------------------------------------


def workload(node: Node, **more: str) -> dict[str, str]:
    return {
        "OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY",
        "KUBERNETES_SERVICE_HOST": CLUSTER_ADDRESS,
        "OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH": str(node.cloud.ns.folder / "cluster-ca.pem"),
        **more,
    }


def check_as(node: Node, account: Workload) -> Checked:
    node.write(f"{FOLDER}/token", node.cloud.control.service_account_token(account), 0o600)
    args = ("--service-account-token", f"{FOLDER}/token", "--output", "json")
    result = node.run("check", IMAGE, *args)
    return Checked(result.returncode, json.loads(result.stdout))


def test_a_pull_of_a_service_account_is_checked_with_its_token(node: Node) -> None:
    node.config(config(env=workload(node), more=TOKEN_ATTRIBUTES))
    node.cloud.control.iam(Iam(policies=(Policy(Workload()),)))
    checked = check_as(node, Workload())
    assert checked.causes() == {}
    assert checked.code == 0
    assert "aud.example" in checked.result("account tokens")
    assert checked.cause("cluster route") == "ok"
    assert "service account default/app" in checked.result("identity")
    other = check_as(node, Workload(namespace="other"))
    assert other.causes() == {"pull": "repository-denied"}
    assert "request.principal.type = 'workload'" in other.advice("pull")
    assert "experimental" in other.advice("pull")


def test_the_cluster_is_from_the_kubelets_kubeconfig(node: Node) -> None:
    node.config(config(env={"OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY"}, more=TOKEN_ATTRIBUTES))
    node.cloud.control.iam(Iam(policies=(Policy(Workload()),)))
    path = f"{FOLDER}/kubelet.conf"
    node.write(path, json.dumps(kubeconfig(node.cloud)))
    node.flags = (*FLAGS, "--kubeconfig", path)
    checked = check_as(node, Workload())
    assert checked.causes() == {}
    assert f"API server from {path}, CA from {path}" in checked.action("cluster route")
    assert "service account default/app" in checked.result("identity")
    os.chown(node.cloud.ns.path(path), OTHER, OTHER)
    checked = check_as(node, Workload())
    assert checked.cause("cluster route") == "cluster-unknown"
    assert f"{path} belongs to user {OTHER}" in checked.result("cluster route")
    assert checked.cause("identity") == "cluster-unknown"


def test_without_a_service_account_token_the_identity_is_not_visible(node: Node) -> None:
    node.config(config(env=workload(node), more=TOKEN_ATTRIBUTES))
    checked = node.check()
    assert checked.causes() == {"identity": "not-visible"}
    assert checked.code == 3
    assert "--service-account-token" in checked.advice("identity")


def test_a_method_that_contradicts_the_config_is_reported(node: Node) -> None:
    node.config(config(env=workload(node)))
    assert node.check().cause("account tokens") == "no-service-account-token"
    node.config(config(more=TOKEN_ATTRIBUTES))
    checked = node.check()
    assert checked.causes() == {"account tokens": "tokens-not-used"}
    assert checked.code == 0


def test_with_the_fallback_method_cluster_and_instance_are_checked(node: Node) -> None:
    either = workload(node, OCIR_AUTH_METHOD="WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL")
    node.config(config(env=either, more=TOKEN_ATTRIBUTES.replace("true", "false")))
    checked = node.check()
    assert checked.causes() == {}
    assert checked.cause("cluster route") == "ok"
    assert INSTANCE in checked.result("identity")


@pytest.mark.parametrize(
    ("fault", "cause"),
    [(Fault("refused"), "workload-unreachable"), (Fault("tls_unknown_ca"), "tls-untrusted")],
)
def test_an_unreachable_cluster_is_reported(node: Node, fault: Fault, cause: str) -> None:
    node.config(config(env=workload(node), more=TOKEN_ATTRIBUTES))
    node.cloud.control.fault("cluster", fault)
    assert node.check().cause("cluster route") == cause


def test_a_node_without_a_known_cluster_is_reported(node: Node) -> None:
    node.config(config(env={"OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY"}, more=TOKEN_ATTRIBUTES))
    node.cloud.control.imds(Imds(metadata={}))
    assert node.check().cause("cluster route") == "cluster-unknown"


def test_a_malformed_service_account_token_is_rejected(node: Node) -> None:
    node.write(f"{FOLDER}/token", "no token")
    assert node.run("check", "--service-account-token", f"{FOLDER}/token").returncode == 13
