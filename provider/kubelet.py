"""A call of the kubelet's: the request from standard input, the response, one line in the log.

What stands in the imports up here is loaded on every call; what goes over the network is imported
when it is needed, and then sends its first packet before it imports the rest.
"""

import os
import select
import time
from collections.abc import Mapping
from typing import NamedTuple

from provider.deadline import Deadline
from provider.errors import BadRequest, ProviderError
from provider.grant import Grant, PullCheck, Token
from provider.image import Image
from provider.log import Log
from provider.plugin import reply
from provider.request import MAX_BYTES, parse_request
from provider.settings import Settings, settings_from_environment, settings_from_file
from provider.sharing import get_grant


class Outcome(NamedTuple):
    """The response as JSON, and what was logged on the way to it."""

    response: str
    log: list[str]


def answer(settings_file: str | None, environ: Mapping[str, str]) -> Outcome:
    """Read the request, answer it, log the call. Raises ProviderError."""
    started = time.monotonic()
    if settings_file:
        settings = settings_from_file(settings_file)
    else:
        settings = settings_from_environment(environ)
    log = Log(settings.log_level)
    deadline = Deadline(settings.deadline_seconds)
    work = _Network(settings, deadline, environ)
    fields: dict[str, object] = {}
    try:
        image = parse_request(_read_request(deadline)).image
        fields = {"registry": image.host, "image": image.repository}
        given = reply(
            image,
            settings,
            work.realm_domain,
            lambda: get_grant(image, settings, deadline, environ, work, log.odd),
        )
    except ProviderError as error:
        seconds = f"{time.monotonic() - started:.3f}"
        log.write("error", error.line(), {**fields, "code": error.code, "seconds": seconds})
        raise
    level, outcome = given.outcome()
    seconds = f"{time.monotonic() - started:.3f}"
    log.write(level, "answered", {**fields, **outcome, "seconds": seconds})
    return Outcome(given.response.to_json(), log.lines)


def _read_request(deadline: Deadline) -> bytes:
    """Standard input to its end, or one byte more than a request may have. Raises BadRequest."""
    data = b""
    try:
        if os.isatty(0):
            raise BadRequest(
                "standard input is a terminal",
                "The kubelet calls this program with a request on standard input. For people there"
                " are commands: oke-credential-provider --help",
            )
        while len(data) <= MAX_BYTES:
            if not select.select([0], [], [], deadline.left("reading the request"))[0]:
                continue  # the deadline is over, and the next look at it says so
            part = os.read(0, 65536)
            if not part:
                break
            data += part
    except OSError as error:
        raise BadRequest(f"standard input cannot be read: {error.strerror}") from error
    return data


class _Network:
    """What only a call that needs the network loads."""

    def __init__(self, settings: Settings, deadline: Deadline, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._deadline = deadline
        self._environ = environ

    def realm_domain(self) -> str:
        from provider.exchange import instance_realm_domain

        return instance_realm_domain(self._deadline)

    def exchange(self, image: Image) -> Grant:
        from provider.exchange import exchange

        return exchange(image, self._settings, self._deadline, self._environ)

    def check(self, image: Image, token: Token) -> PullCheck:
        from provider.exchange import check

        return check(image, token, self._settings, self._deadline, self._environ)
