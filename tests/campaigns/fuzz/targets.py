"""Fuzz targets: one function per input. It accepts any bytes and raises only if the program has a bug.

Each function allows the expected errors and checks the results. It returns whether the program accepted
the input.
"""

import base64
import contextlib
import json
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import Any
from unittest import mock

from provider.auth.imds import region_info
from provider.auth.instance_principal import InstanceCertificate
from provider.auth.kubeconfig import Kubeconfig, Unusable, parse
from provider.auth.oci_files import resource_environment, user_profile
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
    BadResourcePrincipal,
    BadSettings,
    BadUserPrincipal,
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
from provider.net.http import MAX_BODY, Answer, Connection, Failure, Origin
from provider.net.retry import retry_after
from provider.net.tls import proxy_for
from provider.ocir.hosts import claimed_realm_domain, is_ocir
from provider.ocir.token import MAX_EXPIRES_IN, is_token, request_token
from provider.plugin import call
from provider.plugin import docker_helper as docker_credential
from provider.plugin.request import API_VERSION, KIND, Request, parse_request
from provider.settings import Settings, settings_from_environment, settings_from_file
from tests.campaigns.fuzz import oracle
from tests.cloud import pki
from tests.cloud.model import COMPARTMENT, INSTANCE, TENANCY

ORIGIN = Origin("http", "localhost", 80)
_KEY = session_key()
_BUFFERED = 64 * 1024  # a socket accepts this much without a reader


# An instance's certificate and key, as from the metadata service.
_NAME = pki.instance_name(INSTANCE, COMPARTMENT, TENANCY)
KEY = pki.pem_of(_KEY).encode()
CERTIFICATE = pki.cert_pem(pki.authority("Fuzz", _KEY).issue(_NAME, _KEY)).encode()


class Signed(Exception):
    """The program requested a token: it would have sent a signature."""


def request(data: bytes) -> bool:
    """Standard input."""
    with contextlib.suppress(BadRequest):
        check_image(parse_request(data).image)
        return True
    return False


def image(data: bytes) -> bool:
    """An image reference."""
    with contextlib.suppress(BadRequest):
        check_image(parse_image(_text(data)))
        return True
    return False


def check_image(parsed: Image) -> None:
    """Check that an image is safe in a request line, a header and a response."""
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


def host(data: bytes) -> bool:
    """An image name of an attacker. Nothing is signed for it unless its host is OCIR's."""
    text = _text(data)
    realm_domain = "acme.cloud"
    assert is_ocir(text, ()) == oracle.may_sign(text)
    assert (claimed_realm_domain(text) == realm_domain) <= oracle.may_sign(text, realm_domain)
    name = text if "/" in text else f"{text}/ns/repo"
    try:
        parsed = parse_image(name)
    except BadRequest:
        return False
    assert parsed.host == oracle.registry_of(name)
    signed = signs_for(parsed, realm_domain)
    assert signed == oracle.may_sign(parsed.host, realm_domain)
    return signed


def signs_for(parsed: Image, realm_domain: str) -> bool:
    """Report whether a call on an instance of this realm sends a signature to the image's registry."""
    invocation = Invocation(Settings(), {}, Deadline(5), Log("error"))
    region = RegionInfo("eu-frankfurt-1", realm_domain)
    with (
        mock.patch.object(call, "instance_region", return_value=region),
        mock.patch.object(call, "get_or_fetch", side_effect=Signed),
    ):
        try:
            response = call.get_response(Request(parsed), invocation)
        except Signed:
            return True
    assert json.loads(response.to_json())["auth"] == {}
    return False


def pattern(data: bytes) -> bool:
    """A pattern of OCIR_HOSTS, a space and a host."""
    text, _, name = _text(data).partition(" ")
    parsed = parse_host_pattern(text)
    if parsed is None:
        return False
    assert text.isascii()
    assert "*" not in text.partition(":")[0].split(".")[-2:]
    plain = not oracle.may_sign(name)
    if is_ocir(name, (parsed,)) and plain:
        assert name.isascii()
        assert oracle.pattern_matches(text, name)
        if oracle.is_address(name):
            assert name.partition(":")[0] == "127.0.0.1"
    return is_ocir(name, (parsed,))


def environment(data: bytes) -> bool:
    """Environment variables, separated by NUL."""
    with contextlib.suppress(BadSettings):
        check_settings(settings_from_environment(_variables(data)))
        return True
    return False


def _variables(data: bytes) -> dict[str, str]:
    parts = [part.partition("=") for part in os.fsdecode(data).split("\0")]
    return {name: value for name, _, value in parts}


def profile(data: bytes) -> bool:
    """An OCI config file. It can name only files of its directory, so no device is read."""
    with _file(data.replace(b"/", b"")) as file, contextlib.suppress(BadUserPrincipal):
        assert re.fullmatch("[0-9a-f]{64}", user_profile(str(file), None).identity)
        return True
    return False


def resource(data: bytes) -> bool:
    """The environment of a resource principal, without file names."""
    with contextlib.suppress(BadResourcePrincipal):
        found = resource_environment(_variables(data.replace(b"/", b"")))
        assert all(name.startswith("OCI_RESOURCE_PRINCIPAL_") for name in found.values)
        assert re.fullmatch("[0-9a-f]{64}", found.identity)
        return bool(found.values)
    return False


_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm"))


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[Path]:
    """A file of this process that only its user can read."""
    file = _FOLDER / str(os.getpid())
    file.touch(0o600)
    file.write_bytes(data)
    try:
        yield file
    finally:
        file.unlink()


def yaml(data: bytes) -> bool:
    """A settings file."""
    with _file(data) as file, contextlib.suppress(BadSettings):
        check_settings(settings_from_file(str(file)))
        return True
    return False


def check_settings(settings: Settings) -> None:
    """Check what the rest of the program assumes about settings."""
    assert 1 <= settings.deadline_seconds <= 55
    assert settings.registry_protocol in ("http", "https")
    assert settings.registry_token_path.startswith("/")
    for text in (settings.registry_token_path, settings.default_user):
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text
    assert ":" not in settings.default_user
    assert settings.ocir_auth_method in oracle.AUTH_METHODS
    pod, node = (settings.for_caller(has).ocir_auth_method for has in (True, False))
    if settings.ocir_auth_method == oracle.AUTH_METHODS[-1]:
        assert (pod, node) == ("WORKLOAD_IDENTITY", "INSTANCE_PRINCIPAL")
    else:
        assert pod == node == settings.ocir_auth_method
    Log(settings.log_level)


def cache_file(data: bytes) -> bool:
    """A file of the credential cache."""
    folder = os.open(_FOLDER, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with _file(data) as file:
            return entry(tmpfs.Store(folder, "").read(file.name))
    except tmpfs.CacheUnavailable:
        return False
    finally:
        os.close(folder)


def entry(content: dict[str, Any] | None) -> bool:
    """The parsed contents of a file of the credential cache."""
    tokens = cached_tokens(content)
    for cached in tokens:
        assert is_token(cached.token.text)
        assert 0 < cached.token.expires_in <= MAX_EXPIRES_IN
        assert 0 <= cached.age <= MAX_EXPIRES_IN
    failure = read_failure(content)
    if failure:
        assert failure[0].line().isprintable()
        assert isinstance(failure[1], float)
    return bool(tokens or failure)


def answer(data: bytes) -> bool:
    """The bytes of a server's answer: read within its limits, and parsed as token, region and refusal."""
    received = receive(data)
    if received is None:
        return False
    assert len(received.body) <= MAX_BODY
    assert received.describe().isprintable()
    assert 0 <= retry_after(received) < 1e7
    with contextlib.suppress(ClockSkew):
        received.check_clock()
    content(received.body)
    return token(received)


def receive(data: bytes) -> Answer | None:
    """Parse `data` as an answer; None if it is not one."""
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


def helper(data: bytes) -> bool:
    """The input of a container tool to the credential helper."""
    registry = docker_credential._host(_text(data), Settings())
    if registry is not None and is_ocir(registry, ()):
        assert oracle.may_sign(registry)
        assert registry in _text(data)
        return True
    return False


def account(data: bytes) -> bool:
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
        return True
    return False


def cluster(data: bytes) -> bool:
    """A kubeconfig, or metadata with the API server: the destination of a service-account token."""
    with contextlib.suppress(ClusterUnknown, Unusable):
        try:
            kubeconfig = parse(data, "/none/kubelet.conf")
        except Unusable:
            kubeconfig = Kubeconfig("", CERTIFICATE.decode(), "a file")
        found = find_cluster(Settings(), lambda: kubeconfig, lambda: data, lambda _: None)
        assert found.host.isascii()
        assert not set(found.host) & set(" /\\@?#%\r\n")
        context(found)
        return True
    return False


class _Answers(Client):
    """A client with a fixed answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(ORIGIN, Deadline(5), RegistryUnreachable, ())
        self._answer = answer

    def request(self, *_: object, **__: object) -> Answer:
        return self._answer


def token(received: Answer) -> bool:
    """An answer of the token endpoint."""
    with contextlib.suppress(TokenMalformed, TokenRefused, ClockSkew):
        given = request_token(_Answers(received), "/", Signer("x", _KEY))
        assert is_token(given.text)
        assert 0 < given.expires_in <= 30 * 24 * 3600
        return True
    return False


def token_body(data: bytes) -> bool:
    """The body of a 200 of the token endpoint."""
    return token(Answer(200, Message(), data, "GET https://x/", 0.0, "none"))


def content(data: bytes) -> bool:
    """An answer of /instance/regionInfo. It names the host that receives the node's identity."""
    with contextlib.suppress(ImdsUnusable):
        where = region_info(data)
        name = f"auth.{where.region}.{where.realm_domain}"
        assert name == name.lower()
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-.")
        assert "." not in where.region
        assert not oracle.is_address(where.realm_domain)
        return True
    return False


def certificate(data: bytes) -> bool:
    """The metadata service's certificate and key, separated by NUL."""
    pem, _, key = data.partition(b"\0")
    if text := pem_body(pem):
        assert text.isascii()
        assert not set(text) & set(" \r\n-")
    with contextlib.suppress(ImdsUnusable):
        InstanceCertificate.parse(pem, key).signer.sign_post("/", b"{}")
        return True
    return False


def proxy(data: bytes) -> bool:
    """HTTPS_PROXY, a NUL and NO_PROXY."""
    url, _, no_proxy = os.fsdecode(data).partition("\0")
    with contextlib.suppress(BadSettings):
        found = proxy_for("fra.ocir.io", {"HTTPS_PROXY": url, "NO_PROXY": no_proxy})
        if found is None:
            return False
        assert 0 < found.port < 65536
        assert not set(found.authorization or "") & set("\r\n")
        assert found.host
        assert found.host.isascii()
        return True
    return False


def log(data: bytes) -> bool:
    """Text in the log. It never makes a second line or another field."""
    text = os.fsdecode(data)
    log = Log("error")
    log.write("error", text, {"image": text, "code": ProviderError(text, text).line()})
    (line,) = log.lines
    assert line.isprintable()
    line.encode()
    return True


TARGETS: dict[str, Callable[[bytes], bool]] = {
    target.__name__: target
    for target in (
        request,
        image,
        host,
        pattern,
        environment,
        yaml,
        profile,
        resource,
        cache_file,
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
