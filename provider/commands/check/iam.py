"""What OCI must be told so that a node may pull: dynamic group and policy, ready to be pasted."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

GROUP: Final = "oke-nodes"
# docs.oracle.com, "Policies to Control Repository Access": who may read may pull.
STATEMENT: Final = f"Allow dynamic-group {GROUP} to read repos in tenancy"
# The operations that a pull consists of, and no others.
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
# IAM accepts changes in the tenancy's home region alone.
_HOME_REGION: Final = (
    "  HOME_REGION=$(oci iam region-subscription list --raw-output"
    """ --query 'data[?"is-home-region"]."region-name" | [0]')"""
)
_IN_HOME_REGION: Final = '--region "$HOME_REGION"'


@dataclass(frozen=True, slots=True)
class Ocids:
    """The OCIDs that statements and commands name. A default is a placeholder for one that the
    instance metadata does not say.
    """

    instance: str = "INSTANCE_OCID"
    compartment: str = "COMPARTMENT_OCID"
    tenancy: str = "TENANCY_OCID"


# Field of Ocids -> its name in the instance metadata, and the resource types that it may have.
_FIELDS: Final = {
    "instance": ("id", "instance"),
    "compartment": ("compartmentId", "compartment|tenancy"),
    "tenancy": ("tenantId", "tenancy"),
}


def ocids_of(instance: Mapping[str, object]) -> tuple[Ocids, tuple[str, ...]]:
    """The OCIDs in an instance's description, and the names of the fields that hold something else.

    Only a well-formed OCID is used: these texts become part of commands that root pastes.
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

    Tenancies from before that form have ocidv1:<type>:<realm>:<region>:<number>:<unique>.
    """
    forms = (
        rf"ocid1\.({types})\.[a-z0-9]+\.[a-z0-9-]*(\.[a-z0-9-]*)?\.[a-z0-9]+",
        rf"ocidv1:({types}):[a-z0-9]+:[a-z0-9-]*:[0-9]+:[a-z0-9]+",
    )
    return len(text) < 256 and any(re.fullmatch(form, text, re.ASCII) for form in forms)


def rule(ocids: Ocids) -> str:
    """The matching rule of a dynamic group that holds the nodes of this compartment."""
    return f"All {{instance.compartment.id = '{ocids.compartment}'}}"


def node_may_read(ocids: Ocids) -> tuple[str, ...]:
    """How to let this node read repositories."""
    return (
        "As an administrator, create a dynamic group that matches the nodes, unless there is one. IAM"
        " is changed in the tenancy's home region:",
        _HOME_REGION,
        f"  oci iam dynamic-group create {_IN_HOME_REGION} --compartment-id {ocids.tenancy}"
        f" --name {GROUP} --description 'OKE worker nodes' --matching-rule {_word(rule(ocids))}",
        "Create a policy with this statement (narrower: in compartment id <the repository's>):",
        f"  {STATEMENT}",
        _create_policy(f"{GROUP}-read-repos", STATEMENT, ocids),
        "Or with this one, which allows pulls and nothing else:",
        f"  {LEAST_PRIVILEGE}",
        _create_policy(f"{GROUP}-pull", LEAST_PRIVILEGE, ocids),
        "In an identity domain other than Default the group is named '<domain>'/'<group>'.",
        "A policy takes some 5 minutes to apply. A dynamic group applies only to tokens that are"
        " requested after it exists.",
    )


def user_may_read(ocids: Ocids) -> tuple[str, ...]:
    """How to let the user of an OCI config file read repositories."""
    statement = "Allow group <group> to read repos in tenancy"
    return (
        "Create a policy that lets a group of this user read repositories, in the home region:",
        f"  {statement}",
        _HOME_REGION,
        _create_policy("read-repos", statement, ocids),
    )


def workload_may_read(ocids: Ocids) -> tuple[str, ...]:
    """How to let a service account read repositories."""
    return (
        "Create a policy with this statement, with the account's own names:",
        "  Allow any-user to read repos in tenancy where all { request.principal.type = 'workload',"
        " request.principal.cluster_id = '<OCID of the cluster>', request.principal.namespace ="
        " '<namespace>', request.principal.service_account = '<service account>' }",
        f"The policy belongs in the root compartment of this tenancy: {ocids.tenancy}",
    )


def other_tenancy(ocids: Ocids) -> tuple[str, ...]:
    """How to let this node read repositories of another tenancy, which takes both."""
    return (
        "If the image belongs to another tenancy, both must allow it, each by a policy in its root"
        " compartment. Both tenancies must be subscribed to the registry's region.",
        f"In the root compartment of this tenancy ({ocids.tenancy}):",
        "  Define tenancy Owner as <the other tenancy's OCID>",
        f"  Endorse dynamic-group {GROUP} to read repos in tenancy Owner",
        "In the root compartment of the other tenancy:",
        f"  Define tenancy Nodes as {ocids.tenancy}",
        "  Define dynamic-group NodesGroup as <the OCID of this tenancy's dynamic group>",
        "  Admit dynamic-group NodesGroup of tenancy Nodes to read repos in tenancy",
    )


def list_repositories(ocids: Ocids) -> str:
    """The command that lists the tenancy's repositories; a subtree search starts at the tenancy."""
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
    """A shell word in double quotes, since policy statements contain single ones."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"'
