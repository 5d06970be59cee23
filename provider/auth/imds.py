"""The instance metadata service (IMDS) v2: the certificate, key and region of this instance.

Requests go to ``http://169.254.169.254/opc/v2`` with ``Authorization: Bearer Oracle``, and never through a
proxy: IMDS refuses forwarded requests
(https://docs.oracle.com/en-us/iaas/Content/Compute/Tasks/gettingmetadata.htm).
"""

import errno
import json
from collections.abc import Iterable

from provider.auth.region import RegionInfo
from provider.errors import DeadlineExceeded, ImdsThrottled, ImdsUnreachable, ImdsUnusable
from provider.net.deadline import Deadline
from provider.net.hostname import HTTP_PORT, is_domain_name
from provider.net.http import USER_AGENT, Answer, Connection, Failure, Origin, Slow
from provider.net.retry import with_retries

IPV4 = Origin("http", "169.254.169.254", HTTP_PORT)
IPV6 = Origin("http", "fd00:c1::a9fe:a9fe", HTTP_PORT)
CERTIFICATE = "/identity/cert.pem"
KEY = "/identity/key.pem"
INTERMEDIATE = "/identity/intermediate.pem"
REGION_INFO = "/instance/regionInfo"
_BASE = "/opc/v2"
_MAX_BODY = 64 * 1024
_TRY_SECONDS = 3.0
_ATTEMPTS = 6
_NO_IPV4 = (errno.ENETUNREACH, errno.EADDRNOTAVAIL)


class Metadata:
    """GET requests for several paths in parallel, each on its own connection.

    The constructor sends them; ``get`` waits for one answer. IMDS throttles bursts with 429, so only a path
    that failed is requested again. ``retries`` counts these requests.
    """

    def __init__(self, paths: Iterable[str], deadline: Deadline) -> None:
        self._deadline = deadline
        self._origin = IPV4
        self.retries = 0
        self._pending: dict[str, Connection | Failure] = {}
        for path in paths:
            previous = next(reversed(self._pending.values()), None)
            # After a failure, do not connect again: the next connection would fail too, possibly after a timeout.
            self._pending[path] = previous if isinstance(previous, Failure) else self._send(path)

    def get(self, path: str) -> bytes:
        """Return the body at ``path``. Raises ImdsUnreachable, ImdsThrottled, ImdsUnusable, DeadlineExceeded."""

        def attempt() -> Answer:
            sent = self._pending.pop(path, None)
            self.retries += sent is None
            return self._receive(sent or self._send(path))

        answer = with_retries(attempt, self._deadline, ImdsUnreachable, _ATTEMPTS, ImdsThrottled)
        if answer.status != 200:
            raise ImdsUnusable(answer.describe())
        return answer.body

    def _send(self, path: str) -> Connection | Failure:
        connection = Connection(self._origin)
        headers = {
            "host": self._origin.netloc,
            "user-agent": USER_AGENT,
            "authorization": "Bearer Oracle",
            "connection": "close",
        }
        limit = self._deadline.within(_TRY_SECONDS, "asking the metadata service")
        try:
            connection.open(limit)
            connection.send("GET", _BASE + path, headers, b"", limit)
        except Failure as failure:
            if self._origin is IPV6 or getattr(failure.__cause__, "errno", None) not in _NO_IPV4:
                return failure
            self._origin = IPV6
            sent = self._send(path)
            if isinstance(sent, Failure):
                # IPv4 may be up by the next try.
                self._origin = IPV4
                return Failure(f"{failure}; {sent}", sent.retryable)
            return sent
        return connection

    def _receive(self, sent: Connection | Failure) -> Answer:
        if isinstance(sent, Failure):
            raise sent
        limit = self._deadline.within(_TRY_SECONDS, "waiting for the metadata service")
        try:
            return sent.receive(_MAX_BODY, limit)
        except DeadlineExceeded as error:
            self._deadline.left("waiting for the metadata service")
            raise Slow(error.message) from error
        finally:
            sent.close()


def region_info(body: bytes) -> RegionInfo:
    """Parse the answer for ``/instance/regionInfo``. Raises ImdsUnusable."""
    try:
        content = json.loads(body)
        region, domain = content["regionIdentifier"], content["realmDomainComponent"]
        # Both become part of the name of the host that receives the node's signature.
        if is_domain_name(f"{region}.{domain}") and "." not in region and is_domain_name(domain):
            return RegionInfo(region, domain, str(content.get("regionKey", "")).lower())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImdsUnusable(
            f"the metadata service's {REGION_INFO} does not have the documented form"
        ) from error
    raise ImdsUnusable(f"the metadata service's {REGION_INFO} has no valid region and realm domain")
