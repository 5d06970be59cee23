"""`check`: the pull check with its advice on IAM, the credential cache."""

import json
import re
import time

import pytest

from tests.cloud.model import COMPARTMENT, INSTANCE, TENANCY, DynamicGroup, Fault, Iam, Policy
from tests.support.kubelet import request
from tests.support.worker import IMAGE, Node, config, pasted
from tests.support.worker import node as node  # the fixture


@pytest.mark.parametrize("iam", [Iam(policies=()), Iam(dynamic_groups=())])
def test_a_denied_repository_is_reported_with_the_policy(node: Node, iam: Iam) -> None:
    node.cloud.control.iam(iam)
    checked = node.check()
    assert checked.code == 1
    assert checked.causes() == {"pull": "repository-denied"}
    advice = checked.advice("pull")
    assert "Allow dynamic-group oke-nodes to read repos in tenancy" in advice
    assert "imagePullSecrets are not the cause" in advice


PULL_ALONE = (
    "Allow dynamic-group oke-nodes to read repos in tenancy where any"
    " {request.operation='ReadDockerRepositoryMetadata',"
    " request.operation='ReadDockerRepositoryManifest', request.operation='PullDockerLayer'}"
)


@pytest.mark.every_form
def test_the_commands_for_iam_are_for_the_home_region_and_the_tenancy(node: Node) -> None:
    node.cloud.control.iam(Iam(policies=()))
    advice = node.check().step("pull")["advice"]
    assert f"  {PULL_ALONE}" in advice
    region, group, plain, least, _ = pasted(advice)
    assert region[1:4] == ["iam", "region-subscription", "list"]
    for command in (group, plain, least):
        options = dict(zip(command[4::2], command[5::2], strict=True))
        assert options["--region"] == "home-region"
        assert options["--compartment-id"] == TENANCY
        if command is group:
            assert (
                options["--matching-rule"] == f"All {{instance.compartment.id = '{COMPARTMENT}'}}"
            )
        else:
            statement = PULL_ALONE if command is least else PULL_ALONE.partition(" where")[0]
            assert json.loads(options["--statements"]) == [statement]


def describe_instance(node: Node, **fields: object) -> None:
    """Replace fields in the metadata service's description of the instance."""
    body = json.dumps({"id": INSTANCE, "compartmentId": COMPARTMENT, "tenantId": TENANCY, **fields})
    node.cloud.control.fault("imds.instance", Fault("status", status=200, body=body))


HOSTILE = (
    "$(id>/tmp/x)",
    "ocid1.tenancy.oc1..a;id",
    "ocid1.tenancy.oc1..a\nb",
    "ocid1.user.oc1..a",
    "ocid1.tenancy.oc1..a" + "a" * 300,
    7,
)


@pytest.mark.every_form
@pytest.mark.parametrize("value", HOSTILE)
def test_a_malformed_ocid_is_not_part_of_a_command(node: Node, value: object) -> None:
    describe_instance(node, id=value, compartmentId=value, tenantId=value)
    node.cloud.control.iam(Iam(policies=()))
    for image in (IMAGE, "fra.ocir.io/other/secret", "fra.ocir.io/ns/absent"):
        checked = node.check(image)
        advice = checked.step("pull")["advice"]
        assert "TENANCY_OCID" in "\n".join(advice)
        assert not [line for line in advice if line.startswith(" ") and str(value) in line]
        assert all(command[0] == "oci" for command in pasted(advice))
        assert checked.step("metadata")["status"] == "warning"
        assert checked.cause("metadata") == "imds-unusable-ocid"
        assert "id, compartmentId, tenantId" in checked.result("metadata")


@pytest.mark.parametrize(
    "tenancy", ["ocidv1:tenancy:oc1:phx:1460406592660:aaaab4", "ocid1.tenancy.oc1..aaaa"]
)
def test_an_old_tenancys_ocid_is_valid(node: Node, tenancy: str) -> None:
    describe_instance(node, tenantId=tenancy)
    node.cloud.control.iam(Iam(policies=()))
    checked = node.check()
    assert checked.causes() == {"pull": "repository-denied"}
    assert f"--compartment-id {tenancy} " in checked.advice("pull")


@pytest.mark.parametrize("name", ["$(id>/tmp/x)", "a b", "-x", "a/b"])
def test_a_malformed_namespace_is_not_part_of_a_command(node: Node, name: str) -> None:
    node.cloud.control.fault("namespace", Fault("status", status=200, body=json.dumps(name)))
    checked = node.check("fra.ocir.io/other/secret")
    assert checked.causes() == {"pull": "repository-denied"}
    assert name not in json.dumps(checked.content)


def test_an_image_of_another_namespace_is_reported_with_the_right_name(node: Node) -> None:
    checked = node.check("fra.ocir.io/other/secret")
    assert checked.causes() == {"pull": "another-namespace"}
    assert "namespace is 'ns', not 'other'" in checked.result("pull")
    assert "  fra.ocir.io/ns/secret" in checked.step("pull")["advice"]
    advice = checked.advice("pull")
    assert f"  Define tenancy Nodes as {TENANCY}" in advice
    assert "In the root compartment of this tenancy" in advice
    assert "In the root compartment of the other tenancy" in advice
    assert "Both tenancies must be subscribed to the registry's region" in advice


def test_an_unknown_namespace_is_left_to_the_user(node: Node) -> None:
    node.cloud.control.fault("namespace", Fault("status", status=404))
    checked = node.check("fra.ocir.io/other/secret")
    assert checked.causes() == {"pull": "repository-denied"}
    assert "Is 'other' this tenancy's Object Storage namespace?" in checked.advice("pull")


def test_a_cached_token_that_is_older_than_the_dynamic_group_is_reported(node: Node) -> None:
    node.cloud.control.iam(Iam(dynamic_groups=()))
    node.program.run(node.cloud, stdin=request("fra.ocir.io/ns/public")).check()
    time.sleep(0.1)
    node.cloud.control.iam(Iam(dynamic_groups=(DynamicGroup(since=time.time()),)))
    checked = node.check()
    assert checked.cause("pull") == "ok"
    assert checked.code == 0
    assert checked.causes() == {"shared tokens": "token-older-than-policy"}
    assert "systemctl restart kubelet" in checked.advice("shared tokens")


def test_a_public_repository_says_nothing_about_policies(node: Node) -> None:
    node.cloud.control.iam(Iam(policies=()))
    checked = node.check("fra.ocir.io/ns/public")
    assert checked.code == 0
    assert "it is public" in checked.result("pull")


def test_a_missing_repository_and_a_missing_tag_are_distinguished(node: Node) -> None:
    checked = node.check("fra.ocir.io/ns/absent")
    assert checked.causes() == {"pull": "no-such-repository"}
    # A search of all compartments starts at the tenancy.
    (command,) = pasted(checked.step("pull")["advice"])
    assert command[command.index("--compartment-id") + 1] == TENANCY
    checked = node.check(f"{IMAGE}@sha256:{'a' * 64}")
    assert checked.causes() == {"pull": "no-such-tag"}
    assert "credentials are not the cause" in checked.result("pull")


def test_a_repository_without_the_default_tag_can_be_pulled(node: Node) -> None:
    checked = node.check("fra.ocir.io/ns/untagged")
    assert checked.causes() == {}
    assert "no tag 'latest'" in checked.result("pull")


@pytest.mark.parametrize(
    ("status", "code", "cause"),
    [
        (404, "NotAuthorizedOrNotFound", "pull-unclear"),
        (403, "DENIED", "repository-denied"),
        (403, "FREE_TIER_NOT_SUPPORTED", "free-tier"),
        (401, "UNKNOWN", "token-not-accepted"),
    ],
)
def test_the_registrys_code_is_reported_but_not_its_message(
    node: Node, status: int, code: str, cause: str
) -> None:
    body = json.dumps({"errors": [{"code": code, "message": "the registry's own text"}]})
    node.cloud.control.fault("manifest", Fault("status", status=status, body=body))
    checked = node.check()
    assert checked.causes() == {"pull": cause}
    assert f", {code}" in checked.result("pull")
    assert "the registry's own text" not in json.dumps(checked.step("pull"))


def test_a_denied_repository_may_not_exist(node: Node) -> None:
    node.cloud.control.iam(Iam(policies=(Policy(prefix="ns/repo"),)))
    checked = node.check("fra.ocir.io/ns/absent")
    assert checked.causes() == {"pull": "repository-denied"}
    assert "one of them has the repository 'ns/absent'" in checked.advice("pull")


# --- the credential cache -------------------------------------------------------------------------


def test_cached_tokens_are_reported(node: Node) -> None:
    node.program.run(node.cloud, stdin=request(IMAGE)).check()
    result = node.check().result("shared tokens")
    assert re.fullmatch(rf"fra\.ocir\.io: a token of {INSTANCE}, \d s old, 359\d s left", result)


def test_a_cached_failure_is_reported(node: Node) -> None:
    node.cloud.control.fault("token", Fault("status", status=403))
    assert node.program.run(node.cloud, stdin=request(IMAGE)).returncode != 0
    node.cloud.control.clear_faults()
    result = node.check().result("shared tokens")
    assert re.fullmatch(r"fra\.ocir\.io: a failure \(token-refused\), \d+ s old", result)


def test_a_disabled_cache_is_not_examined(node: Node) -> None:
    node.config(config(env={"TOKEN_CACHE": "disabled"}))
    assert node.check().cause("shared tokens") == "token-cache-off"


def test_a_cache_that_others_can_read_is_reported(node: Node) -> None:
    node.program.run(node.cloud, stdin=request(IMAGE)).check()
    node.cloud.ns.path("/run/oke-credential-provider").chmod(0o755)
    checked = node.check()
    assert checked.code == 0
    assert checked.causes() == {"shared tokens": "store-odd"}
    assert "mode 755" in checked.result("shared tokens")
