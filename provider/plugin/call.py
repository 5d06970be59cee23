"""One call, whoever makes it: a request, the answer to it, one line in the log.

What stands in the imports up here is loaded on every call; what goes over the network is imported
when it is needed, and then sends its first packet before it imports the rest.
"""

import os
import select
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from provider.cache.token_cache import Identity, get_grant, instance_region
from provider.errors import ProviderError
from provider.image import Image
from provider.log import Log
from provider.net.deadline import Deadline
from provider.ocir.hosts import RegionInfo
from provider.ocir.token import Grant, PullCheck, Token
from provider.plugin.credentials import Reply, reply
from provider.plugin.request import Request
from provider.settings import RESOURCE_PRINCIPAL, USER_PRINCIPAL, WORKLOAD_IDENTITY, Settings

if TYPE_CHECKING:
    from provider.ocir.exchange import Subject


class Call:
    """A call that begins now. ``environ`` is what the network depends on: proxies, CA bundle."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._started = time.monotonic()
        self._settings = settings
        self._environ = environ
        self.deadline = Deadline(settings.deadline_seconds)
        self.log = Log(settings.log_level)

    def reply(self, ask: Callable[[], Request]) -> Reply:
        """Answer what ``ask`` asks, and log how it ended. Raises ProviderError."""
        fields: dict[str, object] = {}
        try:
            request = ask()
            image = request.image
            fields = {"registry": image.host, "image": image.repository or None}
            settings = self._settings.for_caller(request.service_account_token is not None)
            given = reply(
                image, settings, self._realm_domain, lambda: self._grant(request, settings)
            )
        except ProviderError as error:
            fields |= {"code": error.code, "seconds": self._seconds()}
            self.log.write("error", error.line(), fields)
            raise
        level, outcome = given.outcome()
        self.log.write(level, "answered", {**fields, **outcome, "seconds": self._seconds()})
        return given

    def _realm_domain(self) -> str:
        settings, log = self._settings, self.log
        work = _Network(settings, None, self.deadline, self._environ)
        return instance_region(settings, self.deadline, self._environ, work, log.odd).realm_domain

    def _grant(self, request: Request, settings: Settings) -> Grant:
        subject = subject_of(settings, request.service_account_token, self._environ)
        work = _Network(settings, subject, self.deadline, self._environ)
        return get_grant(
            request.image, settings, subject, self.deadline, self._environ, work, self.log.odd
        )

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._started:.3f}"


def subject_of(
    settings: Settings, service_account_token: str | None, environ: Mapping[str, str]
) -> "Subject":
    """Whose identity ``settings`` say is proved; None for the node's.

    Raises NoServiceAccountToken, BadUserPrincipal, BadResourcePrincipal.
    """
    method = settings.ocir_auth_method
    if method == WORKLOAD_IDENTITY:
        from provider.auth.service_account import service_account

        return service_account(service_account_token)
    if method == RESOURCE_PRINCIPAL:
        from provider.auth.oci_files import resource_environment

        return resource_environment(environ)
    if method == USER_PRINCIPAL:
        from provider.auth.oci_files import user_profile

        return user_profile(settings.oci_config_file, settings.oci_profile)
    return None


class _Network:
    """What only a call that needs the network loads."""

    def __init__(
        self,
        settings: Settings,
        subject: "Subject",
        deadline: Deadline,
        environ: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._subject = subject
        self._deadline = deadline
        self._environ = environ

    def region(self) -> RegionInfo:
        from provider.ocir.exchange import instance_region

        return instance_region(self._deadline)

    def reach(self, image: Image) -> None:
        from provider.ocir.exchange import reach

        reach(image, self._settings, self._deadline, self._environ)

    def exchange(self, image: Image, identity: Identity) -> Grant:
        from provider.ocir.exchange import exchange

        return exchange(
            image, self._settings, self._subject, self._deadline, self._environ, identity
        )

    def check(self, image: Image, token: Token) -> PullCheck:
        from provider.ocir.exchange import check

        return check(image, token, self._settings, self._deadline, self._environ)


def standard_input(limit: int, deadline: Deadline) -> bytes:
    """Standard input to its end, or one byte more than ``limit``. Raises OSError, DeadlineExceeded."""
    data = b""
    while len(data) <= limit:
        # In short waits: Python handles a signal that arrives just before a wait only after it.
        wait = min(1.0, deadline.left("reading the request"))
        if not select.select([0], [], [], wait)[0]:
            continue
        part = os.read(0, 65536)
        if not part:
            break
        data += part
    return data
