"""Advice on IAM: the dynamic group and the policies that allow pulls, as commands to paste."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

GROUP: Final = "oke-nodes"
# docs.oracle.com, "Policies to Control Repository Access": read includes pull.
STATEMENT: Final = f"Allow dynamic-group {GROUP} to read repos in tenancy"
# The operations of a pull.
_PULL_OPERATIONS: Final = (
    "ReadDockerRepositoryMetadata",
    "ReadDockerRepositoryManifest",
    "PullDockerLayer",
)
LEAST_PRIVILEGE: Final = (
    f"{STATEMENT} where any {{"
    + ", ".join(f"request.operation='{each}'" for each in _PULL_OPERATIONS)
    + "}"
)
# IAM accepts changes only in the tenancy's home region.
_HOME_REGION: Final = (
    "  HOME_REGION=$(oci iam region-subscription list --raw-output"
    """ --query 'data[?"is-home-region"]."region-name" | [0]')"""
)
_IN_HOME_REGION: Final = '--region "$HOME_REGION"'


@dataclass(frozen=True, slots=True)
class Ocids:
    """The OCIDs in statements and commands. The defaults are placeholders for unknown OCIDs."""

    instance: str = "INSTANCE_OCID"
    compartment: str = "COMPARTMENT_OCID"
    tenancy: str = "TENANCY_OCID"


# Field of Ocids -> its name in the instance metadata, and the allowed resource types.
_FIELDS: Final = {
    "instance": ("id", "instance"),
    "compartment": ("compartmentId", "compartment|tenancy"),
    "tenancy": ("tenantId", "tenancy"),
}


def ocids_of(instance: Mapping[str, object]) -> tuple[Ocids, tuple[str, ...]]:
    """The OCIDs in an instance's description, and the names of the fields that have no OCID.

    Users paste these texts into a root shell, so anything else than a well-formed OCID is dropped.
    """
    usable, unusable = {}, []
    for field, (name, types) in _FIELDS.items():
        value = instance.get(name)
        if isinstance(value, str) and _is_ocid(value, types):
            usable[field] = value
        elif value is not None:
            unusable.append(name)
    return Ocids(**usable), tuple(unusable)


def _is_ocid(text: str, types: str) -> bool:
    """docs.oracle.com, "Resource Identifiers": ocid1.<type>.<realm>.[region][.future use].<unique>.

    Older tenancies have ocidv1:<type>:<realm>:<region>:<number>:<unique>.
    """
    forms = (
        rf"ocid1\.({types})\.[a-z0-9]+\.[a-z0-9-]*(\.[a-z0-9-]*)?\.[a-z0-9]+",
        rf"ocidv1:({types}):[a-z0-9]+:[a-z0-9-]*:[0-9]+:[a-z0-9]+",
    )
    return len(text) < 256 and any(re.fullmatch(form, text, re.ASCII) for form in forms)


def rule(ocids: Ocids) -> str:
    """The matching rule of a dynamic group of all nodes in this compartment."""
    return f"All {{instance.compartment.id = '{ocids.compartment}'}}"


def node_may_read(ocids: Ocids) -> tuple[str, ...]:
    """How to let this node read repositories."""
    return (
        "As an administrator, create a dynamic group that matches the nodes, unless you have one. Change"
        " IAM in the tenancy's home region:",
        _HOME_REGION,
        f"  oci iam dynamic-group create {_IN_HOME_REGION} --compartment-id {ocids.tenancy}"
        f" --name {GROUP} --description 'OKE worker nodes' --matching-rule {_word(rule(ocids))}",
        "Create a policy with this statement (narrower: in compartment id <the repository's>):",
        f"  {STATEMENT}",
        _create_policy(f"{GROUP}-read-repos", STATEMENT, ocids),
        "Or with this statement, which allows only pulls:",
        f"  {LEAST_PRIVILEGE}",
        _create_policy(f"{GROUP}-pull", LEAST_PRIVILEGE, ocids),
        "In an identity domain other than Default, write the group's name as '<domain>'/'<group>'.",
        "A policy takes about 5 minutes to apply. A dynamic group applies only to tokens that are"
        " requested after it was created.",
    )


def user_may_read(ocids: Ocids) -> tuple[str, ...]:
    """How to let the user of an OCI config file read repositories."""
    statement = "Allow group <group> to read repos in tenancy"
    return (
        "In the home region, create a policy that lets a group of this user read repositories:",
        f"  {statement}",
        _HOME_REGION,
        _create_policy("read-repos", statement, ocids),
    )


def workload_may_read(ocids: Ocids) -> tuple[str, ...]:
    """How to let a service account read repositories."""
    return (
        "Create a policy with this statement, with the values of the service account:",
        "  Allow any-user to read repos in tenancy where all { request.principal.type = 'workload',"
        " request.principal.cluster_id = '<OCID of the cluster>', request.principal.namespace ="
        " '<namespace>', request.principal.service_account = '<service account>' }",
        f"Create it in the root compartment of this tenancy: {ocids.tenancy}",
    )


def other_tenancy(ocids: Ocids) -> tuple[str, ...]:
    """How to let this node read repositories of another tenancy. Both tenancies need a policy."""
    return (
        "If the image belongs to another tenancy, both tenancies must allow the pull, each with a policy"
        " in its root compartment. Both tenancies must be subscribed to the registry's region.",
        f"In the root compartment of this tenancy ({ocids.tenancy}):",
        "  Define tenancy Owner as <the other tenancy's OCID>",
        f"  Endorse dynamic-group {GROUP} to read repos in tenancy Owner",
        "In the root compartment of the other tenancy:",
        f"  Define tenancy Nodes as {ocids.tenancy}",
        "  Define dynamic-group NodesGroup as <the OCID of this tenancy's dynamic group>",
        "  Admit dynamic-group NodesGroup of tenancy Nodes to read repos in tenancy",
    )


def list_repositories(ocids: Ocids) -> str:
    """The command that lists the repositories of the tenancy and all its compartments."""
    return (
        f"  oci artifacts container repository list --compartment-id {ocids.tenancy}"
        " --compartment-id-in-subtree true --all --query 'data.items[].\"display-name\"'"
    )


def _create_policy(name: str, statement: str, ocids: Ocids) -> str:
    return (
        f"  oci iam policy create {_IN_HOME_REGION} --compartment-id {ocids.tenancy} --name {name}"
        f" --description 'Pull images' --statements {_word(json.dumps([statement]))}"
    )


def _word(text: str) -> str:
    """A shell word in double quotes, because policy statements contain single quotes."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"'
