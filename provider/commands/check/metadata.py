"""What the metadata service says of this instance, or why it says nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from provider.auth.imds import (
    CERTIFICATE,
    INTERMEDIATE,
    IPV4,
    KEY,
    REGION_INFO,
    Metadata,
    region_info,
)
from provider.auth.region import RegionInfo
from provider.commands.check import step as steps
from provider.commands.check.iam import Ocids, ocids_of
from provider.commands.check.step import Step, Taken
from provider.errors import DeadlineExceeded, ImdsUnusable, ProviderError
from provider.net.deadline import Deadline
from provider.net.http import Connection, Failure

METADATA: Final = "metadata"
_INSTANCE: Final = "/instance/"
_SECONDS: Final = 8.0
_ONE_ANSWER_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Instance:
    """What the metadata service says. ``identity`` holds secrets: the bodies by their path."""

    where: RegionInfo
    identity: Mapping[str, bytes]
    ocids: Ocids
    metadata: Mapping[str, object]


def ask_metadata() -> Taken[Instance]:
    """All that a call asks of the metadata service, and the instance's own description."""
    tried = f"GET http://{IPV4.netloc}/opc/v2 {REGION_INFO} {CERTIFICATE} {KEY} {INTERMEDIATE}"
    deadline = Deadline(_SECONDS)
    paths = (REGION_INFO, CERTIFICATE, KEY, INTERMEDIATE)
    try:
        metadata = Metadata((*paths, _INSTANCE), deadline)
        identity = {path: metadata.get(path) for path in paths}
        where = region_info(identity[REGION_INFO])
    except ImdsUnusable as error:
        return Taken(_unusable(tried, error))
    except ProviderError as error:
        return Taken(steps.broken(METADATA, tried, error))
    try:
        described = json.loads(metadata.get(_INSTANCE))
    except (ProviderError, ValueError, RecursionError):
        described = None  # only the advice needs it
    described = described if isinstance(described, dict) else {}
    ocids, unusable = ocids_of(described)
    attributes = described.get("metadata")
    instance = Instance(where, identity, ocids, attributes if isinstance(attributes, dict) else {})
    came = f"{where.region} of {where.realm_domain}" + (
        f", after {metadata.retries} retries" if metadata.retries else ""
    )
    if unusable:
        step = steps.warning(
            METADATA,
            "imds-unusable-ocid",
            tried,
            f"{came}; but {', '.join(unusable)} of the instance is not an OCID",
            "The commands below have a placeholder in its place. OCI's metadata service always names"
            " OCIDs: find out what answers at 169.254.169.254.",
        )
        return Taken(step, instance)
    return Taken(steps.ok(METADATA, tried, came), instance)


def _unusable(tried: str, error: ImdsUnusable) -> Step:
    if _metadata_status("/opc/v2/instance/") in (401, 403):
        return steps.failed(
            METADATA,
            "imds-forwarded",
            tried,
            f"the metadata service takes the request for a forwarded one: {error.message}",
            "Something on this node carries requests for 169.254.169.254 through a proxy (this program"
            " uses none for it), or this is no OCI instance. Look for a redirect, and take the address"
            " out of it:",
            "  iptables -t nat -S | grep -e 169.254 -e REDIRECT -e DNAT",
        )
    return steps.broken(METADATA, tried, error)


def _metadata_status(path: str) -> int | None:
    deadline = Deadline(_ONE_ANSWER_SECONDS)
    connection = Connection(IPV4)
    headers = {"host": IPV4.netloc, "authorization": "Bearer Oracle", "connection": "close"}
    try:
        connection.open(deadline)
        connection.send("GET", path, headers, b"", deadline)
        return connection.receive(1 << 20, deadline).status
    except (Failure, DeadlineExceeded):
        return None
    finally:
        connection.close()
