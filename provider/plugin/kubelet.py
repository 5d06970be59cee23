"""A call of the kubelet's: the request from standard input, the response as JSON."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from provider.errors import BadRequest
from provider.net.deadline import Deadline
from provider.plugin.call import Call, standard_input
from provider.plugin.request import MAX_BYTES, Request, parse_request
from provider.settings import settings_from_environment, settings_from_file


class Outcome(NamedTuple):
    """The response as JSON, and what was logged on the way to it."""

    response: str
    log: list[str]


def answer(settings_file: str | None, environ: Mapping[str, str]) -> Outcome:
    """Read the request, answer it, log the call. Raises ProviderError."""
    if settings_file:
        settings = settings_from_file(settings_file)
    else:
        settings = settings_from_environment(environ)
    call = Call(settings, environ)
    given = call.reply(lambda: _read_request(call.deadline))
    return Outcome(given.response.to_json(), call.log.lines)


def _read_request(deadline: Deadline) -> Request:
    try:
        if os.isatty(0):
            raise BadRequest(
                "standard input is a terminal",
                "The kubelet calls this program with a request on standard input. For people there"
                " are commands: oke-credential-provider --help",
            )
        data = standard_input(MAX_BYTES, deadline)
    except OSError as error:
        raise BadRequest(f"standard input cannot be read: {error.strerror}") from error
    return parse_request(data)
