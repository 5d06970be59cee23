"""A plain HTTP client inside the namespace, for requests without the program.

It shares no code with the program or the SDK: it uses http.client, with one connection per request.
"""

import base64
import http.client
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.cloud.namespace import REPOSITORY, Namespace

_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_MOST = 4 * 1024 * 1024  # limit of a body in bytes; a longer one is the error "too long"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a request: an answer, or an `error` (name and text of an exception)."""

    status: int = 0
    headers: Mapping[str, str] | None = None  # names in lower case
    body: bytes = b""
    error: str = ""

    def json(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


class Client:
    """A process inside that makes requests one after another."""

    def __init__(self, ns: Namespace) -> None:
        self._process = ns.popen(
            [sys.executable, "-m", "tests.cloud.client"],
            cwd=str(REPOSITORY),
            stdin=subprocess.PIPE,
            stderr=None,
        )
        self.pid = self._process.pid

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout: float = 5.0,
    ) -> Outcome:
        assert self._process.stdin is not None and self._process.stdout is not None
        text = base64.b64encode(body).decode()
        order = {"method": method, "url": url, "headers": dict(headers or {}), "body": text}
        self._process.stdin.write(json.dumps({**order, "timeout": timeout}).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Outcome(**{**answer, "body": base64.b64decode(answer["body"])})

    def get(
        self, url: str, headers: Mapping[str, str] | None = None, timeout: float = 5
    ) -> Outcome:
        return self.request("GET", url, headers, timeout=timeout)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def _connect(url: str, timeout: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    context = ssl.create_default_context(cafile=_BUNDLE)
    return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)


def _perform(order: Mapping[str, Any]) -> dict[str, object]:
    url: str = order["url"]
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection = _connect(url, order["timeout"])
    try:
        body = base64.b64decode(order["body"])
        connection.request(order["method"], target, body or None, order["headers"])
        response = connection.getresponse()
        received = response.read(_MOST + 1)
        if len(received) > _MOST:
            return {"status": response.status, "body": "", "error": "body too long"}
        if response.length:
            return {"status": response.status, "body": "", "error": "IncompleteRead"}
        headers = {name.lower(): value for name, value in response.getheaders()}
        text = base64.b64encode(received).decode()
        return {"status": response.status, "headers": headers, "body": text}
    except (OSError, http.client.HTTPException) as error:
        return {"body": "", "error": f"{type(error).__name__}: {error}"}
    finally:
        connection.close()


def main() -> None:
    socket.setdefaulttimeout(60)
    for line in sys.stdin:
        print(json.dumps(_perform(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
