"""What OCI must be told so that a node may pull: dynamic group and policy, ready to be pasted."""

from dataclasses import dataclass
from typing import Final

GROUP: Final = "oke-nodes"
# docs.oracle.com, "Policies to Control Repository Access": who may read may pull.
STATEMENT: Final = f"Allow dynamic-group {GROUP} to read repos in tenancy"


@dataclass(frozen=True, slots=True)
class Ocids:
    """Whom policies speak of; texts in angle brackets where the metadata did not say."""

    instance: str = "<the instance's OCID>"
    compartment: str = "<the OCID of the nodes' compartment>"
    tenancy: str = "<the tenancy's OCID>"


def rule(ocids: Ocids) -> str:
    """The matching rule of a dynamic group that holds the nodes of this compartment."""
    return f"All {{instance.compartment.id = '{ocids.compartment}'}}"


def node_may_read(ocids: Ocids) -> tuple[str, ...]:
    """How to let this node read repositories."""
    return (
        "Make a dynamic group that holds the nodes, unless there is one:",
        f"  oci iam dynamic-group create --name {GROUP} --description 'OKE worker nodes'"
        f' --matching-rule "{rule(ocids)}"',
        "and a policy with this statement (narrower: in compartment id <the repository's>):",
        f"  {STATEMENT}",
        f"  oci iam policy create --compartment-id {ocids.tenancy} --name {GROUP}-read-repos"
        f" --description 'OKE nodes pull images' --statements '[\"{STATEMENT}\"]'",
        "In an identity domain other than Default the group is named '<domain>'/'<group>'.",
        "A policy takes some 5 minutes; a dynamic group counts for tokens made after it alone.",
    )


def user_may_read(ocids: Ocids) -> tuple[str, ...]:
    """How to let the user of an OCI config file read repositories."""
    return (
        "Make a policy that lets a group of this user's read repositories:",
        "  Allow group <group> to read repos in tenancy",
        f"  oci iam policy create --compartment-id {ocids.tenancy} --name read-repos"
        " --description 'Pull images'"
        " --statements '[\"Allow group <group> to read repos in tenancy\"]'",
    )


def workload_may_read(ocids: Ocids) -> tuple[str, ...]:
    """How to let a service account read repositories."""
    return (
        "Make a policy with this statement, with the account's own names:",
        "  Allow any-user to read repos in tenancy where all { request.principal.type = 'workload',"
        " request.principal.cluster_id = '<OCID of the cluster>', request.principal.namespace ="
        " '<namespace>', request.principal.service_account = '<service account>' }",
        f"It stands in a policy of this tenancy: {ocids.tenancy}",
    )


def other_tenancy(ocids: Ocids) -> tuple[str, ...]:
    """How to let this node read repositories of another tenancy, which takes both."""
    return (
        "If it is another tenancy's, a policy here must endorse:",
        "  Define tenancy Owner as <the other tenancy's OCID>",
        f"  Endorse dynamic-group {GROUP} to read repos in tenancy Owner",
        "and one there must admit:",
        f"  Define tenancy Nodes as {ocids.tenancy}",
        "  Define dynamic-group Nodes as <the OCID of this tenancy's dynamic group>",
        "  Admit dynamic-group Nodes of tenancy Nodes to read repos in tenancy",
    )
