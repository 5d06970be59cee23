"""The stand-in for OCI: one process with one event loop, inside the namespace of the test cloud.

`python -m tests.cloud.standin FOLDER` listens on all addresses of `model.PLACES`, reads JSON lines from
FOLDER/control and writes its TLS root to FOLDER/ca.pem. It prints "ready" when it serves.
"""

import asyncio
import contextlib
import datetime as dt
import itertools
import json
import random
import re
import secrets
import socket
import ssl
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.cloud import federation, imds, ocir, pki, workload
from tests.cloud.http1 import (
    Malformed,
    Request,
    Response,
    head_of,
    json_response,
    read_request,
    refuse,
)
from tests.cloud.model import (
    CONNECTION_FAULTS,
    PLACES,
    SERVICE,
    Cluster,
    Count,
    Endpoint,
    Fault,
    Group,
    Iam,
    Imds,
    Place,
    Report,
    Seen,
    Workload,
    from_json,
    group_of,
    to_json,
)
from tests.cloud.state import State

_HUGE = 50 * 1024 * 1024
_CHUNK = b"x" * 65536
# Endless answers are sent slowly, so that the machine stays usable.
_ENDLESS_PAUSE_S = 0.05
_MAX_LOG = 200_000
_PROTOCOL_VERSION_ALERT = bytes((21, 3, 2, 0, 2, 2, 70))


@dataclass(slots=True)
class _Armed:
    """An active fault, and how often it has struck."""

    fault: Fault
    ready: bool  # can strike connections (see Fault on "manifest")
    strikes: int = 0

    def strike(self, draw: random.Random) -> bool:
        """Count a request. Returns whether the fault strikes it."""
        if self.fault.times is not None and self.strikes >= self.fault.times:
            return False
        if self.fault.rate < 1.0 and draw.random() >= self.fault.rate:
            return False
        self.strikes += 1
        return True


@dataclass(frozen=True, slots=True)
class _Listener:
    place: Place
    port: int
    sockets: asyncio.Task[None]
    socket: socket.socket


class StandIn:
    """Listeners, faults and counters around the pure functions of imds, federation and ocir."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.latency_s = 0.0
        self.draw = random.Random(0)
        self.faults: dict[Endpoint | Group, _Armed] = {}
        hosts = [host for place in PLACES if place.group != "cluster" for host in place.hosts]
        self.tls = _contexts(state.tls, hosts)
        (cluster,) = (place for place in PLACES if place.group == "cluster")
        self.cluster_tls = _contexts(state.cluster_ca, [cluster.address, *cluster.hosts])
        self.listeners: dict[tuple[str, int], _Listener] = {}
        self.held: set[socket.socket] = set()  # black holes: open, never answered
        self.tasks: set[asyncio.Task[None]] = set()
        self.numbers = itertools.count(1)
        self.reset_counters()
        self.under_way: Counter[Endpoint] = Counter()
        self.signed: dict[int, str] = {}  # the last signed request of each connection, in one line

    # --- counters ---

    def reset_counters(self) -> None:
        self.requests: Counter[Endpoint] = Counter()
        self.statuses: dict[Endpoint, Counter[str]] = {}
        self.peaks: Counter[Endpoint] = Counter()
        self.connections: Counter[Group] = Counter()
        self.log: list[Seen] = []

    def report(self) -> Report:
        counts = {
            endpoint: Count(number, dict(self.statuses.get(endpoint, {})), self.peaks[endpoint])
            for endpoint, number in self.requests.items()
        }
        return Report(counts, dict(self.connections), tuple(self.log))

    # --- faults ---

    def set_fault(self, target: Endpoint | Group, fault: Fault) -> None:
        self.faults[target] = _Armed(fault, ready=target != "manifest")
        self.match_listeners()

    def clear_faults(self) -> None:
        self.faults.clear()
        for held in self.held:
            held.close()
        self.held.clear()
        self.match_listeners()

    def _connection_fault(self, group: Group) -> _Armed | None:
        """Return the fault that strikes new connections to `group`, if any.

        A black hole or reset of a single IMDS endpoint waits for its request. Only the whole address can
        refuse connections.
        """
        for target, armed in self.faults.items():
            kind = armed.fault.kind
            if kind not in CONNECTION_FAULTS or not armed.ready:
                continue
            single = group == "imds" and target != group
            if group_of(target) == group and not (single and kind != "refused"):
                return armed
        return None

    def _arm_manifest(self) -> bool:
        """After a token answer, activate a connection fault of the manifest.

        Returns whether the connection must end, so that the manifest request needs a new one.
        """
        armed = self.faults.get("manifest")
        if armed is None or armed.fault.kind not in CONNECTION_FAULTS:
            return False
        if not armed.ready:
            armed.ready = True
            self.match_listeners()
        return True

    # --- listening ---

    def match_listeners(self) -> None:
        """Close the listeners of the refused groups and open all others."""
        for place in PLACES:
            armed = self._connection_fault(place.group)
            refused = armed is not None and armed.fault.kind == "refused"
            for port in place.ports:
                key = (place.address, port)
                listener = self.listeners.get(key)
                if refused and listener is not None:
                    listener.sockets.cancel()
                    listener.socket.close()
                    del self.listeners[key]
                elif not refused and listener is None:
                    self.listeners[key] = self._listen(place, port)

    def _listen(self, place: Place, port: int) -> _Listener:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((place.address, port))
        sock.listen(1024)
        task = asyncio.get_running_loop().create_task(self._accept(place, port, sock))
        return _Listener(place, port, task, sock)

    async def _accept(self, place: Place, port: int, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listening)
            self.connections[place.group] += 1
            contexts = self.cluster_tls if place.group == "cluster" else self.tls
            context = contexts["good"] if port in (443, workload.PORT) else None
            armed = self._connection_fault(place.group)
            if armed is not None and armed.strike(self.draw):
                match armed.fault.kind:
                    case "reset_accept":
                        _reset(sock)
                        continue
                    case "black_hole":
                        self.held.add(sock)
                        continue
                    case kind if context is not None:
                        context = contexts[kind]
            self._spawn(self._connection(place, sock, context))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connection(
        self, place: Place, sock: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        loop = asyncio.get_running_loop()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = asyncio.StreamReader(limit=64 * 1024)
        protocol = asyncio.StreamReaderProtocol(reader)
        too_old = (self.tls["tls_old"], self.cluster_tls["tls_old"])
        old = sock.dup() if context in too_old else None
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=context)
        except (OSError, ssl.SSLError):
            if old is not None:  # asyncio drops OpenSSL's alert, which the client needs
                with contextlib.suppress(OSError):
                    old.send(_PROTOCOL_VERSION_ALERT)
            return
        finally:
            if old is not None:
                old.close()
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        number = next(self.numbers)
        with contextlib.suppress(OSError, ssl.SSLError):
            while await self._exchange(place, number, reader, writer):
                pass
        writer.close()

    async def _exchange(
        self,
        place: Place,
        connection: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer one request. Returns whether the connection stays open."""
        try:
            request = await read_request(reader)
        except Malformed as error:
            answer = refuse(400, "InvalidParameter", str(error))
            writer.write(head_of(answer, offset=self.state.clock_offset_s, close=True))
            writer.write(answer.body)
            return False
        if request is None:
            return False
        tunnels = place.group == "proxy" and "proxy" not in self.faults
        if tunnels and request.method == "CONNECT":
            await self._tunnel(request, reader, writer)
            return False
        endpoint = _route(place, request)
        earlier = self.signed.get(connection, "")
        if (request.get("authorization") or "").startswith("Signature"):
            self.signed[connection] = _all_sent(request)
        self.requests[endpoint] += 1
        self.under_way[endpoint] += 1
        self.peaks[endpoint] = max(self.peaks[endpoint], self.under_way[endpoint])
        began, request_id = time.time(), secrets.token_hex(16).upper()
        status, refusal, keep = 0, None, False
        try:
            response = await self._answer(place, request)
            refusal = response.refusal
            response = response.with_header("opc-request-id", request_id)
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            armed = self.faults.get(endpoint) or self.faults.get(place.group)
            fault = armed.fault if armed and self._strikes(armed, endpoint) else None
            closing = not request.keep_alive()
            if endpoint == "token" and response.status == 200 and self._arm_manifest():
                closing = True
            if fault is not None:
                response = _changed(request, response, fault, earlier)
            status, keep = await self._send(reader, writer, request, response, fault, closing)
        finally:
            self.under_way[endpoint] -= 1
            self.statuses.setdefault(endpoint, Counter())[str(status)] += 1
            if len(self.log) < _MAX_LOG:
                names = tuple(name for name, _ in request.headers)
                host = request.get("host") or ""
                self.log.append(
                    Seen(
                        began,
                        endpoint,
                        host,
                        request.method,
                        request.target,
                        names,
                        status,
                        refusal,
                        request_id,
                        connection,
                        self._bears_account(request),
                        request.get("user-agent") or "",
                    )
                )
        return keep

    def _bears_account(self, request: Request) -> bool:
        sent = " ".join(value for _, value in request.headers) + request.target
        sent += request.body.decode("latin-1")
        accounts = (s for s in self.state.secrets if s.kind == "service account token")
        return any(needle in sent for secret in accounts for needle in secret.needles())

    async def _tunnel(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Act as an HTTP proxy: connect and forward bytes until either side ends."""
        host, _, port = request.target.rpartition(":")
        self._count_tunnel(request)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_carry(reader, far_writer), _carry(far_reader, writer))

    def _count_tunnel(self, request: Request) -> None:
        self.requests["proxy"] += 1
        names = tuple(name for name, _ in request.headers)
        seen = Seen(
            time.time(), "proxy", "", request.method, request.target, names, 200, None, "", 0
        )
        self.log.append(seen)

    def _strikes(self, armed: _Armed, endpoint: Endpoint) -> bool:
        """Return whether a fault strikes this request. A fault that struck its connection does not."""
        kind = armed.fault.kind
        if kind in CONNECTION_FAULTS:
            waited = endpoint in self.faults and group_of(endpoint) == "imds"
            if not waited or kind not in ("black_hole", "reset_accept"):
                return False
        return armed.strike(self.draw)

    # --- answering ---

    async def _answer(self, place: Place, request: Request) -> Response:
        try:
            match place.group:
                case "imds":
                    return self._throttled() or imds.answer(self.state, request)
                case "federation":
                    return federation.answer(self.state, place, request)
                case "registry":
                    return await ocir.answer(self.state, place, request)
                case "cluster":
                    return workload.answer(self.state, place, request)
                case "namespace":
                    return ocir.namespace(self.state, place, request)
                case _:
                    return json_response(200, {"token": "elsewhere", "expires_in": 3600})
        except Exception:
            # A bug of the stand-in: report it, so that it is not mistaken for an answer of OCI.
            traceback.print_exc()
            return refuse(599, "StandInBroken", "the stand-in itself has failed, see its stderr")

    def _throttled(self) -> Response | None:
        most = self.state.imds.max_under_way
        under_way = sum(n for e, n in self.under_way.items() if group_of(e) == "imds")
        return None if most is None or under_way <= most else imds.too_many()

    async def _send(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        request: Request,
        response: Response,
        fault: Fault | None,
        closing: bool,
    ) -> tuple[int, bool]:
        """Send the answer, changed by `fault`. Returns the sent status (0: none) and whether to continue."""
        head = head_of(response, offset=self.state.clock_offset_s, close=closing)
        body = b"" if request.method == "HEAD" else response.body
        match fault.kind if fault is not None else None:
            case "black_hole":
                await self._hold(reader, writer)
                return 0, False
            case "reset_accept":
                _reset_stream(writer)
                return 0, False
            case "reset_headers":
                writer.write(head[: len(head) // 2])
                await asyncio.sleep(0.02)  # let the client read this part
                _reset_stream(writer)
                return 0, False
            case "reset_body":
                writer.write(head + response.body[: max(1, len(response.body) // 2)])
                await asyncio.sleep(0.02)
                _reset_stream(writer)
                return 0, False
            case "echo_bare":
                writer.write(f"{_all_sent(request)}\r\n\r\n".encode("latin-1"))
                return 0, False
            case "cut_body":
                longer = replace(response, length=len(response.body) + 100)
                writer.write(head_of(longer, offset=self.state.clock_offset_s, close=True))
                writer.write(body)
                return response.status, False
            case "slow_headers":
                assert fault is not None
                await _drip(writer, head + body, fault.interval_s)
            case "slow_body":
                assert fault is not None
                writer.write(head)
                await _drip(writer, response.body, fault.interval_s)
            case "endless_headers":
                writer.write(head[:-2])
                while True:
                    writer.write((b"X-More: " + _CHUNK[:200] + b"\r\n") * 20)
                    await writer.drain()
                    await asyncio.sleep(_ENDLESS_PAUSE_S)
            case "endless_body":
                writer.write(head)
                while not writer.is_closing():
                    writer.write(b"10000\r\n" + _CHUNK + b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(_ENDLESS_PAUSE_S)
            case "huge_body":
                writer.write(head)
                for _ in range(_HUGE // len(_CHUNK)):
                    writer.write(_CHUNK)
                    await writer.drain()
            case _:
                if fault is not None and fault.delay_ms:
                    await asyncio.sleep(fault.delay_ms / 1000)
                writer.write(head + body)
        await writer.drain()
        return response.status, not closing

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Wait without an answer until the client leaves or the faults are cleared."""
        while self.faults and not reader.at_eof() and not writer.is_closing():
            await asyncio.sleep(0.05)

    # --- control ---

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            try:
                answer = {"value": self.command(**json.loads(line))}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    def command(self, op: str, value: Any = None) -> Any:
        """Run one command of `control.Control`."""
        commands: dict[str, Callable[[Any], Any]] = {
            "fault": lambda v: self.set_fault(v["target"], from_json(Fault, v["fault"])),
            "clear_faults": lambda _: self.clear_faults(),
            "latency": lambda v: setattr(self, "latency_s", v / 1000),
            "seed": self.draw.seed,
            "report": lambda _: to_json(self.report()),
            "reset_counters": lambda _: self.reset_counters(),
            "secrets": lambda _: [to_json(s) for s in self.state.secrets],
            "imds": lambda v: self.state.set_imds(from_json(Imds, v)),
            "iam": lambda v: setattr(self.state, "iam", from_json(Iam, v)),
            "cluster": lambda v: setattr(self.state, "cluster", from_json(Cluster, v)),
            "service_account_token": self._service_account_token,
            "clock": lambda v: setattr(self.state, "clock_offset_s", v),
            "registry_lifetime": lambda v: setattr(self.state, "registry_lifetime_s", v),
            "api_key": lambda v: to_json(self.state.new_api_key(**v)),
            "session": lambda v: to_json(self.state.new_session(v)),
            "upstream": lambda v: setattr(self.state, "upstream_port", v),
            "push_token": self._push_token,
        }
        return commands[op](value)

    def _service_account_token(self, value: dict[str, Any]) -> str:
        account = from_json(Workload, value.pop("account"))
        return self.state.service_account_token(account, **value)

    def _push_token(self, repository: str) -> str:
        access = [{"type": "repository", "name": repository, "actions": ["pull", "push"]}]
        return ocir.repository_token(self.state, SERVICE, access)


def _route(place: Place, request: Request) -> Endpoint:
    match place.group:
        case "imds":
            return imds.endpoint_of(request.path)
        case "registry":
            return ocir.endpoint_of(request.path)
        case "cluster":
            return "workload"
        case other:
            return other


def _changed(request: Request, response: Response, fault: Fault, earlier: str) -> Response:
    """Return the answer, changed by the fault. ``earlier`` is the previous signed request."""
    own = {name for name, _ in fault.headers}
    keep = tuple((n, v) for n, v in response.headers if n == "opc-request-id" and n not in own)
    match fault.kind:
        case "status":
            body = fault.body or json.dumps({"code": "Fault", "message": "a requested fault"})
            return Response(
                fault.status, body.encode(), (*keep, *fault.headers), fault.content_type
            )
        case "echo":
            return _echo(request, response, fault, earlier)
        case "redirect":
            status = 302 if fault.status == 200 else fault.status
            return Response(status, b"", (*keep, ("Location", "https://elsewhere.example/stolen")))
        case "endless_body":
            return Response(200, b"", (*keep, ("Transfer-Encoding", "chunked")))
        case "huge_body":
            return Response(200, b"", keep, length=_HUGE)
        case "content_type":
            return replace(response, content_type=fault.content_type)
        case "html":
            page = b"<!DOCTYPE html><html><body><h1>Sign in to continue</h1></body></html>"
            return Response(200, page, keep, "text/html")
        case "invalid_json":
            return Response(200, b'{"token": "cut', keep)
        case "patch":
            value = json.loads(response.body)
            value.update(fault.patch)
            return replace(response, body=json.dumps(value).encode())
        case "body":
            return Response(200, fault.body.encode(), keep, fault.content_type)
    return response


# The headers that a client may use or print.
_ECHOING = ("Location", "WWW-Authenticate", "Proxy-Authenticate", "Retry-After", "Server", "Set-Cookie",
            "Warning", "X-Error")  # fmt: skip


def _all_sent(request: Request) -> str:
    """Return everything that the client sent, in one line."""
    headers = (f"{name}: {value}" for name, value in request.headers)
    parts = (request.method, request.target, *headers, request.body.decode("latin-1"))
    return " ".join(" ".join(parts).split())


def _echo(request: Request, response: Response, fault: Fault, earlier: str) -> Response:
    text = _all_sent(request)
    headers = [(name, text) for name in _ECHOING]
    right = response.body.decode("latin-1")
    headers.append(("opc-request-id", _echoed_id(text, earlier, right, fault)))
    if fault.status == 200:
        return replace(response, headers=tuple(headers), reason=text)
    error = {"code": text, "message": text}
    body = json.dumps({**error, "errors": [error]}).encode()
    return Response(fault.status, body, tuple(headers), reason=text)


def _echoed_id(sent: str, earlier: str, right: str, fault: Fault) -> str:
    if fault.echo_id == "whole":
        return sent
    pattern = r"[A-Za-z0-9_-]{100,}"
    if fault.echo_id in ("earlier", "received"):
        # The signature of a token. A part of its payload is also in the token that the client sent.
        pattern = r"(?<=\.)[A-Za-z0-9_-]{100,}(?=\")"
    text = {"earlier": earlier, "received": right}.get(fault.echo_id, sent)
    runs: list[str] = re.findall(pattern, text)
    run = (runs or [""])[0][:100]
    if fault.echo_id == "pieces":
        return "/".join(run[n : n + 6] for n in range(0, 80, 6)).upper()
    return run


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _drip(writer: asyncio.StreamWriter, data: bytes, interval_s: float) -> None:
    for byte in data:
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(interval_s)


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _reset_stream(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:  # otherwise the client was faster
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _contexts(issuer: pki.Authority, hosts: Sequence[str]) -> dict[str, ssl.SSLContext]:
    """Return TLS contexts by name: "good" and one for each TLS fault."""
    good = pki.server_chain(issuer, hosts)
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    unknown = pki.authority("Nobody's Root")
    return {
        "good": pki.server_context(*good),
        "tls_old": pki.server_context(*good, old=True),
        "tls_expired": pki.server_context(*pki.server_chain(issuer, hosts, end=yesterday)),
        "tls_wrong_name": pki.server_context(*pki.server_chain(issuer, ["wrong.example"])),
        "tls_unknown_ca": pki.server_context(*pki.server_chain(unknown, hosts)),
    }


async def serve(folder: Path) -> None:
    state = State.new()
    (folder / "ca.pem").write_text(pki.cert_pem(state.tls.certificate))
    (folder / "cluster-ca.pem").write_text(pki.cert_pem(state.cluster_ca.certificate))
    (folder / "token-key.pem").write_text(_registry_certificate(state))
    standin = StandIn(state)
    standin.match_listeners()
    control = await asyncio.start_unix_server(standin.control, folder / "control")
    print("ready", flush=True)
    async with control:
        await control.serve_forever()


def _registry_certificate(state: State) -> str:
    """Return the certificate with which docker-registry verifies its tokens."""
    return pki.cert_pem(pki.authority("Stand-in Tokens", state.token_key).certificate)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Path(sys.argv[1])))
