"""A call from the kubelet: the request on standard input, the response as JSON."""

from __future__ import annotations

import os

from provider.errors import BadRequest, ProviderError
from provider.light_typing import TYPE_CHECKING, NamedTuple
from provider.plugin.call import get_response, log_failure, read_stdin, start
from provider.plugin.request import MAX_BYTES, Request, parse_request
from provider.settings import settings_from_environment, settings_from_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provider.net.deadline import Deadline


class Output(NamedTuple):
    """The response as JSON, and the lines that were logged."""

    response: str
    log: list[str]


def serve(settings_file: str | None, environ: Mapping[str, str]) -> Output:
    """Read the request and return the output for it. Raises ProviderError."""
    if settings_file:
        settings = settings_from_file(settings_file)
    else:
        settings = settings_from_environment(environ)
    invocation = start(settings, environ)
    try:
        request = _read_request(invocation.deadline)
    except ProviderError as error:
        log_failure(invocation, error)
        raise
    return Output(get_response(request, invocation).to_json(), invocation.log.lines)


def _read_request(deadline: Deadline) -> Request:
    try:
        if os.isatty(0):
            raise BadRequest(
                "standard input is a terminal",
                "The kubelet calls this program with a request on standard input. For the commands, see"
                " oke-credential-provider --help",
            )
        data = read_stdin(MAX_BYTES, deadline)
    except OSError as error:
        raise BadRequest(f"standard input cannot be read: {error.strerror}") from error
    return parse_request(data)
