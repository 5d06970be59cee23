"""Clients for OCI's servers. The clients of one call share its deadline, CA bundle and proxy."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from provider.errors import DeadlineExceeded, ProviderError
from provider.net.background import Background
from provider.net.deadline import Deadline
from provider.net.http import (
    MAX_BODY,
    USER_AGENT,
    Answer,
    Connection,
    Failure,
    Origin,
    Proxy,
    Slow,
    UnknownIssuer,
)
from provider.net.retry import ATTEMPTS, SLOW_HINT, with_retries
from provider.net.tls import hashed_folder, proxy_for, tls_context

if TYPE_CHECKING:
    import ssl

# The time for the first try; see Client.request.
_TRY_SECONDS = 10.0


class Network:
    """Makes clients. It starts to load the CA certificates at once, because that takes time."""

    def __init__(self, deadline: Deadline, environ: Mapping[str, str]) -> None:
        self.deadline = deadline
        self._environ = environ
        folder = hashed_folder(environ)
        first = Background(lambda: tls_context(environ, folder))
        self._trust = [lambda: first.result(deadline, "loading CA certificates")]
        if folder:
            self._trust.append(lambda: tls_context(environ))

    def client(self, origin: Origin, unreachable: type[ProviderError]) -> "Client":
        """Return a client for one server. Raises BadSettings if the proxy settings are wrong."""
        proxy = proxy_for(origin.host, self._environ) if origin.scheme == "https" else None
        return Client(origin, self.deadline, unreachable, self._trust, proxy)


class Client:
    """Sends requests to one origin over one connection, which stays open between them.

    ``unreachable`` is the error to raise if there is no answer. ``trust`` has factories for TLS contexts; the
    next one is tried if the issuer of the server's certificate is unknown.
    """

    def __init__(
        self,
        origin: Origin,
        deadline: Deadline,
        unreachable: type[ProviderError],
        trust: "Sequence[Callable[[], ssl.SSLContext]]",
        proxy: Proxy | None = None,
    ) -> None:
        self.origin = origin
        self._deadline = deadline
        self._unreachable = unreachable
        self._trust = trust
        self._proxy = proxy
        self._connection: Connection | None = None
        self._opening: Background[Connection] | None = None
        self._newest: Connection | None = None
        self._credentials: list[str] = []

    def preconnect(self) -> None:
        """Start to connect in the background."""
        self._opening = Background(lambda: self._open(self._deadline))

    def connect(self) -> None:
        """Connect, including TLS, without retries. Raises ``unreachable``, TlsUntrusted, DeadlineExceeded."""
        doing = f"connecting to {self.origin.netloc}"
        try:
            self._connection = self._opened(self._deadline.within(_TRY_SECONDS, doing))
        except Failure as failure:
            hint = SLOW_HINT if isinstance(failure, Slow) else None
            raise self._unreachable(str(failure), hint) from failure
        except DeadlineExceeded as error:
            self._deadline.left(doing)
            raise self._unreachable(error.message) from error

    def request(
        self,
        method: str,
        target: str,
        headers: Callable[[], Mapping[str, str]],
        body: bytes = b"",
        attempts: int = ATTEMPTS,
        seconds: float = _TRY_SECONDS,
    ) -> Answer:
        """Send a request, with retries, and return its answer: any status that is not retryable.

        A try takes at most ``seconds``. If it reached the server and got no answer, the next try may take all
        the time left: the answer may have been lost, but the server may also need 20 seconds. ``headers``
        is called for each try, because a signature covers the time. Raises ``unreachable``, TlsUntrusted,
        DeadlineExceeded.
        """

        def attempt() -> Answer:
            nonlocal seconds
            try:
                return self._try(method, target, headers(), body, seconds)
            except Slow:
                seconds = self._deadline.seconds
                raise

        return with_retries(attempt, self._deadline, self._unreachable, attempts)

    def _try(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> Answer:
        limit = self._deadline.within(seconds, f"asking {self.origin.netloc}")
        try:
            connection, fresh = self._connected(limit)
            try:
                return self._send(connection, method, target, headers, body, limit)
            except Failure as failure:
                # A server may close an idle connection at any time, so repeat the request on a new one.
                if fresh or not failure.retryable:
                    raise
                connection = self._connection = self._opened(limit)
                return self._send(connection, method, target, headers, body, limit)
        except DeadlineExceeded as error:
            self._connection = None
            if self._newest is None or not self._newest.reached:
                raise Failure(error.message) from error
            asked = f"{method} {self.origin.scheme}://{self.origin.netloc}{target}"
            raise Slow(f"{asked}: connected, but no answer within {limit.seconds:.0f} s") from error

    def _connected(self, limit: Deadline) -> tuple[Connection, bool]:
        """Return a connection, and whether it is new."""
        if self._connection is not None and self._connection.is_open:
            return self._connection, False
        opening, self._opening = self._opening, None
        if opening is not None:
            self._connection = opening.result(limit, f"connecting to {self.origin.netloc}")
            return self._connection, False
        self._connection = self._opened(limit)
        return self._connection, True

    def _opened(self, limit: Deadline) -> Connection:
        # In a thread: a DNS lookup has no time limit, and a name may have many addresses to try.
        opening = Background(lambda: self._open(limit))
        return opening.result(limit, f"connecting to {self.origin.netloc}")

    def _open(self, deadline: Deadline) -> Connection:
        first, *others = self._trust if self.origin.scheme == "https" else (None,)
        connection = self._new_connection(first)
        try:
            connection.open(deadline)
        except UnknownIssuer:
            if not others:
                raise
            connection = self._new_connection(others[0])
            connection.open(deadline)
        return connection

    def _new_connection(self, trust: "Callable[[], ssl.SSLContext] | None") -> Connection:
        self._newest = Connection(self.origin, trust, self._proxy, self._credentials)
        return self._newest

    def _send(
        self,
        connection: Connection,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        limit: Deadline,
    ) -> Answer:
        base = {"host": self.origin.netloc, "user-agent": USER_AGENT, "accept-encoding": "identity"}
        try:
            connection.send(method, target, {**base, **headers}, body, limit)
            return connection.receive(MAX_BODY, limit)
        except Exception:
            connection.close()
            raise
