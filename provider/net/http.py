"""One HTTP/1.1 connection: limited in time and size, without redirects.

``http.client`` parses the answers. It is imported when the first answer is read, so that the first request
leaves as early as possible.
"""

import io
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from provider import __version__
from provider.errors import ClockSkew, TlsUntrusted
from provider.net.deadline import Deadline
from provider.net.hostname import HTTP_PORT, HTTPS_PORT

if TYPE_CHECKING:
    import ssl
    from email.message import Message

USER_AGENT = f"oke-credential-provider/{__version__}"
MAX_BODY = 1 << 20
_CONNECT_SECONDS = 5.0
_MAX_HEAD = 64 * 1024
# Seconds. OCI refuses a signature whose date differs by more than 5 minutes
# (https://docs.oracle.com/en-us/iaas/Content/API/Concepts/signingrequests.htm).
CLOCK_TOLERANCE = 300
# X509_V_ERR_ DEPTH_ZERO_SELF_SIGNED_CERT, SELF_SIGNED_CERT_IN_CHAIN,
# UNABLE_TO_GET_ISSUER_CERT_LOCALLY and UNABLE_TO_VERIFY_LEAF_SIGNATURE in OpenSSL's x509_vfy.h
_UNKNOWN_ISSUER = (18, 19, 20, 21)
_REQUEST_ID = re.compile(r"[A-Za-z0-9/_-]{1,100}", re.A)
# A request ID that contains this many consecutive letters and digits of a credential is not printed.
_SECRET_RUN = 8
_SECRET_HEADERS = ("authorization", "proxy-authorization")


class Origin(NamedTuple):
    """The address of a server. ``scheme`` is http or https."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """The host, with its port unless it is the default port of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": HTTP_PORT, "https": HTTPS_PORT}[self.scheme]
        return host if self.port == default else f"{host}:{self.port}"


class Proxy(NamedTuple):
    """An HTTP proxy that opens tunnels to https servers. ``authorization`` is secret."""

    host: str
    port: int
    authorization: str | None


class Answer(NamedTuple):
    """The answer to a request. ``headers`` is case-insensitive; ``at`` is the local time, in Unix seconds.

    ``request_id`` is OCI's ID of the request, which Oracle's support asks for. It is safe to print.
    """

    status: int
    headers: "Message"
    body: bytes
    asked: str
    at: float
    request_id: str

    @property
    def clock_ahead(self) -> float | None:
        """Seconds by which the server's clock is ahead of the local clock; None if it sent no date."""
        from email.utils import parsedate_to_datetime

        try:
            return parsedate_to_datetime(self.headers.get("date", "")).timestamp() - self.at
        except (ValueError, TypeError, OverflowError):
            return None

    def describe(self) -> str:
        """Request, status and request ID, for an error message. It never contains the body."""
        return f"{self.asked} answered {self.status} (opc-request-id {self.request_id})"

    def check_clock(self) -> None:
        """Raise ClockSkew if the local clock explains that OCI refused the request."""
        ahead = self.clock_ahead
        if ahead is not None and abs(ahead) > CLOCK_TOLERANCE:
            side = "behind" if ahead > 0 else "ahead of"
            raise ClockSkew(
                f"this machine's clock is {abs(ahead):.0f} s {side} OCI's: {self.describe()}"
            )


class Failure(Exception):
    """A connection or request that failed. ``retryable`` tells whether another try may succeed."""

    def __init__(self, reason: str, retryable: bool = True) -> None:
        super().__init__(reason)
        self.retryable = retryable


class Slow(Failure):
    """A TCP connection was established, but the server did not answer in time."""


class UnknownIssuer(TlsUntrusted):
    """No trusted CA issued the server's certificate."""


class Connection:
    """One connection to ``origin``: call ``open``, then ``send`` and ``receive`` in turn.

    ``credentials`` collects every secret that was sent, so that an answer that repeats one of them is
    recognized; connections to the same server share the list. ``reached`` tells whether a TCP connection to
    the server itself was established.
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
        """Connect, through the proxy if there is one, and set up TLS. Raises Failure, TlsUntrusted."""
        address = (self._proxy.host, self._proxy.port) if self._proxy else self.origin[1:]
        doing = f"connecting to {address[0]} port {address[1]}"
        try:
            timeout = min(_CONNECT_SECONDS, deadline.left(doing))
            # Bytes: with text, getaddrinfo imports the IDNA codec, which takes 3 ms.
            encoded = (address[0].encode(), address[1])
            self._socket = socket.create_connection(encoded, timeout=timeout)  # type: ignore[arg-type] # typeshed allows only str
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except socket.gaierror as error:
            retryable = error.errno == socket.EAI_AGAIN
            raise Failure(
                f"{address[0]} has no address in DNS: {error.strerror}", retryable
            ) from error
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
            raise Failure(
                f"TLS with {self.origin.host}: {error.reason}", retryable=False
            ) from error
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
        """Read the answer to the last request; its body has at most ``limit`` bytes. Raises Failure."""
        from http.client import HTTPException, HTTPResponse, IncompleteRead

        assert self._socket is not None
        method = self._asked.partition(" ")[0]
        incoming = _Incoming(self._socket, deadline, self._asked, _MAX_HEAD + limit)
        response = HTTPResponse(incoming, method=method)  # type: ignore[arg-type] # it calls only makefile
        try:
            response.begin()
            if incoming.ended:
                # http.client accepts an end of file inside the headers as their end.
                raise Failure(f"{self._asked}: the answer was cut off")
            # An answer to CONNECT has no body: what follows comes from the other server.
            body = (
                b"" if method == "CONNECT" and response.status == 200 else response.read(limit + 1)
            )
        except OSError as error:
            reason = error.strerror or f"no complete answer ({type(error).__name__})"
            raise Failure(f"{self._asked}: {reason}") from error
        except (HTTPException, ValueError) as error:
            # An answer that is not HTTP will not be HTTP next time. "from None": the cause quotes the answer.
            retryable = isinstance(error, IncompleteRead)
            reason = f"invalid HTTP answer ({type(error).__name__})"
            raise Failure(f"{self._asked}: {reason}", retryable) from None
        finally:
            # Otherwise its finalizer may print an error to standard error (Python 3.13).
            response.close()
        if len(body) > limit:
            raise Failure(
                f"{self._asked}: the answer is larger than {limit} bytes", retryable=False
            )
        if response.length and method not in ("HEAD", "CONNECT"):
            raise Failure(f"{self._asked}: the answer was cut off")
        if response.will_close and method != "CONNECT":
            self.close()
        # The body of a 200 may be a new credential.
        secrets = [*self._credentials, body.decode("latin-1") if response.status == 200 else ""]
        request_id = _request_id(response.headers.get("opc-request-id"), secrets)
        headers = response.headers
        return Answer(response.status, headers, body, self._asked, time.time(), request_id)

    @property
    def is_open(self) -> bool:
        """Report whether another request can be sent."""
        return self._socket is not None

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Incoming(io.RawIOBase):
    """The bytes from a socket. The deadline limits each wait: a server that sends one byte a second would
    otherwise never cause a timeout. ``most`` limits the bytes: http.client limits neither the headers of an
    answer nor a chunk with a negative length.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline, asked: str, most: int) -> None:
        self._sock = sock
        self._deadline = deadline
        self._asked = asked
        self._most = most
        self.ended = False

    def makefile(self, _mode: str) -> io.BufferedReader:
        """The method of a socket that http.client calls."""
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
            raise Failure(f"{self._asked}: the answer is too large", retryable=False)
        return count


def _request_id(given: str | None, secrets: Iterable[str]) -> str:
    """Return the ``opc-request-id`` of an answer; "none" if it has none; "withheld" if it does not look like
    OCI's IDs or contains a part of ``secrets``, ignoring case and punctuation.
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
