"""Ask the metadata service for the instance's identity, and diagnose why it fails."""

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
from provider.commands.check.step import Outcome, Step
from provider.errors import DeadlineExceeded, ImdsUnusable, ProviderError
from provider.net.deadline import Deadline
from provider.net.http import Connection, Failure

METADATA: Final = "metadata"
_INSTANCE: Final = "/instance/"
_SECONDS: Final = 8.0
_ONE_ANSWER_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Instance:
    """The metadata service's answers. ``identity`` has the bodies by path, and they are secret."""

    where: RegionInfo
    identity: Mapping[str, bytes]
    ocids: Ocids
    metadata: Mapping[str, object]


def check_metadata() -> Outcome[Instance]:
    """Request what a kubelet call requests, and the instance's description."""
    action = f"GET http://{IPV4.netloc}/opc/v2 {REGION_INFO} {CERTIFICATE} {KEY} {INTERMEDIATE}"
    deadline = Deadline(_SECONDS)
    paths = (REGION_INFO, CERTIFICATE, KEY, INTERMEDIATE)
    try:
        metadata = Metadata((*paths, _INSTANCE), deadline)
        identity = {path: metadata.get(path) for path in paths}
        where = region_info(identity[REGION_INFO])
    except ImdsUnusable as error:
        return Outcome(_unusable(action, error))
    except ProviderError as error:
        return Outcome(steps.from_error(METADATA, action, error))
    try:
        described = json.loads(metadata.get(_INSTANCE))
    except (ProviderError, ValueError, RecursionError):
        described = None  # only the advice uses it
    described = described if isinstance(described, dict) else {}
    ocids, unusable = ocids_of(described)
    attributes = described.get("metadata")
    instance = Instance(where, identity, ocids, attributes if isinstance(attributes, dict) else {})
    result = f"{where.region} of {where.realm_domain}" + (
        f", after {metadata.retries} retries" if metadata.retries else ""
    )
    if unusable:
        step = steps.warning(
            METADATA,
            "imds-unusable-ocid",
            action,
            f"{result}; but the instance's {', '.join(unusable)} is not an OCID",
            "The commands below have a placeholder instead. OCI's metadata service always returns OCIDs:"
            " find out what answers at 169.254.169.254.",
        )
        return Outcome(step, instance)
    return Outcome(steps.ok(METADATA, action, result), instance)


def _unusable(action: str, error: ImdsUnusable) -> Step:
    if _metadata_status("/opc/v2/instance/") in (401, 403):
        return steps.failed(
            METADATA,
            "imds-forwarded",
            action,
            f"the metadata service treats the request as forwarded: {error.message}",
            "Something on this node sends requests for 169.254.169.254 through a proxy (this program uses"
            " no proxy for it), or this is not an OCI instance. Look for a redirect, and exclude the"
            " address from it:",
            "  iptables -t nat -S | grep -e 169.254 -e REDIRECT -e DNAT",
        )
    return steps.from_error(METADATA, action, error)


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
