"""The instance metadata service (IMDS v2): the node's certificate, its key, and its region.

``http://169.254.169.254/opc/v2``, header ``Authorization: Bearer Oracle``; it refuses requests that
were forwarded, so it is never asked through a proxy (docs.oracle.com, "Getting Instance Metadata").
"""

import errno
import json
import time
from collections.abc import Iterable

from provider.errors import DeadlineExceeded, ImdsThrottled, ImdsUnreachable, ImdsUnusable
from provider.net.deadline import Deadline
from provider.net.http import (
    PASSING,
    REACHED,
    SLOW,
    USER_AGENT,
    Answer,
    Connection,
    Failure,
    Origin,
    Slow,
    backoff,
    seconds_to_wait,
)
from provider.ocir.hosts import RegionInfo, is_domain_name

IPV4 = Origin("http", "169.254.169.254", 80)
IPV6 = Origin("http", "fd00:c1::a9fe:a9fe", 80)
CERTIFICATE = "/identity/cert.pem"
KEY = "/identity/key.pem"
INTERMEDIATE = "/identity/intermediate.pem"
REGION_INFO = "/instance/regionInfo"
_BASE = "/opc/v2"
_MAX_ANSWER = 64 * 1024
_ANSWER_SECONDS = 3.0
_ATTEMPTS = 6
_NO_IPV4 = (errno.ENETUNREACH, errno.EADDRNOTAVAIL)


class Metadata:
    """GETs of several paths side by side, each on a connection of its own.

    They are on their way when the object is made; ``get`` waits for one. IMDS throttles bursts with
    429, so a path that failed is asked again after a growing pause, and only that path.
    """

    def __init__(self, paths: Iterable[str], deadline: Deadline) -> None:
        self._deadline = deadline
        self._origin = IPV4
        self.retries = 0
        self._asked: dict[str, Connection | Failure] = {}
        for path in paths:
            before = next(reversed(self._asked.values()), None)
            # Where one connection fails the next would, too, and each may take its time.
            self._asked[path] = before if isinstance(before, Failure) else self._ask(path)

    def _ask(self, path: str) -> Connection | Failure:
        connection = Connection(self._origin)
        headers = {
            "host": self._origin.netloc,
            "user-agent": USER_AGENT,
            "authorization": "Bearer Oracle",
            "connection": "close",
        }
        limit = self._deadline.within(_ANSWER_SECONDS, "asking the metadata service")
        try:
            connection.open(limit)
            connection.send("GET", _BASE + path, headers, b"", limit)
        except Failure as failure:
            if self._origin is IPV6 or getattr(failure.__cause__, "errno", None) not in _NO_IPV4:
                return failure
            self._origin = IPV6
            asked = self._ask(path)
            if isinstance(asked, Failure):
                # IPv4 may be configured by the next try.
                self._origin = IPV4
                return Failure(f"{failure}; {asked}", asked.heals)
            return asked
        return connection

    def get(self, path: str) -> bytes:
        """The body at ``path``. Raises ImdsUnreachable, ImdsThrottled, ImdsUnusable."""
        for attempt in range(_ATTEMPTS):
            outcome = self._receive(self._asked[path])
            throttled, retry_after, hint = False, 0.0, None
            if isinstance(outcome, Answer):
                if outcome.status == 200:
                    return outcome.body
                throttled, retry_after = outcome.status == 429, seconds_to_wait(outcome)
                heals = outcome.status in PASSING
                if outcome.status < 500 and not heals:
                    raise ImdsUnusable(outcome.describe())
                reason, hint = outcome.describe(), None if throttled else REACHED
            else:
                reason, heals = str(outcome), outcome.heals
                hint = SLOW if isinstance(outcome, Slow) else None
            wait = backoff(attempt, retry_after)
            last = not heals or attempt + 1 == _ATTEMPTS
            if last or wait >= self._deadline.left(reason):
                error = ImdsThrottled if throttled else ImdsUnreachable
                tries = f"{attempt + 1} {'try' if attempt == 0 else 'tries'}"
                raise error(f"{reason} ({tries})", hint)
            self.retries += 1
            time.sleep(wait)
            self._asked[path] = self._ask(path)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _receive(self, asked: Connection | Failure) -> Answer | Failure:
        if isinstance(asked, Failure):
            return asked
        limit = self._deadline.within(_ANSWER_SECONDS, "waiting for the metadata service")
        try:
            return asked.receive(_MAX_ANSWER, limit)
        except Failure as failure:
            return failure
        except DeadlineExceeded as error:
            self._deadline.left("waiting for the metadata service")
            return Slow(error.message)
        finally:
            asked.close()


def region_info(body: bytes) -> RegionInfo:
    """Read the answer of ``/instance/regionInfo``. Raises ImdsUnusable."""
    try:
        content = json.loads(body)
        region, domain = content["regionIdentifier"], content["realmDomainComponent"]
        # Both become part of the host that the node's identity is sent to.
        if is_domain_name(f"{region}.{domain}") and "." not in region and is_domain_name(domain):
            return RegionInfo(region, domain, str(content.get("regionKey", "")).lower())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImdsUnusable(
            f"the metadata service's {REGION_INFO} is not what OCI documents"
        ) from error
    raise ImdsUnusable(f"the metadata service's {REGION_INFO} names no region and realm domain")
