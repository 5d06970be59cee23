"""Pure lookups of permissions in an `Iam`."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.cloud.model import Iam, Workload


@dataclass(frozen=True, slots=True)
class Principal:
    """The principal of a token. `proven_at` is the issue time of the federation or session token.

    Group membership is fixed at that time, so a token older than its group never works.
    """

    ocid: str
    tenancy: str
    compartment: str | None  # None for a user
    realm: str
    proven_at: float
    workload: Workload | None = None


def names(entries: Sequence[str], repository: str) -> bool:
    """Report whether `repository` equals one of `entries`, or is below one that ends in "/"."""
    return any(
        repository.startswith(entry) if entry.endswith("/") else repository == entry
        for entry in entries
    )


def is_public(iam: Iam, repository: str) -> bool:
    return names(iam.public, repository)


def may_read(iam: Iam, principal: Principal | None, repository: str, now: float) -> bool:
    """Report whether `principal` (None: anonymous) may read `repository` at `now` (epoch seconds)."""
    if is_public(iam, repository):
        return True
    if principal is None:
        return False
    subjects = {principal.ocid, principal.workload} | {
        group.name
        for group in iam.dynamic_groups
        if group.compartment == principal.compartment and group.since <= principal.proven_at
    }
    return any(
        policy.subject in subjects and repository.startswith(policy.prefix) and policy.since <= now
        for policy in iam.policies
    )
