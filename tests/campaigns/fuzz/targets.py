"""One function for each way in: it takes any bytes, and raises only when the program is wrong.

Each lets through the errors that the program may raise there, and asserts what must hold of what it
gives back.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any
from unittest import mock

from provider.auth.imds import region_info
from provider.auth.instance_principal import InstanceCertificate
from provider.auth.kubeconfig import Kubeconfig, Unusable, parse
from provider.auth.principal import pem_body
from provider.auth.region import RegionInfo
from provider.auth.service_account import service_account
from provider.auth.session_key import session_key
from provider.auth.signer import Signer
from provider.auth.workload_identity import context, find_cluster
from provider.cache import tmpfs
from provider.cache.entries import cached_tokens, read_failure
from provider.errors import (
    BadRequest,
    BadSettings,
    ClockSkew,
    ClusterUnknown,
    ImdsUnusable,
    NoServiceAccountToken,
    ProviderError,
    RegistryUnreachable,
    TokenMalformed,
    TokenRefused,
)
from provider.image import Image, parse_image
from provider.invocation import Invocation
from provider.log import Log
from provider.net.client import Client
from provider.net.deadline import Deadline
from provider.net.hostname import parse_host_pattern
from provider.net.http import (
    MAX_BODY,
    Answer,
    Connection,
    Failure,
    Origin,
)
from provider.net.retry import retry_after
from provider.net.tls import proxy_for
from provider.ocir.hosts import claimed_realm_domain, is_ocir
from provider.ocir.token import MAX_EXPIRES_IN, is_token, request_token
from provider.plugin import credentials
from provider.plugin import docker_helper as docker_credential
from provider.plugin.request import API_VERSION, KIND, Request, parse_request
from provider.settings import SETTINGS, Settings, settings_from_environment, settings_from_file
from tests.campaigns.fuzz import oracle
from tests.cloud import pki
from tests.cloud.model import COMPARTMENT, INSTANCE, TENANCY

ORIGIN = Origin("http", "localhost", 80)
_KEY = session_key()
_BUFFERED = 64 * 1024  # so much a socket takes without a reader


# An instance's certificate and key, as the metadata service has them.
_NAME = pki.instance_name(INSTANCE, COMPARTMENT, TENANCY)
KEY = pki.pem_of(_KEY).encode()
CERTIFICATE = pki.cert_pem(pki.authority("Fuzz", _KEY).issue(_NAME, _KEY)).encode()


class Signed(Exception):
    """A token was asked for: a signature would have gone out."""


def request(data: bytes) -> None:
    """Standard input."""
    with contextlib.suppress(BadRequest):
        check_image(parse_request(data).image)


def image(data: bytes) -> None:
    """An image reference."""
    with contextlib.suppress(BadRequest):
        check_image(parse_image(_text(data)))


def check_image(parsed: Image) -> None:
    """What may go into a request line, a header, a response."""
    for part in (parsed.host, parsed.repository, parsed.reference):
        assert part
        assert part.isascii()
        assert part.isprintable()
        assert not set(part) & set(' "\\?#%')
    assert ".." not in parsed.repository.split("/")
    again = f"{parsed.host}/{parsed.repository}"
    again += f":{parsed.tag}" if parsed.tag else ""
    again += f"@{parsed.digest}" if parsed.digest else ""
    if parsed.host != "docker.io":
        assert parse_image(again) == parsed


def host(data: bytes) -> None:
    """An image name of an attacker's choice: is anything signed for it that must not be?"""
    text = _text(data)
    realm_domain = "acme.cloud"
    assert is_ocir(text, ()) == oracle.may_sign(text)
    assert (claimed_realm_domain(text) == realm_domain) <= oracle.may_sign(text, realm_domain)
    name = text if "/" in text else f"{text}/ns/repo"
    try:
        parsed = parse_image(name)
    except BadRequest:
        return
    assert parsed.host == oracle.registry_of(name)
    assert signs_for(parsed, realm_domain) == oracle.may_sign(parsed.host, realm_domain)


def signs_for(parsed: Image, realm_domain: str) -> bool:
    """Report whether a call on an instance of this realm sends a signature to the image's registry."""
    invocation = Invocation(Settings(), {}, Deadline(5), Log("error"))
    region = RegionInfo("eu-frankfurt-1", realm_domain)
    with (
        mock.patch.object(credentials, "instance_region", return_value=region),
        mock.patch.object(credentials, "get_or_fetch", side_effect=Signed),
    ):
        try:
            response = credentials.get_response(Request(parsed), invocation)
        except Signed:
            return True
    assert json.loads(response.to_json())["auth"] == {}
    return False


def pattern(data: bytes) -> None:
    """A pattern of OCIR_HOSTS, a space, a host."""
    text, _, name = _text(data).partition(" ")
    parsed = parse_host_pattern(text)
    if parsed is None:
        return
    assert text.isascii()
    assert "*" not in text.partition(":")[0].split(".")[-2:]
    plain = not oracle.may_sign(name)
    if is_ocir(name, (parsed,)) and plain:
        assert name.isascii()
        assert oracle.pattern_covers(text, name)
        if oracle.is_address(name):
            assert name.partition(":")[0] == "127.0.0.1"


def environment(data: bytes) -> None:
    """Environment variables, separated by NUL, in the order of SETTINGS."""
    values = os.fsdecode(data).split("\0")
    names = [key.env for key in SETTINGS]
    with contextlib.suppress(BadSettings):
        check_settings(settings_from_environment(dict(zip(names, values, strict=False))))


_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm"))


def yaml(data: bytes) -> None:
    """A settings file."""
    file = _FOLDER / f"{os.getpid()}.yaml"
    file.write_bytes(data)
    try:
        with contextlib.suppress(BadSettings):
            check_settings(settings_from_file(str(file)))
    finally:
        file.unlink()


def check_settings(settings: Settings) -> None:
    """What the rest of the program relies on."""
    assert 1 <= settings.deadline_seconds <= 55
    assert settings.registry_protocol in ("http", "https")
    assert settings.registry_token_path.startswith("/")
    for text in (settings.registry_token_path, settings.default_user):
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text
    assert ":" not in settings.default_user
    assert settings.ocir_auth_method in ("INSTANCE_PRINCIPAL", "USER_PRINCIPAL")
    Log(settings.log_level)


def stored(data: bytes) -> None:
    """A file of the store."""
    folder = os.open(_FOLDER, os.O_RDONLY | os.O_DIRECTORY)
    name = f"{os.getpid()}.entry"
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=folder)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    try:
        content = tmpfs.Store(folder, "").read(name)
    except tmpfs.CacheUnavailable:
        return
    finally:
        os.unlink(name, dir_fd=folder)
        os.close(folder)
    entry(content)


def entry(content: dict[str, Any] | None) -> None:
    """The contents of a file of the store."""
    for cached in cached_tokens(content):
        assert is_token(cached.token.text)
        assert 0 < cached.token.expires_in <= MAX_EXPIRES_IN
        assert 0 <= cached.age <= MAX_EXPIRES_IN
    if failure := read_failure(content):
        assert failure[0].line().isprintable()
        assert isinstance(failure[1], float)


def answer(data: bytes) -> None:
    """A server's answer, byte for byte: read within its bounds, and as a token, a region, a refusal."""
    received = receive(data)
    if received is None:
        return
    assert len(received.body) <= MAX_BODY
    assert received.describe().isprintable()
    assert 0 <= retry_after(received) < 1e7
    with contextlib.suppress(ClockSkew):
        received.check_clock()
    content(received.body)
    token(received)


def receive(data: bytes) -> Answer | None:
    """What `data` is as an answer; None when it is none."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(ORIGIN)
        connection._socket, connection._asked = ours, "GET http://localhost/"
        theirs.sendall(data[:_BUFFERED])
        theirs.shutdown(socket.SHUT_WR)
        try:
            return connection.receive(MAX_BODY, Deadline(5))
        except Failure:
            return None


def helper(data: bytes) -> None:
    """What a container tool writes to the credential helper."""
    registry = docker_credential._host(_text(data), Settings())
    if registry is not None and is_ocir(registry, ()):
        assert oracle.may_sign(registry)
        assert registry in _text(data)


def account(data: bytes) -> None:
    """The claims of a service account's token."""
    payload = base64.urlsafe_b64encode(data).rstrip(b"=")
    asked = {"apiVersion": API_VERSION, "kind": KIND, "image": "fra.ocir.io/ns/repo"}
    line = json.dumps({**asked, "serviceAccountToken": f"e30.{payload.decode()}.c2ln"})
    with contextlib.suppress(BadRequest, NoServiceAccountToken):
        found = service_account(parse_request(line.encode()).service_account_token)
        assert found.expires_in >= 1
        assert f"{found.namespace}/{found.name}".isprintable()
        assert found.token in line
        assert found.token not in found.identity


def cluster(data: bytes) -> None:
    """What a kubeconfig and the instance's metadata say of the cluster: where an account's token is sent."""
    with contextlib.suppress(ClusterUnknown, Unusable):
        try:
            told = parse(data, "/none/kubelet.conf")
        except Unusable:
            told = Kubeconfig("", CERTIFICATE.decode(), "a file")
        found = find_cluster(Settings(), lambda: told, lambda: data, lambda _: None)
        assert found.host.isascii()
        assert not set(found.host) & set(" /\\@?#%\r\n")
        context(found)


class _Answers(Client):
    """A client whose server has answered already."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(ORIGIN, Deadline(5), RegistryUnreachable, ())
        self._answer = answer

    def request(self, *_: object, **__: object) -> Answer:
        return self._answer


def token(received: Answer) -> None:
    """An answer of the token endpoint."""
    with contextlib.suppress(TokenMalformed, TokenRefused, ClockSkew):
        given = request_token(_Answers(received), "/", Signer("x", _KEY))
        assert is_token(given.text)
        assert 0 < given.expires_in <= 30 * 24 * 3600


def token_body(data: bytes) -> None:
    """The body of a token endpoint's 200."""
    token(Answer(200, Message(), data, "GET https://x/", 0.0, "none"))


def content(data: bytes) -> None:
    """An answer of /instance/regionInfo: it names the host that the node's identity is sent to."""
    with contextlib.suppress(ImdsUnusable):
        where = region_info(data)
        name = f"auth.{where.region}.{where.realm_domain}"
        assert name == name.lower()
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-.")
        assert "." not in where.region
        assert not oracle.is_address(where.realm_domain)


def certificate(data: bytes) -> None:
    """The metadata service's certificate and key, separated by NUL."""
    pem, _, key = data.partition(b"\0")
    with contextlib.suppress(ImdsUnusable):
        InstanceCertificate.parse(pem, key).signer.sign_post("/", b"{}")
    if text := pem_body(pem):
        assert text.isascii()
        assert not set(text) & set(" \r\n-")


def proxy(data: bytes) -> None:
    """HTTPS_PROXY, a NUL, NO_PROXY."""
    url, _, no_proxy = os.fsdecode(data).partition("\0")
    with contextlib.suppress(BadSettings):
        found = proxy_for("fra.ocir.io", {"HTTPS_PROXY": url, "NO_PROXY": no_proxy})
        if found is None:
            return
        assert 0 < found.port < 65536
        assert not set(found.authorization or "") & set("\r\n")
        assert found.host
        assert found.host.isascii()


def log(data: bytes) -> None:
    """Texts that reach the log: never a second line, never a second field."""
    text = os.fsdecode(data)
    log = Log("error")
    log.write("error", text, {"image": text, "code": ProviderError(text, text).line()})
    (line,) = log.lines
    assert line.isprintable()
    line.encode()


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        request,
        image,
        host,
        pattern,
        environment,
        yaml,
        stored,
        helper,
        account,
        cluster,
        answer,
        token_body,
        content,
        certificate,
        proxy,
        log,
    )
}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
