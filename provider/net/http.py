"""HTTP/1.1 to one server: bounded in time and size, never redirected, retried where that can help.

``http.client`` parses the answers. It is imported when the first one is read, so that a request is
on its way as early as possible after the start of the program.
"""

import io
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from provider import __version__
from provider.errors import ClockSkew, DeadlineExceeded, ProviderError, TlsUntrusted
from provider.net.background import Background
from provider.net.deadline import Deadline

if TYPE_CHECKING:
    import ssl
    from email.message import Message

MAX_BODY = 1 << 20
_CONNECT_SECONDS = 5.0
# The first try; see Client.request.
_ANSWER_SECONDS = 10.0
_ATTEMPTS = 4
_FIRST_WAIT = 0.2
_LONGEST_WAIT = 5.0
# Of the 4xx and 5xx, those that say "not now" (RFC 9110); the others say "not like this".
PASSING = (408, 429, 500, 502, 503, 504)
# The hint for them.
REACHED = (
    "The server was reached, and says that it cannot answer. The kubelet will try again; if it lasts, "
    "see OCI's status page, or the proxy if there is one."
)
# The hint for a server that accepts connections and does not answer in time.
SLOW = (
    "The connection was established, so routes and security rules are right, but the server is too slow or"
    " something on the path (a firewall that inspects TLS, a wrong MTU) drops its answers. The kubelet will"
    " try again; if it lasts, see OCI's status page."
)
_MAX_HEAD = 64 * 1024
# OCI refuses a signature whose date is more than 5 minutes off (docs.oracle.com, "Request Signatures").
CLOCK_TOLERANCE = 300
# X509_V_ERR_ DEPTH_ZERO_SELF_SIGNED_CERT, SELF_SIGNED_CERT_IN_CHAIN,
# UNABLE_TO_GET_ISSUER_CERT_LOCALLY and UNABLE_TO_VERIFY_LEAF_SIGNATURE of OpenSSL's x509_vfy.h
_UNKNOWN_ISSUER = (18, 19, 20, 21)
_REQUEST_ID = re.compile(r"[A-Za-z0-9/_-]{1,100}", re.A)
# A request id that repeats this many letters and digits of a credential is withheld.
_SECRET_RUN = 8
_SECRET_HEADERS = ("authorization", "proxy-authorization")


class Origin(NamedTuple):
    """Where a server is. ``scheme`` is http or https."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """Host, with its port when that is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == usual else f"{host}:{self.port}"


class Proxy(NamedTuple):
    """An HTTP proxy that tunnels to https servers."""

    host: str
    port: int
    authorization: str | None


class Answer(NamedTuple):
    """What a server answered. ``headers`` is case-insensitive. ``at`` is our clock, in Unix seconds.

    ``request_id`` is OCI's id of the request, which its support asks for; safe to print.
    """

    status: int
    headers: "Message"
    body: bytes
    asked: str
    at: float
    request_id: str

    @property
    def clock_ahead(self) -> float | None:
        """Seconds by which the server's clock is ahead of ours; None when it sent no date."""
        from email.utils import parsedate_to_datetime

        try:
            return parsedate_to_datetime(self.headers.get("date", "")).timestamp() - self.at
        except (ValueError, TypeError, OverflowError):
            return None

    def describe(self) -> str:
        """Status, request id and OCI's error code: for an error's message. Never the body."""
        return f"{self.asked} answered {self.status} (opc-request-id {self.request_id})"

    def check_clock(self) -> None:
        """Raises ClockSkew when this refusal is explained by our clock."""
        ahead = self.clock_ahead
        if ahead is not None and abs(ahead) > CLOCK_TOLERANCE:
            side = "behind" if ahead > 0 else "ahead of"
            raise ClockSkew(
                f"this machine's clock is {abs(ahead):.0f} s {side} OCI's: {self.describe()}"
            )


class Failure(Exception):
    """A connection that failed. ``heals`` tells whether another try makes sense."""

    def __init__(self, reason: str, heals: bool = True) -> None:
        super().__init__(reason)
        self.heals = heals


class Slow(Failure):
    """The server was reached, but did not answer in time."""


class UnknownIssuer(TlsUntrusted):
    """The server's certificate leads to no CA that is trusted."""


class Connection:
    """One connection to ``origin``: ``open``, then ``send`` and ``receive`` in turns.

    ``credentials`` collects what was sent to prove who we are, so that an answer that repeats any of
    it is recognized; connections to the same server share the list. ``reached`` tells whether a TCP
    connection to the server itself was established.
    """

    def __init__(
        self,
        origin: Origin,
        trust: "Callable[[], ssl.SSLContext] | None" = None,
        proxy: Proxy | None = None,
        credentials: list[str] | None = None,
    ) -> None:
        self.origin = origin
        self.reached = False
        self._credentials = [] if credentials is None else credentials
        self._trust = trust
        self._proxy = proxy
        self._socket: socket.socket | None = None
        self._asked = ""

    def open(self, deadline: Deadline) -> None:
        """Connect, by the proxy if there is one, and set up TLS. Raises Failure, TlsUntrusted."""
        address = (self._proxy.host, self._proxy.port) if self._proxy else self.origin[1:]
        doing = f"connecting to {address[0]} port {address[1]}"
        try:
            timeout = min(_CONNECT_SECONDS, deadline.left(doing))
            # As bytes: getaddrinfo would put text through the IDNA codec, 3 ms of imports.
            numbered = (address[0].encode(), address[1])
            self._socket = socket.create_connection(numbered, timeout=timeout)  # type: ignore[arg-type] # typeshed knows text only
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except socket.gaierror as error:
            heals = error.errno == socket.EAI_AGAIN
            raise Failure(f"{address[0]} has no address in DNS: {error.strerror}", heals) from error
        except TimeoutError as error:
            raise Failure(f"{doing}: no answer within {timeout:.0f} s") from error
        except OSError as error:
            raise Failure(f"{doing}: {error.strerror or error}") from error
        if self._proxy:
            self._tunnel(self._proxy, deadline)
        self.reached = True
        if self._trust:
            self._secure(self._trust(), deadline)

    def _tunnel(self, proxy: Proxy, deadline: Deadline) -> None:
        target = f"{self.origin.host}:{self.origin.port}"
        headers = {"host": target}
        if proxy.authorization:
            headers["proxy-authorization"] = proxy.authorization
        self.send("CONNECT", target, headers, b"", deadline)
        status = self.receive(MAX_BODY, deadline).status
        if status != 200:
            raise Failure(
                f"the proxy {proxy.host}:{proxy.port} answered {status} to CONNECT {target}"
            )

    def _secure(self, context: "ssl.SSLContext", deadline: Deadline) -> None:
        import ssl

        assert self._socket is not None
        try:
            self._socket.settimeout(deadline.left(f"setting up TLS with {self.origin.host}"))
            self._socket = context.wrap_socket(
                self._socket, server_hostname=self.origin.host.encode()
            )
        except ssl.SSLCertVerificationError as error:
            unknown = error.verify_code in _UNKNOWN_ISSUER
            raise (UnknownIssuer if unknown else TlsUntrusted)(
                f"the certificate of {self.origin.netloc} is not trusted: {error.verify_message}"
            ) from error
        except TimeoutError as error:
            raise Slow(f"TLS with {self.origin.host}: connected, but no answer in time") from error
        except ssl.SSLEOFError as error:
            raise Failure(f"TLS with {self.origin.host}: the connection was closed") from error
        except ssl.SSLError as error:
            raise Failure(f"TLS with {self.origin.host}: {error.reason}", heals=False) from error
        except OSError as error:
            raise Failure(f"TLS with {self.origin.host}: {error.strerror or error}") from error

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, deadline: Deadline
    ) -> None:
        """Send a request. Raises Failure."""
        lines = [
            f"{method} {target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        if method == "CONNECT" and self._proxy:
            self._asked = (
                f"CONNECT {target} through the proxy {self._proxy.host}:{self._proxy.port}"
            )
        else:
            self._asked = f"{method} {self.origin.scheme}://{self.origin.netloc}{target}"
        self._credentials += [headers[name] for name in _SECRET_HEADERS if name in headers]
        self._credentials.append(body.decode("latin-1"))
        assert self._socket is not None
        try:
            self._socket.settimeout(deadline.left(f"sending {self._asked}"))
            self._socket.sendall("\r\n".join([*lines, "", ""]).encode("ascii") + body)
        except OSError as error:
            raise Failure(f"{self._asked}: {error.strerror or error}") from error

    def receive(self, limit: int, deadline: Deadline) -> Answer:
        """The answer to what was sent, its body at most ``limit`` bytes. Raises Failure."""
        from http.client import HTTPException, HTTPResponse, IncompleteRead

        assert self._socket is not None
        method = self._asked.partition(" ")[0]
        incoming = _Incoming(self._socket, deadline, self._asked, _MAX_HEAD + limit)
        response = HTTPResponse(incoming, method=method)  # type: ignore[arg-type] # it only calls makefile
        try:
            response.begin()
            if incoming.ended:
                # http.client takes an end within the headers for the end of the headers.
                raise Failure(f"{self._asked}: the answer was cut off")
            # A tunnel has no body: what follows is the other server's.
            body = (
                b"" if method == "CONNECT" and response.status == 200 else response.read(limit + 1)
            )
        except OSError as error:
            reason = error.strerror or f"broken answer ({type(error).__name__})"
            raise Failure(f"{self._asked}: {reason}") from error
        except (HTTPException, ValueError) as error:
            # What is no HTTP will be none the next time. No cause attached: it would quote the answer.
            heals = isinstance(error, IncompleteRead)
            reason = f"broken answer ({type(error).__name__})"
            raise Failure(f"{self._asked}: {reason}", heals) from None
        finally:
            # Else its finalizer does it, and may complain on standard error (Python 3.13).
            response.close()
        if len(body) > limit:
            raise Failure(f"{self._asked}: the answer is larger than {limit} bytes", heals=False)
        if response.length and method not in ("HEAD", "CONNECT"):
            raise Failure(f"{self._asked}: the answer was cut off")
        if response.will_close and method != "CONNECT":
            self.close()
        # A body of status 200 may be a new credential.
        secrets = [*self._credentials, body.decode("latin-1") if response.status == 200 else ""]
        request_id = _request_id(response.headers.get("opc-request-id"), secrets)
        headers = response.headers
        return Answer(response.status, headers, body, self._asked, time.time(), request_id)

    @property
    def is_open(self) -> bool:
        """True while a further request can be sent."""
        return self._socket is not None

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Incoming(io.RawIOBase):
    """A socket's bytes, each wait for them bounded by the deadline: a server that sends one byte a
    second would otherwise never meet a time-out. At most ``most`` bytes: http.client has no bound on
    the headers of an answer, and none on a chunk whose length it misreads.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline, asked: str, most: int) -> None:
        self._sock = sock
        self._deadline = deadline
        self._asked = asked
        self._most = most
        self.ended = False

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What http.client asks of a socket."""
        return io.BufferedReader(self, 65536)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._deadline.left(f"waiting for {self._asked}"))
        try:
            count = self._sock.recv_into(buffer)
        except TimeoutError:
            self._deadline.left(f"waiting for {self._asked}")
            raise
        self.ended = count == 0
        self._most -= count
        if self._most < 0:
            raise Failure(f"{self._asked}: the answer is too large", heals=False)
        return count


class Client:
    """Requests to one origin over one connection that is kept open between them.

    ``unreachable`` is the error to raise when no answer can be had. ``trust`` makes contexts for TLS:
    while an issuer is unknown, the next one is tried.
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
        self.retries = 0
        self._deadline = deadline
        self._unreachable = unreachable
        self._trust = trust
        self._proxy = proxy
        self._connection: Connection | None = None
        self._opening: Background[Connection] | None = None
        self._newest: Connection | None = None
        self._credentials: list[str] = []

    def open_early(self) -> None:
        """Begin to connect now, while other work is done."""
        self._opening = Background(lambda: self._open(self._deadline))

    def connect(self) -> None:
        """Connect, TLS included, in one try. Raises ``unreachable``, TlsUntrusted, DeadlineExceeded."""
        doing = f"connecting to {self.origin.netloc}"
        try:
            self._connection = self._opened(self._deadline.within(_ANSWER_SECONDS, doing))
        except Failure as failure:
            hint = SLOW if isinstance(failure, Slow) else None
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
        attempts: int = _ATTEMPTS,
        seconds: float = _ANSWER_SECONDS,
    ) -> Answer:
        """Ask, and ask again after a failed connection or a "not now", while there is time.

        A try gets at most ``seconds``. After a server was reached and did not answer within that, the
        next try gets all the time that is left: an answer may have been lost, but a server may also
        need 20 seconds. ``headers`` is called for each try, since a signature covers the time. Answers
        of any other status are returned. Raises ``unreachable``, TlsUntrusted, DeadlineExceeded.
        """
        asked = f"{method} {self.origin.scheme}://{self.origin.netloc}{target}"
        for attempt in range(attempts):
            try:
                answer = self._ask(method, target, headers(), body, seconds)
            except Failure as failure:
                reason, hint, retry_after, heals = str(failure), None, 0.0, failure.heals
                if isinstance(failure, Slow):
                    hint, seconds = SLOW, self._deadline.seconds
            else:
                heals = answer.status in PASSING
                if answer.status < 500 and not heals:
                    return answer
                reason, hint, retry_after = answer.describe(), REACHED, seconds_to_wait(answer)
            wait = backoff(attempt, retry_after)
            last = not heals or attempt + 1 >= attempts
            tries = f"{attempt + 1} {'try' if attempt == 0 else 'tries'}"
            if self._deadline.is_over:
                spent = f"the {self._deadline.seconds:g} s of this call are over"
                advice = hint or self._unreachable.default_hint
                raise DeadlineExceeded(f"{reason}; {spent} ({tries})", advice)
            if last or wait >= self._deadline.left(f"asking {asked}"):
                raise self._unreachable(f"{reason} ({tries})", hint)
            self.retries += 1
            time.sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> Answer:
        limit = self._deadline.within(seconds, f"asking {self.origin.netloc}")
        try:
            connection, fresh = self._connected(limit)
            try:
                return self._exchange(connection, method, target, headers, body, limit)
            except Failure as failure:
                # A server may close a kept connection at any time; a new one tells what is true.
                if fresh or not failure.heals:
                    raise
                connection = self._connection = self._opened(limit)
                return self._exchange(connection, method, target, headers, body, limit)
        except DeadlineExceeded as error:
            self._connection = None
            if self._newest is None or not self._newest.reached:
                raise Failure(error.message) from error
            asked = f"{method} {self.origin.scheme}://{self.origin.netloc}{target}"
            raise Slow(f"{asked}: connected, but no answer within {limit.seconds:.0f} s") from error

    def _connected(self, limit: Deadline) -> tuple[Connection, bool]:
        """A connection, and whether it was opened just now."""
        if self._connection is not None and self._connection.is_open:
            return self._connection, False
        opening, self._opening = self._opening, None
        if opening is not None:
            self._connection = opening.result(limit, f"connecting to {self.origin.netloc}")
            return self._connection, False
        self._connection = self._opened(limit)
        return self._connection, True

    def _opened(self, limit: Deadline) -> Connection:
        # In a thread: a name may be looked up for as long as the resolver likes, and may have many
        # addresses.
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

    def _exchange(
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


USER_AGENT = f"oke-credential-provider/{__version__}"


def backoff(attempt: int, at_least: float) -> float:
    """Seconds to wait after try number ``attempt`` (from 0): doubling, with jitter, so that nodes
    that failed together do not come back together.
    """
    import random

    return at_least + random.uniform(0.5, 1.0) * min(_LONGEST_WAIT, _FIRST_WAIT * float(2**attempt))


def seconds_to_wait(answer: Answer) -> float:
    """What Retry-After asks for, in seconds; 0 without it. OCI documents the seconds form only."""
    text = answer.headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0


def _request_id(given: str | None, secrets: Iterable[str]) -> str:
    """The ``opc-request-id`` of an answer: "none" when it has none, "withheld" when it has another
    form than OCI's ids or repeats a part of ``secrets``, in whatever case and however divided.
    """
    if given is None:
        return "none"
    if not _REQUEST_ID.fullmatch(given):
        return "withheld"
    letters = _letters(given)
    sent = [_letters(secret) for secret in secrets]
    runs = (letters[start : start + _SECRET_RUN] for start in range(len(letters) - _SECRET_RUN + 1))
    return "withheld" if any(run in text for run in runs for text in sent) else given


def _letters(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower())
