"""One call, from top to bottom: host rules, cache, exchange, response."""

from __future__ import annotations

import os
import select

from provider.cache.token_cache import get_or_fetch, instance_region
from provider.errors import ProviderError
from provider.invocation import Invocation
from provider.light_typing import TYPE_CHECKING
from provider.log import Log
from provider.net.deadline import Deadline
from provider.ocir.hosts import claimed_realm_domain, is_ocir
from provider.plugin.response import NO_CREDENTIALS, Response, cache_seconds
from provider.settings import INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provider.image import Image
    from provider.plugin.request import Request


def start(settings: Settings, environ: Mapping[str, str]) -> Invocation:
    """Start a call: its deadline counts from now."""
    deadline, log = Deadline(settings.deadline_seconds), Log(settings.log_level)
    return Invocation(settings, environ, deadline, log)


def log_failure(
    invocation: Invocation, error: ProviderError, fields: Mapping[str, object] | None = None
) -> None:
    """Write an error to the log, with ``fields``."""
    seconds = f"{invocation.deadline.elapsed:.3f}"
    values = {**(fields or {}), "code": error.code, "seconds": seconds}
    invocation.log.write("error", error.line(), values)


def get_response(request: Request, invocation: Invocation) -> Response:
    """Return the response for a request, and log it. Raises ProviderError."""
    image = request.image
    fields: dict[str, object] = {"registry": image.host, "image": image.repository or None}
    try:
        token = request.service_account_token
        settings = invocation.settings.for_caller(token is not None)
        invocation = invocation._replace(settings=settings)
        if not _may_get_signature(image, invocation):
            fields["outcome"] = "not an OCIR host"
            _log_response(invocation, "info", fields)
            return NO_CREDENTIALS
        subject = None
        if settings.ocir_auth_method != INSTANCE_PRINCIPAL:
            from provider.auth.subject import subject_of

            subject = subject_of(settings, token, invocation.environ)
        credentials = get_or_fetch(image, invocation._replace(subject=subject))
    except ProviderError as error:
        log_failure(invocation, error, fields)
        raise
    check = credentials.check
    allowed = check.status == "allowed"
    seconds = cache_seconds(credentials.token.expires_in, allowed, credentials.age)
    fields |= {
        "principal": credentials.principal,
        "token": credentials.source,
        "pull_check": check.text,
        "registry_code": check.code,
        "cache_seconds": seconds,
        "token_request_id": credentials.token.request_id,
    }
    level = "warning" if check.status == "denied" else "info"
    _log_response(invocation, level, fields)
    return Response(image.host, settings.default_user, credentials.token.text, seconds)


def _may_get_signature(image: Image, invocation: Invocation) -> bool:
    """Report whether the registry is OCIR: by its name, or by the realm domain that IMDS reports for this node.

    IMDS is asked only about ``ocir.<region>.oci.<domain>`` with an unknown domain. Raises Imds*,
    DeadlineExceeded.
    """
    settings = invocation.settings
    if is_ocir(image.host, settings.ocir_hosts):
        return True
    claimed = claimed_realm_domain(image.host)
    on_a_node = settings.ocir_auth_method in (INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY)
    return bool(claimed) and on_a_node and claimed == instance_region(invocation).realm_domain


def _log_response(invocation: Invocation, level: str, fields: Mapping[str, object]) -> None:
    seconds = f"{invocation.deadline.elapsed:.3f}"
    invocation.log.write(level, "answered", {**fields, "seconds": seconds})


def read_stdin(limit: int, deadline: Deadline) -> bytes:
    """Read standard input to its end, or until it has more than ``limit`` bytes. Raises OSError, DeadlineExceeded."""
    data = b""
    while len(data) <= limit:
        # Short waits: Python handles a signal that arrives just before a wait only after the wait.
        wait = min(1.0, deadline.left("reading the request"))
        if not select.select([0], [], [], wait)[0]:
            continue
        part = os.read(0, 65536)
        if not part:
            break
        data += part
    return data
