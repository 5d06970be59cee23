"""The HTTP/1.1 that the stand-in needs, on raw streams, so that faults can break it at any byte."""

import asyncio
import email.utils
import json
import time
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Self

_MAX_HEAD = 64 * 1024
_MAX_BODY = 256 * 1024


class Malformed(Exception):
    """Not a valid request. The stand-in answers 400 and closes the connection."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request. Header names are in lower case; order and repetitions are preserved."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def get(self, name: str) -> str | None:
        """Return the value of a header, with repeated values joined by a comma; None without the header."""
        values = [v for n, v in self.headers if n == name]
        return ", ".join(values) if values else None

    def keep_alive(self) -> bool:
        return "close" not in (self.get("connection") or "").lower()


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. `refusal` goes to the request log and is not sent."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    refusal: str | None = None
    length: int | None = field(default=None)  # Content-Length if it is not len(body) (HEAD)
    reason: str | None = None  # None: the usual reason of the status

    def with_header(self, name: str, value: str) -> Self:
        return replace(self, headers=(*self.headers, (name, value)))


def json_response(status: int, value: Any, *headers: tuple[str, str]) -> Response:
    return Response(status, json.dumps(value).encode(), headers)


def refuse(status: int, code: str, message: str, *headers: tuple[str, str]) -> Response:
    """Return a refusal in OCI's form, with the reason in `message`."""
    answer = json_response(status, {"code": code, "message": message}, *headers)
    return replace(answer, refusal=message)


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read the next request; None if the peer has closed the connection. Raises Malformed."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise Malformed("the connection ended within the headers") from error
        return None
    except asyncio.LimitOverrunError as error:
        raise Malformed("headers too long") from error
    if len(head) > _MAX_HEAD:
        raise Malformed("headers too long")
    lines = head[:-4].decode("latin-1").split("\r\n")
    try:
        method, target, version = lines[0].split(" ")
    except ValueError as error:
        raise Malformed("bad request line") from error
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise Malformed(f"bad version {version[:16]!r}")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or line[0] in " \t":
            raise Malformed("bad header line")
        headers.append((name.lower(), value.strip(" \t")))
    request = Request(method, target, tuple(headers))
    if request.get("transfer-encoding") is not None:
        raise Malformed("a body must have a Content-Length")
    length = request.get("content-length")
    if length is None:
        return request
    if not length.isdecimal() or int(length) > _MAX_BODY:
        raise Malformed("bad Content-Length")
    try:
        return replace(request, body=await reader.readexactly(int(length)))
    except asyncio.IncompleteReadError as error:
        raise Malformed("the connection ended within the body") from error


def head_of(response: Response, *, offset: float, close: bool) -> bytes:
    """Return status line and headers. `offset` is the server's clock skew in seconds."""
    phrase = response.reason
    if phrase is None:
        known = {status.value: status.phrase for status in HTTPStatus}
        phrase = known.get(response.status, "Unknown")
    length = len(response.body) if response.length is None else response.length
    lines = [f"HTTP/1.1 {response.status} {phrase}"]
    sent = {name.lower() for name, _ in response.headers}
    if "date" not in sent:
        lines.append(f"Date: {email.utils.formatdate(time.time() + offset, usegmt=True)}")
    if "content-type" not in sent:
        lines.append(f"Content-Type: {response.content_type}")
    if "content-length" not in sent and "transfer-encoding" not in sent and length >= 0:
        lines.append(f"Content-Length: {length}")
    lines.extend(f"{name}: {value}" for name, value in response.headers)
    if close:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
